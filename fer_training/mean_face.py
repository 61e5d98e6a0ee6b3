# SPDX-License-Identifier: Apache-2.0
"""The making of the frozen mean face, over which heads are laid to find how they are turned."""

import numpy as np

from fer_perception.graph.landmarks import NOSE
from fer_perception.graph.normalization import face_size
from fer_training.face_basis import FaceBasis

DECIMALS = 3  # of a face size: a tenth of a millimetre


def mean_face_points(basis: FaceBasis) -> np.ndarray:
    """Return the neutral face of a basis in face sizes about the nose, y down: (68, 3)."""
    points = (basis.neutral - basis.neutral[NOSE]) * np.array([1.0, -1.0, 1.0])
    return np.round(points / face_size(points[:, :2]), DECIMALS) + 0.0  # no -0.0
