# SPDX-License-Identifier: Apache-2.0
"""The 68 iBUG/dlib landmarks: which index is what on a face."""

import numpy as np

LANDMARK_COUNT = 68
NOSE = 33  # base of the nose, the master node of the graph (PST-BLN, III-A)

# The graph uses the 51 inner landmarks; the jaw line carries little expression (PST-BLN, III-A).
INNER_LANDMARKS = np.arange(17, LANDMARK_COUNT)

IMAGE_LEFT_EYE = np.arange(36, 42)
IMAGE_RIGHT_EYE = np.arange(42, 48)

# Landmarks that expressions hardly move: nose bridge and base, eye corners.
STABLE_LANDMARKS = np.array([27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 39, 42, 45])

# mirror[i] is the landmark that landmark i becomes when the image is flipped left to right.
MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)


def check_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Check that an array holds 68 two-dimensional, finite landmarks and return it.

    landmarks: (..., 68, 2). Raises ValueError naming the shape or the bad value.
    """
    if landmarks.ndim < 2 or landmarks.shape[-2:] != (LANDMARK_COUNT, 2):
        raise ValueError(f'landmarks must have the shape (..., 68, 2), not {landmarks.shape}')
    if not np.isfinite(landmarks).all():
        raise ValueError('landmarks must be finite, but some are NaN or infinite')
    return landmarks


def mirror_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Mirror faces left to right about x = 0, each landmark keeping its meaning.

    landmarks: (..., 68, 2). Returns a new array of the same shape.
    """
    mirrored = landmarks[..., MIRROR, :].copy()
    mirrored[..., 0] *= -1.0
    return mirrored
