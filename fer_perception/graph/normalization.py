# SPDX-License-Identifier: Apache-2.0
"""Normalisation of landmarks: distance, place and head roll must not matter."""

import numpy as np

from fer_perception.graph.head_pose import frontal_landmarks
from fer_perception.graph.landmarks import (
    IMAGE_LEFT_EYE,
    IMAGE_RIGHT_EYE,
    NOSE,
    STABLE_LANDMARKS,
    check_landmarks,
)

NORMALIZATIONS = ('similarity', 'frontal', 'centred', 'track')


def normalize_landmarks(landmarks: np.ndarray, mode: str = 'similarity') -> np.ndarray:
    """Centre faces on the nose (dlib 33), and make their size and roll alike.

    'similarity' divides each frame by its own face size and levels its own eye line, so that a
    frame needs no other. 'frontal' also undoes yaw and pitch of each frame, by a mean face (see
    `head_pose`), so that a turned or bowed head does not look like a wide or a drawn-up mouth.
    'track' does as 'similarity', with the mean face size and the mean eye line of the track, so
    that a head that nods, leans or comes closer still shows it. 'centred' only centres (the
    paper's mode, for parity with published results).

    landmarks: (..., 68, 2) pixels; with 'track' (..., T, 68, 2), T frames of one face. Returns
    the same shape, float64; but for 'centred' in units of the face size. Raises ValueError for
    an unknown mode or a face without extent.
    """
    check_landmarks(landmarks)
    if mode not in NORMALIZATIONS:
        raise ValueError(f'unknown normalisation {mode!r}; use {" or ".join(NORMALIZATIONS)}')
    points = landmarks.astype(np.float64)
    points = points - points[..., NOSE : NOSE + 1, :]
    if mode == 'centred':
        return points

    size = face_size(points)[..., None, None]  # (..., 1, 1)
    if (size <= 0).any():
        raise ValueError('a face has no extent: its stable landmarks all lie on one point')
    if mode == 'frontal':
        return frontal_landmarks(points)

    eye_line = points[..., IMAGE_RIGHT_EYE, :].mean(-2) - points[..., IMAGE_LEFT_EYE, :].mean(-2)
    if mode == 'track':
        if points.ndim < 3:
            raise ValueError(f"'track' needs the frames of a track, not {landmarks.shape}")
        eye_line = eye_line.mean(-2, keepdims=True)  # (..., 1, 2)
        size = size.mean(-3, keepdims=True)  # (..., 1, 1, 1)
    roll = np.arctan2(eye_line[..., 1], eye_line[..., 0])[..., None, None]  # (..., 1, 1)
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
