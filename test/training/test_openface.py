# SPDX-License-Identifier: Apache-2.0
"""OpenFace's CSV files become tracks; files of another kind are refused by name."""

from pathlib import Path

import numpy as np
import pytest
from faces_made import face_landmarks

from fer_training.cli import main
from fer_training.openface import LANDMARK_COLUMNS, OpenFaceError, read_openface_csv
from fer_training.samples import Sample
from fer_training.tracks import read_tracks

ROWS = face_landmarks(frames=6)  # (6, 68, 2)


def write_csv(
    path: Path, columns: dict[str, list[float]], landmarks: np.ndarray = ROWS, *, space: str = ' '
) -> Path:
    """Write a CSV as FeatureExtraction does: all x, then all y, spaces before the names."""
    names = [*columns, *(f'x_{i}' for i in range(68)), *(f'y_{i}' for i in range(68))]
    lines = [f',{space}'.join(names)]
    for row, points in enumerate(landmarks):
        values = [values[row] for values in columns.values()]
        lines.append(', '.join(f'{value:.6g}' for value in [*values, *points.T.ravel()]))
    path.write_text('\n'.join(lines) + '\n', 'utf-8')
    return path


def standard_columns() -> dict[str, list[float]]:
    return {
        'frame': [1, 2, 3, 4, 5, 6],
        'face_id': [0] * 6,
        'timestamp': [0.0, 0.04, 0.08, 0.12, 0.16, 0.2],
        'confidence': [0.98] * 6,
        'success': [1] * 6,
    }


@pytest.mark.parametrize('space', ['', ' '])
def test_a_file_becomes_a_track(tmp_path: Path, space: str) -> None:
    columns = standard_columns()
    columns['success'][2] = 0
    columns['confidence'][4] = 0.2
    path = write_csv(tmp_path / 'a.csv', columns, space=space)
    track, = read_openface_csv(Sample(path=path, label='fear', subject='ann'))
    assert (track.label, track.subject) == ('fear', 'ann')
    assert track.frame_rate == pytest.approx(25.0)
    assert track.found is not None
    assert track.found.tolist() == [True, True, False, True, False, True]
    assert np.allclose(track.found_landmarks, ROWS[track.found], atol=1e-3)
    assert not track.landmarks[2].any()


def test_faces_become_tracks_of_their_own_with_missing_frames_as_gaps(tmp_path: Path) -> None:
    columns = standard_columns()
    columns['frame'] = [1, 1, 2, 4, 5, 9]
    columns['timestamp'] = [0.0, 0.0, 0.02, 0.06, 0.08, 0.16]
    columns['face_id'] = [0, 3, 0, 0, 3, 3]
    path = write_csv(tmp_path / 'a.csv', columns)
    first, second = read_openface_csv(Sample(path=path, subject='clip'))
    assert (first.subject, second.subject) == ('clip_0', 'clip_3')
    assert first.found is not None and first.found.tolist() == [True, True, False, True]
    assert second.found is not None and np.flatnonzero(second.found).tolist() == [0, 4, 8]
    assert first.frame_rate == second.frame_rate == pytest.approx(50.0)
    assert np.allclose(second.found_landmarks, ROWS[[1, 4, 5]], atol=1e-3)


def test_files_that_tell_nothing_but_landmarks_are_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / 'a.csv', {})
    track, = read_openface_csv(Sample(path=path), fallback_frame_rate=12.0)
    assert track.found is None and track.frame_rate == 12.0


def test_not_a_number_is_a_frame_without_a_face(tmp_path: Path) -> None:
    landmarks = ROWS.copy()
    landmarks[1, 5, 0] = np.nan
    track, = read_openface_csv(Sample(path=write_csv(tmp_path / 'a.csv', {}, landmarks)))
    assert track.found is not None and not track.found[1]
    assert np.isfinite(track.landmarks).all()


def test_the_command_imports_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    never = standard_columns()
    never['success'] = [0] * 6
    files = [
        write_csv(tmp_path / 'ann_fear.csv', standard_columns()),
        write_csv(tmp_path / 'ben_joy.csv', standard_columns()),
        write_csv(tmp_path / 'ben_none.csv', never),
    ]
    out = tmp_path / 'tracks.npz'
    assert main(['extract', '--openface', *map(str, files), '--layout', '{subject}_{label}',
                 '--out', str(out)]) == 0
    assert [(track.subject, track.label) for track in read_tracks(out)] == [
        ('ann', 'fear'), ('ben', 'joy')
    ]
    assert 'left out 1 recording without any face' in capsys.readouterr().err


def changed(**columns: list[float]) -> dict[str, list[float]]:
    return standard_columns() | columns


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        (changed(frame=[1, 2, 3, 3, 5, 6]), 'ascend'),
        (changed(frame=[1, 2, 3, 4, 5, 6.5]), 'whole'),
        (changed(frame=[1, 2, 3, 4, 5, 1e12]), 'reach'),
        (changed(timestamp=[0.2, 0.1, 0.1, 0.1, 0.1, 0.0]), 'timestamps'),
    ],
)
def test_impossible_frames_are_refused(
    tmp_path: Path, columns: dict[str, list[float]], message: str
) -> None:
    path = write_csv(tmp_path / 'a.csv', columns)
    with pytest.raises(OpenFaceError, match=f'a.csv is no OpenFace CSV.*{message}'):
        read_openface_csv(Sample(path=path))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', '136 columns'),
        (b'frame, confidence\n1, 1\n', 'lacks 136 of the 136 columns'),
        (','.join(LANDMARK_COLUMNS).encode() + b'\n', 'no rows'),
        (','.join(LANDMARK_COLUMNS).encode() + b'\n1,2\n', 'OpenFace CSV'),
        (','.join(LANDMARK_COLUMNS).encode() + b'\n' + b'x,' * 135 + b'x\n', 'OpenFace CSV'),
        (b'\xff\xfe\x00', 'OpenFace CSV'),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / 'a.csv').write_bytes(content)
    with pytest.raises(OpenFaceError, match=f'a.csv.*{message}'):
        read_openface_csv(Sample(path=tmp_path / 'a.csv'))


def test_a_missing_file_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['extract', '--openface', str(tmp_path / 'no.csv'), '--out', 'x.npz']) == 1
    error = capsys.readouterr().err
    assert 'no.csv does not exist' in error and error.count('\n') == 1
