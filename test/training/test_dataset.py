# SPDX-License-Identifier: Apache-2.0
"""Training sets: targets for every frame, batches without copies, features that keep meaning."""

from pathlib import Path

import numpy as np
import pytest
import torch
from faces_made import face_landmarks
from tracks_made import whole_tracks

from fer_training.clips import Clips
from fer_training.dataset import IGNORED, TrainingSet
from fer_training.recipes import CLASSES
from fer_training.tracks import Track


def made_tracks() -> list[Track]:
    intensity = np.linspace(0, 1, 20).astype(np.float32)
    return [
        Track(face_landmarks(frames=20, seed=1), 'happiness', 'a', 30.0, intensity),
        Track(face_landmarks(frames=5, seed=2), 'fear', 'b', 12.5, intensity[:5] + 0.5),
        Track(face_landmarks(frames=8, seed=3), 'neutral', 'b', 30.0, np.ones(8, np.float32)),
    ]


def test_tracks_come_at_one_rate_with_a_target_for_every_frame() -> None:
    data = whole_tracks(made_tracks())
    assert data.features.shape == (3, 2, 20, 51)  # the longest: 20 frames at 30 Hz
    happy = CLASSES.index('happiness')
    assert data.targets[0].tolist() == [0] * 2 + [IGNORED] * 8 + [happy] * 10
    assert (data.targets[1, 13:] == IGNORED).all()  # filled up
    assert (data.targets[1, :13] != IGNORED).any()
    assert data.has_frame_targets


def test_frames_without_a_face_are_filled_from_their_neighbours() -> None:
    whole = face_landmarks(frames=9, seed=1)
    whole[:, :, 0] += np.linspace(0, 8, 9)[:, None]  # moves at a constant speed
    gap = whole.copy()
    gap[3:5] = 0.0
    found = np.ones(9, bool)
    found[3:5] = False
    seen = whole_tracks([Track(gap, 'fear', 'a', 30.0, found=found)], normalization='centred')
    assert seen.features.shape[2] == 9
    for frame in (2, 5):
        expected = whole_tracks([Track(whole, 'fear', 'a', 30.0)], normalization='centred')
        np.testing.assert_allclose(seen.features[0, :, frame], expected.features[0, :, frame])
    between = seen.features[0, :, 2:6]
    step = between[:, 1] - between[:, 0]
    np.testing.assert_allclose(between[:, 3] - between[:, 2], step, atol=1e-4)


def test_what_teaches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match='fear'):
        whole_tracks(made_tracks(), classes=('neutral', 'happiness'))
    with pytest.raises(ValueError, match='no tracks'):
        whole_tracks([])
    faceless = Track(np.zeros((4, 68, 2)), 'fear', 'z', 30.0, found=np.zeros(4, bool))
    with pytest.raises(ValueError, match='fear, z'):
        whole_tracks([faceless])
    with pytest.raises(ValueError, match="'track' needs whole clips"):
        whole_tracks(made_tracks(), normalization='track')


def test_memory_mapped_features_are_read_batch_by_batch(tmp_path: Path) -> None:
    features = np.random.default_rng(1).normal(size=(6, 2, 4, 51)).astype(np.float32)
    np.save(tmp_path / 'clips.npy', features)
    mapped = np.load(tmp_path / 'clips.npy', mmap_mode='r')
    clips = Clips(
        features=mapped, labels=np.arange(6) % 2, classes=('a', 'b'), subjects=('',) * 6,
        names=('',) * 6,
    )
    data = TrainingSet.of_clips(clips)
    assert isinstance(data.features, np.memmap) and not data.has_frame_targets
    batch, targets = data.__getitems__([4, 1])
    assert torch.equal(batch, torch.from_numpy(features[[4, 1]])) and targets.tolist() == [0, 1]
    one, target = data[5]
    assert torch.equal(one, torch.from_numpy(features[5])) and int(target) == 1
    batch += 1.0  # the batch is a copy of its own
    np.testing.assert_array_equal(np.asarray(mapped), features)
