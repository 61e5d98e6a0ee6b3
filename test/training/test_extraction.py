# SPDX-License-Identifier: Apache-2.0
"""Tracks come out of videos, image folders and trees of them; bad input gives one clear line."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_sets_made import small_frames, write_images, write_video
from faces_made import face_landmarks

from fer_perception.faces import Box
from fer_perception.faces.place import FacePlace
from fer_training import extraction
from fer_training.cli import main
from fer_training.extraction import ExtractionConfig, FaceFinder, extract_tracks
from fer_training.samples import Layout, Sample, at_other_depths, find_recordings
from fer_training.tracks import Track, TrackFileError, read_tracks, write_tracks

BLANK = np.full((180, 320, 3), 90, np.uint8)


@pytest.fixture(scope='module')
def frames(sample_clip: Path) -> list[np.ndarray]:
    return small_frames(sample_clip, count=4)


@pytest.fixture
def config(landmark_model_path: Path) -> ExtractionConfig:
    return ExtractionConfig(landmark_model=landmark_model_path)


def make_tree(root: Path, frames: list[np.ndarray]) -> None:
    """Write a video and image sequences of two people, one with a gap, one without a face."""
    write_video(root / 'happy' / 'anna' / 'one.mp4', frames, frame_rate=25.0)
    write_images(root / 'happy' / 'ben' / 'two', [frames[0], BLANK, frames[1], frames[2]])
    write_images(root / 'sad' / 'ben' / 'three', frames[:2])
    write_images(root / 'sad' / 'ben' / 'nobody', [BLANK, BLANK])
    (root / 'sad' / 'notes.txt').write_text('not a recording')


def extract(*arguments: str | Path) -> int:
    return main(['extract', *map(str, arguments)])


def test_a_tree_becomes_labelled_tracks_with_gaps_recorded(
    tmp_path: Path, frames: list[np.ndarray], landmark_model_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_tree(tmp_path / 'tree', frames)
    out = tmp_path / 'tracks.npz'
    code = extract(tmp_path / 'tree', '--layout', '{label}/{subject}/*', '--fps', '20',
                   '--out', out, '--workers', '1', '--landmark-model', landmark_model_path)
    assert code == 0
    tracks = read_tracks(out)
    assert [(track.label, track.subject, len(track.landmarks)) for track in tracks] == [
        ('happy', 'anna', 4), ('happy', 'ben', 4), ('sad', 'ben', 2)
    ]
    assert [track.frame_rate for track in tracks] == [25.0, 20.0, 20.0]
    assert tracks[0].found is None and tracks[2].found is None
    assert tracks[1].found is not None
    assert tracks[1].found.tolist() == [True, False, True, True]
    assert not tracks[1].landmarks[1].any()
    assert tracks[1].found_times_s.tolist() == pytest.approx([0.0, 0.1, 0.15])
    assert 'left out 1 recording without any face' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ['tracks.npz', 'tree']


def test_landmarks_lie_on_the_face(
    tmp_path: Path, frames: list[np.ndarray], config: ExtractionConfig
) -> None:
    write_images(tmp_path / 'clip', frames)
    track, = extract_tracks([Sample(path=tmp_path / 'clip')], config=config,
                            parts=tmp_path / 'parts', workers=1)
    assert track is not None
    eyes = track.landmarks[:, 42:48].mean(1) - track.landmarks[:, 36:42].mean(1)  # (F, 2)
    assert (eyes[:, 0] > 20).all() and (abs(eyes[:, 1]) < eyes[:, 0] / 3).all()
    assert (track.landmarks.min((0, 1)) > 0).all()
    assert (track.landmarks.max((0, 1)) < (320, 180)).all()


def test_the_file_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, frames: list[np.ndarray], landmark_model_path: Path
) -> None:
    make_tree(tmp_path / 'tree', frames)
    for workers in '12':
        assert extract(tmp_path / 'tree', '--workers', workers, '--label', 'happiness',
                       '--out', tmp_path / f'{workers}.npz',
                       '--landmark-model', landmark_model_path) == 0
    assert (tmp_path / '1.npz').read_bytes() == (tmp_path / '2.npz').read_bytes()


def test_an_interrupted_extraction_goes_on(
    tmp_path: Path, frames: list[np.ndarray], config: ExtractionConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = []
    for name in 'abc':
        write_images(tmp_path / name, frames[:2])
        samples.append(Sample(path=tmp_path / name, label=name))
    searched = []
    find = FaceFinder.find

    def counted(self: FaceFinder, grey: np.ndarray, previous: FacePlace | None) -> object:
        searched.append(grey)
        if interrupt_at is not None and len(searched) == interrupt_at:
            raise KeyboardInterrupt
        return find(self, grey, previous)

    monkeypatch.setattr(FaceFinder, 'find', counted)
    parts = tmp_path / 'parts'
    interrupt_at: int | None = 4  # in the second frame of b
    with pytest.raises(KeyboardInterrupt):
        extract_tracks(samples, config=config, parts=parts, workers=1)
    assert len(list(parts.iterdir())) == 1
    interrupt_at = None
    searched.clear()
    resumed = extract_tracks(samples, config=config, parts=parts, workers=1)
    assert len(searched) == 4  # of b and c
    shutil.rmtree(parts)
    whole = extract_tracks(samples, config=config, parts=parts, workers=1)
    for first, second in zip(resumed, whole, strict=True):
        assert first is not None and second is not None
        assert np.array_equal(first.landmarks, second.landmarks)


def test_a_changed_recording_or_setting_is_extracted_anew(
    tmp_path: Path, frames: list[np.ndarray], config: ExtractionConfig
) -> None:
    sample = Sample(path=tmp_path / 'clip')
    parts = tmp_path / 'parts'
    write_images(sample.path, frames[:1])
    extract_tracks([sample], config=config, parts=parts, workers=1)
    write_images(sample.path, frames[:2])
    track, = extract_tracks([sample], config=config, parts=parts, workers=1)
    assert track is not None and len(track.landmarks) == 2
    slower = ExtractionConfig(landmark_model=config.landmark_model, frame_rate=10.0)
    track, = extract_tracks([sample], config=slower, parts=parts, workers=1)
    assert track is not None and track.frame_rate == 10.0


def test_of_several_faces_the_largest_then_the_nearest_counts() -> None:
    small, large = (Box(0.0, 0.0, 50.0, 50.0), 1.0), (Box(100.0, 0.0, 180.0, 80.0), 0.5)
    choose = extraction._choose
    assert choose([small, large], None).side == 80
    assert choose([small, large], FacePlace(x=30.0, y=30.0, side=60.0)).side == 50


def test_the_negative_clip_shows_no_face(
    tmp_path: Path, no_face_clip: Path, config: ExtractionConfig
) -> None:
    write_images(tmp_path / 'clip', small_frames(no_face_clip))
    tracks = extract_tracks([Sample(path=tmp_path / 'clip')], config=config,
                            parts=tmp_path / 'parts', workers=1)
    assert tracks == [None]


def test_labels_come_from_a_table(
    tmp_path: Path, frames: list[np.ndarray], landmark_model_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_tree(tmp_path / 'tree', frames[:2] + frames[:2])
    table = tmp_path / 'labels.csv'
    table.write_text('file, label, subject\ntree/happy/anna/one.mp4, joy, 7\n'
                     'tree/sad/ben/three, grief,\n', 'utf-8')
    out = tmp_path / 'tracks.npz'
    assert extract(tmp_path / 'tree', '--labels', table, '--subject', 'x', '--workers', '1',
                   '--out', out, '--landmark-model', landmark_model_path) == 0
    assert [(track.label, track.subject) for track in read_tracks(out)] == [
        ('joy', '7'), ('grief', 'x')
    ]
    assert 'left out 2 recordings not in' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('pattern', 'path', 'told'),
    [
        ('{label}/{subject}/*', 'a/happy/ann/clip.mp4', {'label': 'happy', 'subject': 'ann'}),
        ('{subject}/{label}', 's1/fear', {'label': 'fear', 'subject': 's1'}),
        ('{subject}_{label}_*', 'x/s1_fear_02.avi', {'label': 'fear', 'subject': 's1'}),
        ('{label}/*', 'x/fear/v1.5.mp4', {'label': 'fear'}),
        ('{subject}_{label}_*', 'x/fear.avi', None),
        ('a+b/{label}', 'aab/fear', None),
    ],
)
def test_layouts_tell_label_and_subject(
    pattern: str, path: str, told: dict[str, str] | None
) -> None:
    assert Layout(pattern).match(Path(path)) == told


def test_recordings_at_another_depth_than_the_layout_are_told(
    tmp_path: Path, frames: list[np.ndarray], landmark_model_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree, layout = tmp_path / 'tree', ('--layout', '{label}/{subject}/*')
    options = ('--out', tmp_path / 'tracks.npz', '--workers', '1', '--landmark-model',
               landmark_model_path)
    write_video(tree / 'happy' / 'anna' / 'one.mp4', frames[:2])
    assert extract(tree, *layout, *options) == 0
    assert extract(tree / 'happy' / 'anna' / 'one.mp4', *layout, *options) == 0  # no tree
    assert 'deep' not in capsys.readouterr().err
    for loose in ('happy/two.mp4', 'happy/anna/monday/three.mp4'):
        write_video(tree / loose, frames[:2])
    assert extract(tree, *layout, *options) == 0
    line, = (line for line in capsys.readouterr().err.splitlines() if 'deep' in line)
    assert '2 recordings not 3 deep' in line and "'{label}/{subject}/*'" in line
    assert 'two.mp4' in line and 'three.mp4' in line and 'one.mp4' not in line


def test_a_source_that_is_a_recording_has_no_depth(tmp_path: Path) -> None:
    layout = Layout('{label}/{subject}/*')
    folder, below = tmp_path / 'a', tmp_path / 'a' / 'b' / 'c' / 'd'
    assert at_other_depths([folder], [folder], layout) == []
    assert at_other_depths([folder, below], [folder], layout) == [folder]
    assert at_other_depths([below], [folder, folder / 'b'], layout) == []  # of the one it fits


@pytest.mark.parametrize(
    'pattern', ['', '*/*', '{name}/*', '{label}/{label}', '{label}/{Subject}']
)
def test_layouts_that_tell_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match='layout'):
        Layout(pattern)


def test_recordings_are_found_in_natural_order(tmp_path: Path) -> None:
    for name in ('clip10', 'clip2'):
        write_images(tmp_path / name, [None])
    (tmp_path / 'a.AVI').touch()
    (tmp_path / '.hidden.mp4').touch()
    found = find_recordings([tmp_path, tmp_path / 'clip2'])
    assert [path.name for path in found] == ['a.AVI', 'clip2', 'clip10']


def test_bad_inputs_give_one_line(
    tmp_path: Path, frames: list[np.ndarray], landmark_model_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_images(tmp_path / 'good', frames[:1])
    write_images(tmp_path / 'broken', [frames[0], None])
    write_images(tmp_path / 'nobody', [BLANK])
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'broken.mp4').write_bytes(b'no video')
    (tmp_path / 'model.dat').write_bytes(b'no model')
    (tmp_path / 'labels.csv').write_text('a,b\n1,2\n')
    model = ('--landmark-model', landmark_model_path, '--workers', '1')
    good = tmp_path / 'good'
    for arguments, message in [
        ((tmp_path / 'empty', *model), 'holds no video'),
        ((tmp_path / 'missing', *model), 'does not exist'),
        ((tmp_path / 'good' / '001.png', *model), 'single image'),
        ((tmp_path / 'broken', *model), '002.png.* remove or replace'),
        ((tmp_path / 'broken.mp4', *model), 'broken.mp4.* no video'),
        ((tmp_path / 'nobody', *model), 'no recording shows a face'),
        ((good, '--landmark-model', tmp_path / 'no.dat'), 'no landmark model at .*no.dat'),
        ((good, '--landmark-model', tmp_path / 'model.dat'), 'model.dat.* not a dlib'),
        ((good, *model, '--layout', '{label}_{subject}_*'), 'no path is like the layout'),
        ((good, *model, '--labels', tmp_path / 'labels.csv'), 'columns file, label, subject'),
        ((good, *model, '--labels', tmp_path / 'no.csv'), 'no.csv'),
        ((good, *model, '--fps', '0'), 'frame rate must be above 0'),
        ((good, *model, '--openface', 'x.csv'), 'either sources'),
        (model, 'either sources'),
    ]:
        assert extract(*arguments, '--out', tmp_path / 'out.npz') == 1
        lines = [
            line for line in capsys.readouterr().err.splitlines()
            if line and not line.startswith(('extract:', '\r', 'left out'))
        ]
        last = lines[-1]
        assert len([line for line in lines if line.startswith('fer_train')]) == 1
        assert 'Traceback' not in ''.join(lines)
        assert re.search(message, last), last
        assert not (tmp_path / 'out.npz').exists()


def test_track_files_keep_which_frames_were_found(tmp_path: Path) -> None:
    landmarks = face_landmarks(frames=3).astype(np.float32)
    found = np.array([True, False, True])
    whole = Track(landmarks, 'fear', 'a', 30.0)
    write_tracks(tmp_path / 'whole.npz', [whole])
    with np.load(tmp_path / 'whole.npz') as file:
        assert 'found' not in file.files
    write_tracks(tmp_path / 'gaps.npz', [whole, Track(landmarks, 'fear', 'a', 30.0, found=found)])
    first, second = read_tracks(tmp_path / 'gaps.npz')
    assert first.found is None and np.array_equal(first.landmarks, landmarks)
    assert second.found is not None and second.found.tolist() == found.tolist()
    assert not second.landmarks[1].any()
    assert np.array_equal(second.found_landmarks, landmarks[found])


def test_track_files_with_a_wrong_found_array_are_refused(tmp_path: Path) -> None:
    write_tracks(tmp_path / 'good.npz', [Track(face_landmarks(frames=3), 'fear', 'a', 30.0)])
    with np.load(tmp_path / 'good.npz') as file:
        arrays = {name: file[name] for name in file.files}
    for wrong in (np.ones(3), np.ones(2, bool)):
        np.savez(tmp_path / 'bad.npz', allow_pickle=True, **arrays, found=wrong)
        with pytest.raises(TrackFileError, match='found must be'):
            read_tracks(tmp_path / 'bad.npz')
    with pytest.raises(ValueError, match='no tracks'):
        write_tracks(tmp_path / 'none.npz', [])
