# SPDX-License-Identifier: Apache-2.0
"""Where a face is: a square turned with the head, and the upright patch cut out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from fer_perception.faces.face import Box

# The box of dlib's HOG detector, told from the 68 landmarks. With r the root mean square distance
# of the points from their mean, and the head upright: a square of side 2.8 r whose centre lies
# 0.15 r above the mean of the points. Means over four faces, 964 detections on copies scaled at
# random: single boxes scatter by 0.2 r in side and 0.1 r in place, as the detector's pyramid has
# coarse steps.
BOX_SIDE = 2.8
BOX_RISE = 0.15

RIGHT_EYE = slice(36, 42)
LEFT_EYE = slice(42, 48)
MOUTH = slice(48, 68)


def _weights() -> np.ndarray:
    """Return the matrix (4, 68) from landmarks to: their mean, both eyes' middles, the mouth's."""
    weights = np.zeros((4, 68))
    for row, part in zip(weights, (slice(0, 68), RIGHT_EYE, LEFT_EYE, MOUTH), strict=True):
        row[part] = 1 / (part.stop - part.start)
    return weights


WEIGHTS = _weights()


@dataclass(frozen=True)
class FacePlace:
    """
    The square that dlib's face detector would put on this face if the head were upright.

    ``x`` and ``y`` are its centre and ``side`` its side, in pixels; ``roll`` is the head's turn in
    the image plane in radians, positive when clockwise to the viewer.
    """

    x: float
    y: float
    side: float
    roll: float = 0.0

    @classmethod
    def from_landmarks(cls, landmarks: np.ndarray) -> FacePlace:
        """Derive the place from landmarks (68, 2) in pixels."""
        # One product for all means: this runs for every face of every image.
        mean, right_eye, left_eye, mouth = WEIGHTS @ landmarks  # (4, 68) @ (68, 2)
        radius = math.sqrt(float(((landmarks - mean) ** 2).sum()) / len(landmarks))
        across = (left_eye - right_eye).tolist()
        down = (mouth - (left_eye + right_eye) / 2).tolist()
        # Both axes of the face tell the roll: the eye line alone turns when the head is bent and
        # looks aside.
        roll = math.atan2(across[1] - down[0], across[0] + down[1])
        return cls(
            x=float(mean[0]) + BOX_RISE * radius * math.sin(roll),
            y=float(mean[1]) - BOX_RISE * radius * math.cos(roll),
            side=BOX_SIDE * radius,
            roll=roll,
        )

    @classmethod
    def from_box(cls, box: Box, *, roll: float = 0.0) -> FacePlace:
        """Make the place of a detected box."""
        return cls(
            x=(box.left + box.right) / 2,
            y=(box.top + box.bottom) / 2,
            side=(box.width + box.height) / 2,
            roll=roll,
        )

    @property
    def box(self) -> Box:
        """The upright square with the same centre and side."""
        half = self.side / 2
        return Box(self.x - half, self.y - half, self.x + half, self.y + half)

    def moved(self, x: float, y: float) -> FacePlace:
        """Return the place moved by so many pixels."""
        return FacePlace(self.x + x, self.y + y, self.side, self.roll)

    def scaled(self, x_factor: float, y_factor: float) -> FacePlace:
        """Return the place in an image stretched by these factors."""
        return FacePlace(
            x=self.x * x_factor,
            y=self.y * y_factor,
            side=self.side * math.sqrt(x_factor * y_factor),
            roll=self.roll,
        )

    def to_image(self, *, face_side: int, patch_side: int) -> np.ndarray:
        """
        Return the matrix (2, 3) that takes points of an upright patch of the face to the image.

        In the middle of the patch, of ``patch_side`` pixels, the face's square has ``face_side``.
        """
        scale = self.side / face_side
        cosine, sine = math.cos(self.roll) * scale, math.sin(self.roll) * scale
        middle = (patch_side - 1) / 2
        return np.array(
            [
                [cosine, -sine, self.x - (cosine - sine) * middle],
                [sine, cosine, self.y - (sine + cosine) * middle],
            ]
        )


def patch_of(grey: np.ndarray, to_image: np.ndarray, *, side: int) -> np.ndarray:
    """
    Cut a patch out of an image (H, W) uint8; beyond the image its border is repeated.

    ``to_image`` is the matrix (2, 3) from the patch to the image. Returns (side, side) uint8.
    """
    return cv2.warpAffine(
        grey,
        to_image,
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
