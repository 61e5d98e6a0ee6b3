# SPDX-License-Identifier: Apache-2.0
"""Normalisation of landmarks: distance, place and head roll must not matter."""

import numpy as np

from fer_perception.graph.landmarks import (
    IMAGE_LEFT_EYE,
    IMAGE_RIGHT_EYE,
    NOSE,
    STABLE_LANDMARKS,
    check_landmarks,
)

NORMALIZATIONS = ('similarity', 'centred')


def normalize_landmarks(landmarks: np.ndarray, mode: str = 'similarity') -> np.ndarray:
    """Normalise every frame of a track on its own.

    'similarity' centres on the nose (dlib 33), divides by the face size and levels the eye line;
    'centred' only subtracts the nose (the paper's mode, for parity with published results).

    landmarks: (..., 68, 2) pixels. Returns the same shape, float64; with 'similarity' in units
    of the face size. Raises ValueError for an unknown mode or a face without extent.
    """
    check_landmarks(landmarks)
    if mode not in NORMALIZATIONS:
        raise ValueError(f'unknown normalisation {mode!r}; use {" or ".join(NORMALIZATIONS)}')
    points = landmarks.astype(np.float64)
    points = points - points[..., NOSE : NOSE + 1, :]
    if mode == 'centred':
        return points

    eye_line = points[..., IMAGE_RIGHT_EYE, :].mean(-2) - points[..., IMAGE_LEFT_EYE, :].mean(-2)
    roll = np.arctan2(eye_line[..., 1], eye_line[..., 0])[..., None, None]  # (..., 1, 1)
    size = face_size(points)[..., None, None]  # (..., 1, 1)
    if (size <= 0).any():
        raise ValueError('a face has no extent: its stable landmarks all lie on one point')
    x, y = points[..., 0:1], points[..., 1:2]  # (..., 68, 1)
    levelled = np.concatenate(
        [np.cos(roll) * x + np.sin(roll) * y, np.cos(roll) * y - np.sin(roll) * x], axis=-1
    )
    return levelled / size


def face_size(landmarks: np.ndarray) -> np.ndarray:
    """Measure the face size: root mean square distance of the stable landmarks to their centre.

    Stable landmarks are the nose and the corners of the eyes: expressions hardly move them, and
    thirteen of them average the landmark noise.

    landmarks: (..., 68, 2). Returns (...) in the unit of the landmarks.
    """
    stable = landmarks[..., STABLE_LANDMARKS, :]
    spread = stable - stable.mean(-2, keepdims=True)
    return np.sqrt((spread**2).sum(-1).mean(-1))
