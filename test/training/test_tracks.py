# SPDX-License-Identifier: Apache-2.0
"""Track files keep what is written and are refused by name when they are damaged."""

from pathlib import Path

import numpy as np
import pytest
from faces_made import face_landmarks

from fer_training.tracks import Track, TrackFileError, read_tracks, write_tracks


def made_tracks() -> list[Track]:
    return [
        Track(face_landmarks(frames=n, seed=n).astype(np.float32), label, f's{n}', rate,
              np.linspace(0, 1, n).astype(np.float32))
        for n, label, rate in ((20, 'happiness', 30.0), (7, 'neutral', 15.0), (31, 'fear', 60.0))
    ]


def test_write_then_read_is_exact(tmp_path: Path) -> None:
    write_tracks(tmp_path / 'tracks.npz', made_tracks())
    for before, after in zip(made_tracks(), read_tracks(tmp_path / 'tracks.npz'), strict=True):
        assert np.array_equal(before.landmarks, after.landmarks)
        assert np.array_equal(before.intensity, after.intensity)  # type: ignore[arg-type]
        assert (before.label, before.subject, before.frame_rate) == (
            after.label, after.subject, after.frame_rate
        )


@pytest.mark.parametrize('name', ['buhmap_tracks.npz', 'lse_gfe_tracks.npz'])
def test_the_shared_tracks_are_read(shared_data: Path, name: str) -> None:
    tracks = read_tracks(shared_data / name)
    assert len(tracks) > 200
    assert all(track.landmarks.shape[1:] == (68, 2) for track in tracks)
    assert all(track.intensity is None for track in tracks)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'fps': None}, 'lacks the arrays fps'),
        ({'length': np.array([20, 7, 30])}, '57 frames'),
        ({'length': np.array([58])}, 'disagree'),
        ({'landmarks': np.zeros((58, 51, 2))}, 'shape'),
        ({'landmarks': np.full((58, 68, 2), np.nan)}, 'finite'),
        ({'fps': np.array([30.0, 0.0, 30.0])}, 'fps'),
        ({'intensity': np.zeros(3)}, 'intensity'),
        ({'label': np.array([{}, {}, {}], dtype=object)}, 'Object|pickle'),
    ],
)
def test_damaged_files_are_refused_by_name(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    write_tracks(tmp_path / 'good.npz', made_tracks())
    with np.load(tmp_path / 'good.npz') as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= {name: array for name, array in change.items() if array is not None}
    for name in (name for name, array in change.items() if array is None):
        del arrays[name]
    np.savez(tmp_path / 'bad.npz', allow_pickle=True, **arrays)
    with pytest.raises(TrackFileError, match=f'bad.npz.*({message})'):
        read_tracks(tmp_path / 'bad.npz')
