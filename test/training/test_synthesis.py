# SPDX-License-Identifier: Apache-2.0
"""Synthetic tracks are faces that show what they are labelled with, and repeat with the seed."""

from pathlib import Path

import numpy as np
import pytest

from fer_perception.graph.normalization import normalize_landmarks
from fer_training.face_basis import FaceBasis, FaceBasisError, load_face_basis
from fer_training.recipes import ACTION_UNITS, CLASSES, RECIPES, TWO_SIDED, shape_weights
from fer_training.synthesis import SynthesisConfig, synthesize_tracks
from fer_training.tracks import Track


@pytest.fixture(scope='module')
def basis(shared_data: Path) -> FaceBasis:
    return load_face_basis(shared_data / 'ict_facekit_68.npz')


@pytest.fixture(scope='module')
def tracks(basis: FaceBasis) -> list[Track]:
    return list(synthesize_tracks(basis, count=210, seed=5))


def mouth_width(track: Track, *, at_apex: bool) -> float:
    assert track.intensity is not None
    chosen = track.intensity > 0.9 if at_apex else np.full(len(track.landmarks), True)
    points = normalize_landmarks(track.landmarks[chosen])
    return float((points[:, 54, 0] - points[:, 48, 0]).mean())


def test_classes_come_in_turn_and_every_subject_is_another(tracks: list[Track]) -> None:
    assert [track.label for track in tracks[:7]] == list(CLASSES)
    assert len({track.subject for track in tracks}) == len(tracks)


def test_tracks_are_finite_pixels_with_an_intensity_for_each_frame(tracks: list[Track]) -> None:
    for track in tracks:
        assert np.isfinite(track.landmarks).all()
        assert track.intensity is not None
        assert track.intensity.shape == (len(track.landmarks),)
        assert len(track.landmarks) == round(1.6 * track.frame_rate)
        if track.label == 'neutral':
            assert (track.intensity == 0).all()
        else:
            assert track.intensity.max() > 0.5


def test_smiles_widen_the_mouth_and_surprise_opens_it(tracks: list[Track]) -> None:
    widths = {
        label: np.mean(
            [mouth_width(t, at_apex=t.label != 'neutral') for t in tracks if t.label == label]
        )
        for label in CLASSES
    }
    assert widths['happiness'] > widths['neutral'] + 0.2
    assert max(widths, key=lambda label: widths[label]) == 'happiness'


def test_the_same_seed_gives_the_same_tracks(basis: FaceBasis, tracks: list[Track]) -> None:
    again = list(synthesize_tracks(basis, count=3, seed=5))
    for first, second in zip(tracks, again, strict=False):
        assert np.array_equal(first.landmarks, second.landmarks)
    other = next(iter(synthesize_tracks(basis, count=1, seed=6)))
    assert other.landmarks.shape != tracks[0].landmarks.shape or not np.array_equal(
        other.landmarks, tracks[0].landmarks
    )


def test_noise_has_the_size_it_is_set_to(basis: FaceBasis) -> None:
    config = SynthesisConfig(
        white_noise=(0.02, 0.02), slow_noise=(0.0, 0.0), movement_degrees=0.0,
        speech_probability={}, frame_rates=(30.0,), duration_s=4.0,
    )
    noise = []
    for track in list(synthesize_tracks(basis, count=15, seed=1, config=config))[::7]:
        points = normalize_landmarks(track.landmarks)[:, 27:36]  # the nose, which keeps still
        second = points[2:] - 2 * points[1:-1] + points[:-2]
        noise.append(second.std() / np.sqrt(6))
    # The nose itself is the origin: its own noise adds to every other landmark's.
    assert np.mean(noise) == pytest.approx(0.02 * np.sqrt(2), rel=0.25)


def test_recipes_name_known_units_and_shapes(basis: FaceBasis) -> None:
    for recipes in RECIPES.values():
        for recipe in recipes:
            assert set(recipe.required + recipe.optional) <= ACTION_UNITS.keys()
    for shapes in ACTION_UNITS.values():
        for shape in shapes:
            for name in (f'{shape}_L', f'{shape}_R') if shape in TWO_SIDED else (shape,):
                basis.index(name)
    assert set(RECIPES) == set(CLASSES) - {'neutral'}


def test_shape_weights_add_up() -> None:
    assert shape_weights({'AU6': 0.5, 'AU7': 0.5}) == {
        'cheekSquint': 0.5, 'eyeSquint': pytest.approx(0.8)
    }
    with pytest.raises(ValueError, match='AU99'):
        shape_weights({'AU99': 1.0})


def test_a_file_that_is_no_basis_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'text.npz').write_text('no basis')
    with (tmp_path / 'other.npz').open('wb') as file:
        np.savez(file, neutral=np.zeros((5, 3)))
    for name in ('text.npz', 'other.npz', 'missing.npz'):
        with pytest.raises(FaceBasisError, match=name):
            load_face_basis(tmp_path / name)
