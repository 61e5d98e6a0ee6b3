# SPDX-License-Identifier: Apache-2.0
"""
Evaluate dlib's shape predictors: points fitted to a picture by forests of regression trees.

dlib's own evaluation takes most of the time that following a face costs: it holds Python's lock,
and reads all the model again for each fit. A library compiled from shape_predictor.cpp makes all
fits of an image in one call, and reads the few pixels that they need straight from it. It is
optional: where it was not compiled, dlib computes the same on patches that are cut out, rounded to
whole pixels.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import dlib
import numpy as np

from fer_perception.compiled_library import open_compiled_library
from fer_perception.faces.place import patch_of

INTERFACE = 2  # version of the functions in shape_predictor.cpp
LARGEST_REASON = 200  # bytes
LARGEST_SIDE = 16384  # of a patch, pixels
LOGGER = logging.getLogger(__name__)


class ShapePredictor(ABC):
    """
    A loaded model; any thread may use it.

    ``point_count`` says how many points it fits.
    """

    point_count: int

    def fit(
        self,
        grey: np.ndarray,
        to_image: np.ndarray,
        starts: np.ndarray,
        *,
        patch_side: int,
        threads: int = 1,
    ) -> np.ndarray:
        """
        Fit the points from rectangles in upright patches of an image.

        :param grey: the image, (H, W) uint8.
        :param to_image: (P, 2, 3) float64: for each patch the matrix that takes its points to the
            image, see FacePlace.to_image.
        :param starts: (N, 5) int32, for each fit: which patch, and the rectangle around the face
            in it by its first and last pixels: left, top, right, bottom. It may reach beyond.
        :param patch_side: of each patch, in pixels; what lies beyond a patch counts as black.
        :param threads: how many to use at most; the result does not depend on it.
        :returns: (N, point_count, 2) float32: x, y in pixels of the patch. A fit does not depend
            on the others.

        Raises ValueError if an argument is not as described.
        """
        _check(grey, to_image, starts, patch_side, threads)
        points = np.empty((len(starts), self.point_count, 2), np.float32)
        self._fit(grey, to_image, starts, points, patch_side=patch_side, threads=threads)
        return points

    @abstractmethod
    def _fit(
        self,
        grey: np.ndarray,
        to_image: np.ndarray,
        starts: np.ndarray,
        points: np.ndarray,
        *,
        patch_side: int,
        threads: int,
    ) -> None:
        """Write the points of all fits, whose arguments are as they should be."""


def open_shape_predictor(path: Path) -> ShapePredictor:
    """
    Load a model that dlib has written.

    Raises ValueError if the file is no such model or is damaged.
    """
    if native_is_available():
        return CompiledShapePredictor(path)
    LOGGER.info('landmarks by dlib (slower; the compiled library is not there)')
    return DlibShapePredictor(path)


def native_is_available() -> bool:
    """Tell whether the library was compiled and can be used."""
    return _library() is not None


class CompiledShapePredictor(ShapePredictor):
    """
    A model in the compiled library, which gives dlib's points before they are rounded.

    :param path: a file that dlib has written since version 17 (2013), with up to 4096 points, 2048
        pixels for each forest, and trees of one depth up to 12, as dlib trains them.

    Raises ValueError if it is no such file or is damaged, RuntimeError if there is no library.
    """

    def __init__(self, path: Path) -> None:
        library = _library()
        if library is None:
            raise RuntimeError('the library of shape_predictor.cpp was not compiled')
        reason = ctypes.create_string_buffer(LARGEST_REASON)
        self._model = library.shape_predictor_open(os.fsencode(path), reason, LARGEST_REASON)
        if not self._model:
            raise _damaged(path, reason.value.decode())
        self._library = library
        weakref.finalize(self, library.shape_predictor_close, self._model)
        self.point_count = int(library.shape_predictor_points(self._model))

    def _fit(
        self,
        grey: np.ndarray,
        to_image: np.ndarray,
        starts: np.ndarray,
        points: np.ndarray,
        *,
        patch_side: int,
        threads: int,
    ) -> None:
        grey, to_image = np.ascontiguousarray(grey), np.ascontiguousarray(to_image)
        starts = np.ascontiguousarray(starts)
        failed = self._library.shape_predictor_fit(
            self._model,
            grey.ctypes.data,
            *grey.shape,
            to_image.ctypes.data,
            patch_side,
            starts.ctypes.data,
            len(starts),
            threads,
            points.ctypes.data,
        )
        if failed:
            raise MemoryError(f'no memory for {len(starts)} landmark fits')


class DlibShapePredictor(ShapePredictor):
    """
    A model in dlib, which rounds points to whole pixels and uses one thread.

    :param path: a file that dlib has written.

    Raises ValueError if it is no such file or is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._predictor = dlib.shape_predictor(str(path))
        except RuntimeError as error:
            raise _damaged(path, str(error)) from error
        # A model says how many points it has only when it is run.
        blank = np.zeros((8, 8), np.uint8)
        self.point_count = int(self._predictor(blank, dlib.rectangle(0, 0, 7, 7)).num_parts)

    def _fit(
        self,
        grey: np.ndarray,
        to_image: np.ndarray,
        starts: np.ndarray,
        points: np.ndarray,
        *,
        patch_side: int,
        threads: int,
    ) -> None:
        patches = [patch_of(grey, matrix, side=patch_side) for matrix in to_image]
        for index, (patch, *rectangle) in enumerate(starts.tolist()):
            shape = self._predictor(patches[patch], dlib.rectangle(*rectangle))
            points[index] = [(point.x, point.y) for point in shape.parts()]


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Load the compiled library; None if there is none that can be used."""
    library = open_compiled_library(Path(__file__), interface=INTERFACE, instead='dlib')
    if library is None:
        return None
    address: Any = ctypes.c_void_p
    number: Any = ctypes.c_int64
    library.shape_predictor_open.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    library.shape_predictor_open.restype = address
    library.shape_predictor_close.argtypes = [address]
    library.shape_predictor_close.restype = None
    library.shape_predictor_points.argtypes = [address]
    library.shape_predictor_points.restype = number
    library.shape_predictor_fit.argtypes = [
        *[address, address, number, number],
        *[address, number],
        *[address, number, number, address],
    ]
    return library


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f'{str(path)!r} is not a dlib shape predictor, or is damaged: {reason}')


def _check(
    grey: np.ndarray, to_image: np.ndarray, starts: np.ndarray, patch_side: int, threads: int
) -> None:
    """Raise ValueError unless these are the arguments of a fit."""
    if grey.ndim != 2 or grey.dtype != np.uint8 or grey.size == 0:
        raise ValueError(f'grey must be (H, W) of uint8, not {grey.shape} of {grey.dtype}')
    if grey.size >= 2**31:
        raise ValueError(f'grey must have fewer than 2 ** 31 pixels, not {grey.shape}')
    if to_image.shape[1:] != (2, 3) or to_image.dtype != np.float64:
        raise ValueError(
            f'to_image must be (P, 2, 3) of float64, not {to_image.shape} of {to_image.dtype}'
        )
    if starts.ndim != 2 or starts.shape[1] != 5 or starts.dtype != np.int32:
        raise ValueError(f'starts must be (N, 5) of int32, not {starts.shape} of {starts.dtype}')
    if starts.size and not 0 <= starts[:, 0].min() <= starts[:, 0].max() < len(to_image):
        raise ValueError(
            f'the starts name patches from {starts[:, 0].min()} to {starts[:, 0].max()}, '
            f'but there are {len(to_image)}'
        )
    if not 1 <= patch_side <= LARGEST_SIDE:
        raise ValueError(f'patch_side must be 1 to {LARGEST_SIDE} pixels, not {patch_side}')
    if threads < 1:
        raise ValueError(f'threads must be 1 or more, not {threads}')
