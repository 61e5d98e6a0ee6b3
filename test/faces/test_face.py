# SPDX-License-Identifier: Apache-2.0
"""Boxes, and the places of faces told from landmarks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.faces import Box
from fer_perception.faces.place import FacePlace

coordinate = st.floats(-1000, 1000)
size = st.floats(0, 1000)
boxes = st.builds(
    lambda x, y, width, height: Box(x, y, x + width, y + height),
    coordinate, coordinate, size, size,
)
places = st.builds(
    FacePlace, x=coordinate, y=coordinate, side=st.floats(20, 1000), roll=st.floats(-3, 3)
)


def test_a_box_has_a_width_a_height_and_an_area() -> None:
    box = Box(left=1, top=2, right=4, bottom=8)
    assert (box.width, box.height, box.area) == (3, 6, 18)


@pytest.mark.parametrize('corners', [(2, 0, 1, 1), (0, 2, 1, 1), (0, 0, math.nan, 1)])
def test_a_box_inside_out_is_refused(corners: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match='left <= right'):
        Box(*corners)


@given(boxes, boxes)
def test_overlap_is_symmetric_and_between_0_and_1(first: Box, second: Box) -> None:
    overlap = first.intersection_over_union(second)
    assert 0 <= overlap <= 1 + 1e-9
    assert overlap == pytest.approx(second.intersection_over_union(first))


def test_overlap_of_known_boxes() -> None:
    box = Box(0, 0, 2, 2)
    assert box.intersection_over_union(box) == 1
    assert box.intersection_over_union(Box(1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert box.intersection_over_union(Box(2, 0, 4, 2)) == 0
    assert Box(0, 0, 0, 0).intersection_over_union(Box(0, 0, 0, 0)) == 0


@given(boxes, st.integers(1, 2000), st.integers(1, 2000))
def test_a_clipped_box_lies_in_the_image(box: Box, width: int, height: int) -> None:
    clipped = box.clipped(width, height)
    assert 0 <= clipped.left <= clipped.right <= width
    assert 0 <= clipped.top <= clipped.bottom <= height
    assert clipped.area <= box.area + 1e-6


@given(places)
def test_the_place_follows_its_landmarks(drawn_face: np.ndarray, place: FacePlace) -> None:
    cosine, sine = math.cos(place.roll), math.sin(place.roll)
    turned = drawn_face @ np.array([[cosine, sine], [-sine, cosine]])
    told = FacePlace.from_landmarks(turned * place.side + [place.x, place.y])
    assert (told.x, told.y) == pytest.approx((place.x, place.y), abs=1e-6 * place.side)
    assert told.side == pytest.approx(place.side)
    assert told.roll == pytest.approx(place.roll, abs=1e-6)


@given(places)
def test_the_patch_shows_the_place_upright(place: FacePlace) -> None:
    to_image = place.to_image(face_side=100, patch_side=160)
    middle = to_image @ (79.5, 79.5, 1)
    right = to_image @ (129.5, 79.5, 1) - middle
    assert tuple(middle) == pytest.approx((place.x, place.y), abs=1e-6)
    assert math.hypot(*right) == pytest.approx(place.side / 2)
    assert math.atan2(right[1], right[0]) == pytest.approx(place.roll)
