# SPDX-License-Identifier: Apache-2.0
"""Fit 68 landmarks to faces with dlib's shape predictor."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_perception.faces.face import Box
from fer_perception.faces.place import FacePlace
from fer_perception.faces.shape_predictor import open_shape_predictor
from fer_perception.graph.landmarks import LANDMARK_COUNT

# The predictor sees an upright patch in which the face has this size. It starts from boxes of
# whole pixels and looks at whole pixels: in the patch that is a small part of the face, however
# small the face is in the image. And heads may be bent, which the predictor was not trained for.
FACE_SIDE = 256
PATCH_SIDE = 384
# Several fits start from boxes shifted by this part of the side, evenly around the circle. With 1,
# 2, 3 and 5 fits the points of a still face jitter by 0.21, 0.18, 0.16 and 0.15 % of the side
# (standard deviation of x and y between frames, mean of three faces under camera noise of 3 grey
# levels); by dlib, which rounds points to whole pixels, by 0.24, 0.19, 0.18 and 0.16 %.
SHIFT = 0.04


@dataclass(frozen=True)
class FittedLandmarks:
    """
    The landmarks of some faces of an image, and how far they are to be trusted.

    ``points`` is (faces, 68, 2) float32, pixels of the image: the means of each face's fits.
    ``spreads`` is (faces,) float64: the root mean square distance of the fits' points from these
    means, in sides of the box. On a face all fits come to the same points; where there is none
    they stay as far apart as they started. Infinite if each face had a single fit.
    """

    points: np.ndarray
    spreads: np.ndarray


class LandmarkPredictor:
    """
    Predict the 68 landmarks of faces; the model is loaded once, here.

    :param model_path: dlib's ``shape_predictor_68_face_landmarks.dat``.
    :param threads: how many threads share the fits of a call; dlib, which takes the place of the
        compiled library where that is missing, uses one.

    Raises FileNotFoundError if there is no such file, ValueError if it is no such model.
    """

    def __init__(self, model_path: str | Path, *, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f'threads must be 1 or more, not {threads}')
        path = Path(model_path)
        if not path.is_file():
            raise FileNotFoundError(
                f'no landmark model at {str(path)!r}: give the path of '
                'shape_predictor_68_face_landmarks.dat'
            )
        self._threads = threads
        self._predictor = open_shape_predictor(path)
        count = self._predictor.point_count
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
        landmarks: np.ndarray = self.predict_all(grey, [(box, roll)], fits=fits).points[0]
        return landmarks

    def predict_all(
        self, grey: np.ndarray, heads: Sequence[tuple[Box, float]], *, fits: int = 1
    ) -> FittedLandmarks:
        """
        Fit the landmarks to several faces of an image: the same as one by one, but faster.

        ``heads`` has the box and the roll of each face, as for `predict`.
        """
        if fits < 1:
            raise ValueError(f'fits must be 1 or more, not {fits}')
        to_image = np.empty((len(heads), 2, 3))
        for matrix, (box, roll) in zip(to_image, heads, strict=True):
            place = FacePlace.from_box(box, roll=roll)
            matrix[:] = place.to_image(face_side=FACE_SIDE, patch_side=PATCH_SIDE)
        rectangles = _rectangles(fits)
        starts = np.empty((len(heads), fits, 5), np.int32)
        starts[:, :, 0] = np.arange(len(heads))[:, None]
        starts[:, :, 1:] = rectangles
        points = self._predictor.fit(
            grey,
            to_image,
            starts.reshape(-1, 5),  # (faces, fits, 5) -> (faces * fits, 5)
            patch_side=PATCH_SIDE,
            threads=self._threads,
        )
        # (faces * fits, 68, 2) -> (faces, fits, 68, 2), of the patches
        all_points = points.reshape(len(heads), fits, LANDMARK_COUNT, 2)
        means = all_points.mean(axis=1, dtype=float)  # (faces, 68, 2)
        # of the patches -> of the image
        landmarks = means @ to_image[:, :, :2].swapaxes(1, 2) + to_image[:, None, :, 2]
        return FittedLandmarks(
            points=landmarks.astype(np.float32), spreads=_spreads(all_points, means)
        )


def _spreads(points: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return `FittedLandmarks.spreads` of points (faces, fits, 68, 2) in patches."""
    if points.shape[1] == 1:
        return np.full(len(points), np.inf)
    squares = (points - means[:, None]) ** 2  # (faces, fits, 68, 2)
    return np.sqrt(2 * squares.mean(axis=(1, 2, 3))) / FACE_SIDE


@functools.cache
def _rectangles(fits: int) -> np.ndarray:
    """Return where fits start in a patch: (fits, 4) left, top, right, bottom, whole pixels."""
    shift = SHIFT * FACE_SIDE if fits > 1 else 0.0
    corners = [
        (
            round((PATCH_SIDE - FACE_SIDE) / 2 + shift * math.cos(angle)),
            round((PATCH_SIDE - FACE_SIDE) / 2 + shift * math.sin(angle)),
        )
        for angle in (2 * math.pi * index / fits for index in range(fits))
    ]
    return np.array(
        [
            (left, top, left + FACE_SIDE - 1, top + FACE_SIDE - 1)
            for left, top in corners
        ]
    )
