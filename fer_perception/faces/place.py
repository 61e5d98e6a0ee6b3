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
        mean = landmarks.mean(axis=0)
        radius = float(np.sqrt(((landmarks - mean) ** 2).sum(axis=1).mean()))
        across = landmarks[LEFT_EYE].mean(axis=0) - landmarks[RIGHT_EYE].mean(axis=0)
        down = landmarks[MOUTH].mean(axis=0) - landmarks[36:48].mean(axis=0)
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
        return self.grown_box(1.0)

    def grown_box(self, factor: float) -> Box:
        """Return the upright square with the same centre and a side larger by this factor."""
        half = self.side / 2 * factor
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

    def patch(
        self, grey: np.ndarray, *, face_side: int, patch_side: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Cut the face out, upright and at a fixed size; beyond the image its border is repeated.

        ``grey`` is (H, W) uint8. Returns the patch (patch_side, patch_side) uint8, in whose middle
        the face's square has ``face_side`` pixels, and the matrix (2, 3) that takes points of the
        patch to the image.
        """
        scale = self.side / face_side
        cosine, sine = math.cos(self.roll) * scale, math.sin(self.roll) * scale
        middle = (patch_side - 1) / 2
        to_image = np.array(
            [
                [cosine, -sine, self.x - (cosine - sine) * middle],
                [sine, cosine, self.y - (sine + cosine) * middle],
            ]
        )
        patch = cv2.warpAffine(
            grey,
            to_image,
            (patch_side, patch_side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return patch, to_image
