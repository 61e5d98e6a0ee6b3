# SPDX-License-Identifier: Apache-2.0
"""A face as the rest of the package sees it: an id, a box and 68 landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """
    A rectangle in continuous pixels; x grows to the right, y downwards.

    As in dlib and OpenCV, (0, 0) is the centre of the image's top-left pixel. A box may reach
    beyond the image. One with ``right < left`` or ``bottom < top`` is refused with ValueError.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (self.left <= self.right and self.top <= self.bottom):
            raise ValueError(f'a box needs left <= right and top <= bottom, not {self}')

    @property
    def width(self) -> float:
        """Return the width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Return the height in pixels."""
        return self.bottom - self.top

    @property
    def area(self) -> float:
        """Return the area in square pixels."""
        return self.width * self.height

    def intersection_over_union(self, other: Box) -> float:
        """Return the area both boxes share, divided by the area they cover together: 0 to 1."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        if width <= 0 or height <= 0:
            return 0.0
        shared = width * height
        covered = self.area + other.area - shared
        return shared / covered if covered > 0 else 0.0  # the product of tiny sides may be 0

    def clipped(self, width: int, height: int) -> Box:
        """Return the part inside of an image of this size; without area if nothing is inside."""
        return Box(
            left=min(max(self.left, 0.0), width),
            top=min(max(self.top, 0.0), height),
            right=min(max(self.right, 0.0), width),
            bottom=min(max(self.bottom, 0.0), height),
        )


@dataclass(frozen=True, eq=False)
class Face:
    """
    One visible face in one image.

    ``landmarks`` is (68, 2) float32: x and y in pixels, in dlib's (iBUG's) order, not clipped to
    the image. ``box`` is made from the landmarks and so as steady as they are: a square from the
    brows to the chin.
    """

    face_id: str
    box: Box
    landmarks: np.ndarray
