# SPDX-License-Identifier: Apache-2.0
"""The making of the frozen edge lists from the mean face of a basis."""

import numpy as np
from scipy.spatial import Delaunay

from fer_perception.graph.landmarks import INNER_LANDMARKS, NOSE
from fer_training.face_basis import FaceBasis


def unique_edges(basis: FaceBasis) -> np.ndarray:
    """Make the project's list: every pair of landmarks once, no self-edge.

    The pairs are the sides of the Delaunay triangles and each landmark with the nose.
    Returns (E, 2) landmark numbers 17..67, sorted.
    """
    pairs = {tuple(sorted(pair)) for pair in reference_edges(basis).tolist()}
    return np.array(sorted(pair for pair in pairs if pair[0] != pair[1]))


def reference_edges(basis: FaceBasis) -> np.ndarray:
    """Make the list of the reference implementation, with its repetitions.

    Three edges for every triangle, so that inner ones come twice, then 51 master edges to the
    nose, its own included. Returns (E, 2) landmark numbers 17..67.
    """
    points = basis.neutral[INNER_LANDMARKS, :2] * [1.0, -1.0]  # as an image sees it: y down
    triangles = Delaunay(points).simplices  # (triangles, 3)
    sides = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2) + INNER_LANDMARKS[0]
    master = np.stack([INNER_LANDMARKS, np.full(len(INNER_LANDMARKS), NOSE)], axis=1)
    return np.concatenate([sides, master])
