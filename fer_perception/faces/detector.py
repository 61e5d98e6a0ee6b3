# SPDX-License-Identifier: Apache-2.0
"""Find faces with dlib's HOG detector."""

from __future__ import annotations

import cv2
import dlib
import numpy as np

from fer_perception.faces.face import Box
from fer_perception.faces.place import FacePlace, patch_of

# A closer look at one place: the face, made upright and brought to 100 pixels (the detector's
# window has 80), in a patch half as large again.
LOOK_FACE_SIDE = 100
LOOK_PATCH_SIDE = 160


class FaceDetector:
    """
    Detect frontal faces, heads bent by less than about 20 degrees, in grey images.

    One thread may call `detect` while another calls `look`; neither may be called by two at once.

    :param max_side: the longest side, in pixels, of the copy that is searched; larger images are
        scaled down. The smallest face that is found has 80 pixels in that copy.
    :param upsample: how many times the copy is doubled before the search: each finds faces half
        as large and takes four times as long.
    """

    def __init__(self, *, max_side: int = 640, upsample: int = 0) -> None:
        if max_side < 80:
            raise ValueError(f'max_side must be at least 80 pixels (one face), not {max_side}')
        if upsample < 0:
            raise ValueError(f'upsample must be 0 or more, not {upsample}')
        self._max_side = max_side
        self._upsample = upsample
        # dlib's detector works in memory of its own: a thread that searches needs another one than
        # a thread that looks.
        self._searcher = dlib.get_frontal_face_detector()
        self._looker = dlib.get_frontal_face_detector()

    def detect(self, grey: np.ndarray, *, min_score: float = 0.0) -> list[tuple[Box, float]]:
        """
        Find the faces in an image (H, W) uint8.

        Returns (box in pixels of the image, score) for each, best first. A score of 0 is dlib's
        own threshold; clear faces have 1 to 3.
        """
        height, width = grey.shape
        scale = max(height, width) / self._max_side
        if scale > 1:
            size = (max(round(width / scale), 1), max(round(height / scale), 1))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        x_factor, y_factor = width / grey.shape[1], height / grey.shape[0]
        found = _run(self._searcher, grey, self._upsample, min_score)
        return [
            (
                Box(
                    left=(box.left + 0.5) * x_factor - 0.5,
                    top=(box.top + 0.5) * y_factor - 0.5,
                    right=(box.right + 0.5) * x_factor - 0.5,
                    bottom=(box.bottom + 0.5) * y_factor - 0.5,
                ),
                score,
            )
            for box, score in found
        ]

    def look(
        self, grey: np.ndarray, place: FacePlace, *, min_score: float = 0.0
    ) -> tuple[Box, float] | None:
        """
        Look for a face at one place, with the head made upright first.

        Takes a tenth of the time of `detect`, and sees heads bent by any angle and small faces as
        well. Returns the best (box in pixels of the image, score), or None.
        """
        to_image = place.to_image(face_side=LOOK_FACE_SIDE, patch_side=LOOK_PATCH_SIDE)
        patch = patch_of(grey, to_image, side=LOOK_PATCH_SIDE)
        found = _run(self._looker, patch, 0, min_score)
        if not found:
            return None
        box, score = found[0]
        seen = FacePlace.from_box(box)
        x, y = to_image @ (seen.x, seen.y, 1.0)
        side = seen.side * place.side / LOOK_FACE_SIDE
        return FacePlace(float(x), float(y), side).box, score


def _run(
    detector: dlib.fhog_object_detector, grey: np.ndarray, upsample: int, min_score: float
) -> list[tuple[Box, float]]:
    rectangles, scores, _ = detector.run(np.ascontiguousarray(grey), upsample, min_score)
    # dlib's rectangles name their first and last pixel.
    found = [
        (Box(r.left() - 0.5, r.top() - 0.5, r.right() + 0.5, r.bottom() + 0.5), float(score))
        for r, score in zip(rectangles, scores, strict=True)
    ]
    return sorted(found, key=lambda item: -item[1])
