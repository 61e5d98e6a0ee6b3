# SPDX-License-Identifier: Apache-2.0
"""Weights of the shapes of a face, with the two sides a little unlike."""

import numpy as np

from fer_training.face_basis import FaceBasis
from fer_training.recipes import TWO_SIDED
from fer_training.synthesis.courses import Courses


class Muscles:
    """Lays weights of shapes out over the X expression shapes of a basis and over F frames."""

    def __init__(self, basis: FaceBasis, courses: Courses, *, asymmetry: float) -> None:
        """Take the spread of one side's strength against the other's."""
        self._basis = basis
        self._courses = courses
        self._asymmetry = asymmetry

    def still(self) -> np.ndarray:
        """Return the weights of a face that does nothing: (F, X)."""
        return np.zeros((self._courses.frames, len(self._basis.expression_names)))

    def move(self, weights: dict[str, float], course: np.ndarray | float = 1.0) -> np.ndarray:
        """Move shapes along a course (F,): (F, X). Shapes of one call are unlike together.

        Raises FaceBasisError if the basis lacks a shape.
        """
        total = np.zeros(len(self._basis.expression_names))
        tilt = self._courses.random.normal(0.0, self._asymmetry)
        for shape, weight in weights.items():
            if shape in TWO_SIDED:
                total[self._basis.index(f'{shape}_L')] += weight * (1.0 + tilt)
                total[self._basis.index(f'{shape}_R')] += weight * (1.0 - tilt)
            else:
                total[self._basis.index(shape)] += weight
        return np.broadcast_to(course, self._courses.frames)[:, None] * total
