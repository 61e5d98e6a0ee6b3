# SPDX-License-Identifier: Apache-2.0
"""The detector on real images: where the face is, at any size and angle, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_perception.faces import Box, FaceDetector
from fer_perception.faces.place import FacePlace


@pytest.fixture(scope='module')
def grey(sample_clip: Path) -> np.ndarray:
    ok, image = cv2.VideoCapture(str(sample_clip)).read()
    assert ok
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def only(found: list[tuple[Box, float]]) -> Box:
    assert len(found) == 1
    return found[0][0]


def test_the_face_of_the_sample_clip_is_found(grey: np.ndarray) -> None:
    (box, score), = FaceDetector().detect(grey)
    assert score > 1
    assert 100 < box.width < 250


def test_boxes_are_in_pixels_of_the_full_image(grey: np.ndarray) -> None:
    box = only(FaceDetector().detect(grey))
    large = cv2.resize(grey, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    found = only(FaceDetector().detect(large))
    scaled = Box(found.left / 3, found.top / 3, found.right / 3, found.bottom / 3)
    assert box.intersection_over_union(scaled) > 0.8


def test_a_higher_threshold_finds_less(grey: np.ndarray) -> None:
    detector = FaceDetector()
    scores = [score for _, score in detector.detect(grey, min_score=-1.5)]
    assert scores == sorted(scores, reverse=True)
    assert detector.detect(grey, min_score=scores[0] + 0.1) == []


def test_upsampling_finds_smaller_faces(grey: np.ndarray) -> None:
    small = cv2.resize(grey, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    assert FaceDetector().detect(small) == []
    assert len(FaceDetector(upsample=1).detect(small)) == 1


@pytest.mark.parametrize('shape', [(1, 1), (3, 2000), (2000, 3), (79, 79)])
def test_images_too_small_for_a_face_hold_none(shape: tuple[int, int]) -> None:
    assert FaceDetector().detect(np.zeros(shape, np.uint8)) == []


@pytest.mark.parametrize('degrees', [0, 45, -70, 160])
def test_a_look_finds_a_bent_head(grey: np.ndarray, degrees: float) -> None:
    detector = FaceDetector()
    upright = FacePlace.from_box(only(detector.detect(grey)))
    turn = cv2.getRotationMatrix2D((upright.x, upright.y), -degrees, 1.0)
    bent = cv2.warpAffine(grey, turn, grey.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    place = FacePlace(upright.x, upright.y, upright.side, np.radians(degrees))
    found = detector.look(bent, place)
    assert found is not None
    assert place.box.intersection_over_union(found[0]) > 0.6


def test_a_look_elsewhere_finds_nothing(grey: np.ndarray) -> None:
    place = FacePlace(x=60, y=300, side=80)
    assert FaceDetector().look(grey, place) is None


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match='max_side'):
        FaceDetector(max_side=79)
    with pytest.raises(ValueError, match='upsample'):
        FaceDetector(upsample=-1)
