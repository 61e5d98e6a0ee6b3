# SPDX-License-Identifier: Apache-2.0
"""Fit 68 landmarks to a face with dlib's shape predictor."""

from __future__ import annotations

import math
from pathlib import Path

import dlib
import numpy as np

from fer_perception.faces.face import Box
from fer_perception.faces.place import FacePlace
from fer_perception.graph.landmarks import LANDMARK_COUNT

# The predictor works on an upright copy of the face of this size. dlib rounds boxes and points to
# whole pixels: in the copy that is a small part of the face, however small the face is in the
# image. And heads may be bent, which the predictor was not trained for.
FACE_SIDE = 256
PATCH_SIDE = 384
# Several fits start from boxes shifted by this part of the side, evenly around the circle. With 1,
# 2, 3 and 5 fits the points of a still face jitter by 0.24, 0.19, 0.17 and 0.16 % of the side
# (standard deviation between frames); fitted to the image without a copy, by 0.3 to 0.4 %.
SHIFT = 0.04


class LandmarkPredictor:
    """
    Predict the 68 landmarks of a face; the model is loaded once, here.

    :param model_path: dlib's ``shape_predictor_68_face_landmarks.dat``.

    Raises FileNotFoundError if there is no such file, ValueError if it is no such model.
    """

    def __init__(self, model_path: str | Path) -> None:
        path = Path(model_path)
        if not path.is_file():
            raise FileNotFoundError(
                f'no landmark model at {str(path)!r}: give the path of '
                'shape_predictor_68_face_landmarks.dat'
            )
        try:
            self._predictor = dlib.shape_predictor(str(path))
        except RuntimeError as error:
            raise ValueError(
                f'{str(path)!r} is not a dlib shape predictor, or is damaged: {error}'
            ) from error
        # A model says how many points it has only when it is run.
        blank = np.zeros((8, 8), np.uint8)
        count = self._predictor(blank, dlib.rectangle(0, 0, 7, 7)).num_parts
        if count != LANDMARK_COUNT:
            raise ValueError(f'{str(path)!r} predicts {count} landmarks, not {LANDMARK_COUNT}')

    def predict(
        self, grey: np.ndarray, box: Box, *, roll: float = 0.0, fits: int = 1
    ) -> np.ndarray:
        """
        Fit the landmarks to the face in a box like the HOG detector's.

        :param grey: the image, (H, W) uint8; the box may reach beyond it.
        :param box: the face's box, in pixels.
        :param roll: the head's turn in the image plane, radians, clockwise to the viewer.
        :param fits: how many fits from slightly shifted boxes to average: less jitter for more
            time.
        :returns: (68, 2) float32, pixels of the image.
        """
        if fits < 1:
            raise ValueError(f'fits must be 1 or more, not {fits}')
        place = FacePlace.from_box(box, roll=roll)
        patch, to_image = place.patch(grey, face_side=FACE_SIDE, patch_side=PATCH_SIDE)
        total = np.zeros((LANDMARK_COUNT, 2))
        for index in range(fits):
            angle = 2 * math.pi * index / fits
            shift = SHIFT * FACE_SIDE if fits > 1 else 0.0
            left = round((PATCH_SIDE - FACE_SIDE) / 2 + shift * math.cos(angle))
            top = round((PATCH_SIDE - FACE_SIDE) / 2 + shift * math.sin(angle))
            rectangle = dlib.rectangle(left, top, left + FACE_SIDE - 1, top + FACE_SIDE - 1)
            shape = self._predictor(patch, rectangle)
            total += [(point.x, point.y) for point in shape.parts()]
        points: np.ndarray = total / fits
        # (68, 2) of the patch -> (68, 2) of the image
        points = points @ to_image[:, :2].T + to_image[:, 2]
        return points.astype(np.float32)
