# SPDX-License-Identifier: Apache-2.0
"""The estimated intensity follows the true one of made and synthetic tracks, and says no more."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tracks_made import made_track

from fer_training.dataset import NEUTRAL_INTENSITY, SHOWN_INTENSITY
from fer_training.face_basis import load_face_basis
from fer_training.intensity import estimate_intensity, with_estimated_intensity
from fer_training.synthesis import synthesize_tracks


@pytest.mark.parametrize('label', ['happiness', 'sadness'])
def test_it_follows_a_mouth_that_moves_and_comes_back(label: str) -> None:
    track = made_track(label, 'a', seed=3, frames=60)
    assert track.intensity is not None
    estimated = estimate_intensity(track)
    assert estimated.dtype == np.float32 and estimated.min() >= 0 and estimated.max() == 1
    assert np.abs(estimated - track.intensity).mean() < 0.06
    shown = track.intensity >= 0.8
    assert (estimated[shown] >= SHOWN_INTENSITY).all()
    assert (estimated[:5] <= NEUTRAL_INTENSITY).all()


def test_size_place_and_mirror_of_a_face_do_not_matter() -> None:
    track = made_track('happiness', 'a', seed=3, frames=60)
    moved = replace(track, landmarks=track.landmarks * 1.7 + 40.0)
    np.testing.assert_allclose(estimate_intensity(moved), estimate_intensity(track), atol=1e-4)


def test_a_nod_does_not_end_the_expression() -> None:
    track = made_track('happiness', 'a', seed=3, frames=60)
    landmarks = track.landmarks.copy()
    landmarks[30:36] = 0.6 * landmarks[30:36] + 0.4 * landmarks[:1]
    estimated = estimate_intensity(replace(track, landmarks=landmarks))
    assert (estimated[25:40] >= 0.9).all()


def test_frames_without_a_face_show_nothing() -> None:
    track = made_track('happiness', 'a', seed=3, frames=60)
    found = np.ones(60, bool)
    found[30] = False
    estimated = estimate_intensity(replace(track, found=found))
    assert estimated[30] == 0 and estimated[29] > 0.9
    with pytest.raises(ValueError, match='shows no face'):
        estimate_intensity(replace(track, found=np.zeros(60, bool)))


def test_what_never_moves_is_refused_and_what_is_known_is_kept() -> None:
    track = made_track('happiness', 'a', seed=3)
    still = replace(track, landmarks=np.repeat(track.landmarks[:1], 24, axis=0))
    with pytest.raises(ValueError, match='never moves'):
        estimate_intensity(still)
    assert with_estimated_intensity(track) is track
    unknown = replace(track, intensity=None)
    assert with_estimated_intensity(unknown).intensity is not None


def test_it_follows_the_true_intensity_of_synthetic_people(shared_data: Path) -> None:
    basis = load_face_basis(shared_data / 'ict_facekit_68.npz')
    tracks = [
        track
        for track in synthesize_tracks(basis, count=140, seed=5)
        if track.label == 'happiness'
        and track.intensity is not None
        and track.intensity[:3].max() < 0.02  # begins at rest
        and track.intensity.max() > 0.5
    ]
    assert len(tracks) >= 5
    correlations, errors = [], []
    for track in tracks:
        assert track.intensity is not None
        estimated = estimate_intensity(track)
        correlations.append(np.corrcoef(estimated, track.intensity)[0, 1])
        errors.append(np.abs(estimated - track.intensity / track.intensity.max()).mean())
    assert np.median(correlations) > 0.9 and np.median(errors) < 0.15
