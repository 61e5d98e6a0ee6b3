# SPDX-License-Identifier: Apache-2.0
"""Crops show the face upright, in one size, wherever it was; their pixels become numbers."""

import math
from typing import Any

import cv2
import numpy as np
import pytest
from faces_made import face_landmarks, transformed
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_perception.faces.crop import FaceCrop, ImageNormalization

LANDMARKS = face_landmarks(frames=1, movement=0.0)[0]


def drawn_face(landmarks: np.ndarray, *, height: int = 400, width: int = 500) -> np.ndarray:
    """Draw a smooth picture whose brightness tells where on the face a pixel is."""
    image = np.full((height, width, 3), 40, np.uint8)
    for index, (x, y) in enumerate(landmarks):
        colour = (60 + 2 * index, 255 - 3 * index, 30 + 3 * index)
        centre = (round(float(x) * 16), round(float(y) * 16))
        cv2.circle(image, centre, 5 * 16, colour, -1, cv2.LINE_AA, 4)
    return image


@settings(deadline=None, max_examples=30)
@given(
    scale=st.floats(0.8, 1.4),
    roll=st.floats(-1.0, 1.0),
    x=st.floats(-30.0, 30.0),
    y=st.floats(-20.0, 20.0),
)
def test_landmarks_in_the_crop_depend_on_neither_place_size_nor_roll(
    scale: float, roll: float, x: float, y: float
) -> None:
    crop = FaceCrop(size=128)
    still = transformed(LANDMARKS, scale=1.0, roll=0.0, shift=(250.0, 200.0))
    moved = transformed(LANDMARKS, scale=scale, roll=roll, shift=(250.0 + x, 200.0 + y))
    first, within = crop.cut(drawn_face(still), still)
    _, moved_within = crop.cut(drawn_face(moved), moved)
    assert first.shape == (128, 128, 3) and first.dtype == np.uint8
    assert within.dtype == np.float32
    np.testing.assert_allclose(moved_within, within, atol=1e-4)


@pytest.mark.parametrize('size', [64, 128, 256])
def test_the_picture_is_where_its_landmarks_say(size: int) -> None:
    """Larger and smaller than the face in the image, so that both ways of scaling are tried."""
    landmarks = transformed(LANDMARKS, scale=1.3, roll=0.3, shift=(260.0, 190.0))
    pixels, within = FaceCrop(size=size).cut(drawn_face(landmarks), landmarks)
    for index in (8, 24, 48):  # far from their neighbours: no other disc covers them
        x, y = within[index] * size - 0.5
        blue_first = pixels[round(float(y)), round(float(x)), ::-1]
        expected = (60 + 2 * index, 255 - 3 * index, 30 + 3 * index)
        assert np.abs(blue_first.astype(int) - expected).max() < 25


def test_a_face_at_the_border_is_filled_up_with_it() -> None:
    image = np.full((200, 200, 3), 77, np.uint8)
    pixels, within = FaceCrop(size=32).cut(image, LANDMARKS)  # its middle is the image's corner
    assert (pixels == 77).all()
    assert np.isfinite(within).all()


def test_a_margin_shows_more() -> None:
    landmarks = LANDMARKS + (250.0, 200.0)
    image = drawn_face(landmarks)
    _, tight = FaceCrop(size=64, margin=0.0).cut(image, landmarks)
    _, wide = FaceCrop(size=64, margin=0.5).cut(image, landmarks)
    np.testing.assert_allclose(wide - 0.5, (tight - 0.5) / 2.0, atol=1e-4)


@pytest.mark.parametrize(
    'landmarks', [np.zeros((68, 2)), np.full((68, 2), math.nan), np.zeros((5, 2))]
)
def test_no_face_is_refused(landmarks: np.ndarray) -> None:
    with pytest.raises(ValueError, match='landmarks'):
        FaceCrop().cut(np.zeros((100, 100, 3), np.uint8), landmarks)


@pytest.mark.parametrize(('field', 'value'), [('size', 4), ('size', 5000), ('margin', -0.1)])
def test_impossible_crops_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{field} must be'):
        FaceCrop(**{field: value})


def test_grey_crops_have_three_equal_channels_and_more_contrast_when_equalised() -> None:
    dull = np.random.default_rng(1).integers(100, 120, (64, 64, 3), np.uint8)
    assert ImageNormalization().pixels(dull) is dull
    grey = ImageNormalization(grey=True).pixels(dull)
    equalised = ImageNormalization(grey=True, equalize=True).pixels(dull)
    for pixels in (grey, equalised):
        assert pixels.shape == dull.shape
        assert (pixels == pixels[..., :1]).all()
    assert equalised.std() > 1.5 * grey.std()


def test_numbers_are_those_of_the_definition() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2, 3, 5, 4, 3), np.uint8)
    normalization = ImageNormalization(mean=(0.5, 0.4, 0.3), deviation=(0.5, 0.25, 0.2))
    numbers = normalization.numbers(pixels)
    assert numbers.shape == (2, 3, 3, 5, 4) and numbers.dtype == np.float32
    for channel, (mean, deviation) in enumerate(((0.5, 0.5), (0.4, 0.25), (0.3, 0.2))):
        expected = (pixels[..., channel] / 255.0 - mean) / deviation
        np.testing.assert_allclose(numbers[..., channel, :, :], expected, atol=1e-6)


@pytest.mark.parametrize(
    'fields', [{'equalize': True}, {'mean': (0.5, 0.5)}, {'deviation': (1.0, 0.0, 1.0)}]
)
def test_impossible_normalisations_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='equalize|mean'):
        ImageNormalization(**fields)
