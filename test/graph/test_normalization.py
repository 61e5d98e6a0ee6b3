# SPDX-License-Identifier: Apache-2.0
"""Place, distance and head roll do not matter after normalisation."""

import numpy as np
import pytest
from faces_made import face_landmarks, transformed
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.graph.landmarks import IMAGE_LEFT_EYE, IMAGE_RIGHT_EYE, NOSE
from fer_perception.graph.normalization import face_size, normalize_landmarks


@given(
    scale=st.floats(0.2, 20.0),
    roll=st.floats(-1.5, 1.5),
    x=st.floats(-2000.0, 2000.0),
    y=st.floats(-2000.0, 2000.0),
)
def test_similarity_ignores_translation_scale_and_roll(
    scale: float, roll: float, x: float, y: float
) -> None:
    landmarks = face_landmarks(frames=3)
    moved = transformed(landmarks, scale=scale, roll=roll, shift=(x, y))
    assert np.allclose(normalize_landmarks(moved), normalize_landmarks(landmarks), atol=1e-6)


def test_similarity_centres_levels_and_scales() -> None:
    tilted = transformed(face_landmarks(frames=1), scale=3.0, roll=0.4, shift=(9.0, 5.0))
    points = normalize_landmarks(tilted)[0]
    assert np.allclose(points[NOSE], 0.0)
    eye_line = points[IMAGE_RIGHT_EYE].mean(0) - points[IMAGE_LEFT_EYE].mean(0)
    assert eye_line[0] > 0 and abs(eye_line[1]) < 1e-9
    assert np.isclose(face_size(points), 1.0)


@given(scale=st.floats(0.2, 20.0), roll=st.floats(-1.5, 1.5), x=st.floats(-2000.0, 2000.0))
def test_track_ignores_place_scale_and_roll_of_the_whole_track(
    scale: float, roll: float, x: float
) -> None:
    landmarks = face_landmarks(frames=4)
    moved = transformed(landmarks, scale=scale, roll=roll, shift=(x, -x))
    expected = normalize_landmarks(landmarks, 'track')
    assert np.allclose(normalize_landmarks(moved, 'track'), expected, atol=1e-6)


def test_track_keeps_a_head_that_tilts_and_comes_closer() -> None:
    face = face_landmarks(frames=1)
    frames = [transformed(face, scale=1 + 0.1 * k, roll=0.1 * k, shift=(3.0 * k, 0.0))
              for k in range(4)]
    points = normalize_landmarks(np.concatenate(frames), 'track')
    assert np.allclose(points[:, NOSE], 0.0)
    sizes = face_size(points)
    assert np.allclose(sizes / sizes[0], [1.0, 1.1, 1.2, 1.3])
    eye_line = points[:, IMAGE_RIGHT_EYE].mean(1) - points[:, IMAGE_LEFT_EYE].mean(1)
    assert np.allclose(np.diff(np.arctan2(eye_line[:, 1], eye_line[:, 0])), 0.1)
    with pytest.raises(ValueError, match='frames of a track'):
        normalize_landmarks(face[0], 'track')


def test_centred_moves_every_point_by_the_nose_only() -> None:
    landmarks = face_landmarks(frames=2) + 100.0
    before = landmarks.copy()
    centred = normalize_landmarks(landmarks, 'centred')
    assert np.allclose(centred, landmarks - landmarks[:, NOSE : NOSE + 1])
    assert np.array_equal(landmarks, before)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match='upside'):
        normalize_landmarks(face_landmarks(frames=1), 'upside')


@pytest.mark.parametrize(
    ('landmarks', 'message'),
    [
        (np.zeros((1, 68, 2)), 'no extent'),
        (np.full((1, 68, 2), np.nan), 'finite'),
        (np.zeros((1, 51, 2)), r'\(1, 51, 2\)'),
    ],
)
def test_what_is_no_face_is_refused(landmarks: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalize_landmarks(landmarks)
