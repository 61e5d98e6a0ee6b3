# SPDX-License-Identifier: Apache-2.0
"""The head's turn from the landmarks of one frame, and the face as it is seen from the front.

A frozen mean face is laid over the stable landmarks (nose and eye corners) by scaled
orthographic projection: turned, scaled and moved until the squared distances in the image are
least. Its turn then tells, with the depths of the same mean face, where a camera in front would
see every landmark. A person's own nose or brow biases the turn, alike in all frames.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from fer_perception.graph.landmarks import NOSE, STABLE_LANDMARKS

MEAN_FACE_FILE = 'mean_face.json'
STEPS = 3  # Gauss-Newton; what more would change lies far below landmark noise
HIGHEST_STEP = 0.5  # radians of one of them
DAMPING = 1e-6  # against points that all lie on one line
LOWEST_SCALE = 1e-6  # of a face that is none
TINY = 1e-12  # against divisions by 0
HIGHEST_TILT = np.sin(np.radians(60.0))  # what is turned further is undone by so much only


@dataclass(frozen=True)
class HeadPose:
    """Hold how heads are turned against a camera in front of them; leading axes are frames."""

    rotation: np.ndarray  # (..., 3, 3) of the mean face: x to the image's right, y down, z near
    scale: np.ndarray  # (...) pixels per face size


@cache
def mean_face() -> np.ndarray:
    """Load the frozen mean face: (68, 3) in face sizes about the nose, y down, z to the camera."""
    text = resources.files('fer_perception.graph').joinpath(MEAN_FACE_FILE).read_text('utf-8')
    points = np.array(json.loads(text)['points'])
    points.flags.writeable = False
    return points


def fit_head_pose(landmarks: np.ndarray) -> HeadPose:
    """Fit the turn and the size of heads, frame by frame.

    landmarks: (..., 68, 2) in any unit, finite.
    """
    # The squared distances depend on the landmarks by their products with the mean face only.
    model, own, inverse = _stable_model()  # (S, 3), (3, 3), (3, 3)
    seen = np.swapaxes(landmarks[..., STABLE_LANDMARKS, :], -1, -2) @ model  # (..., 2, 3)
    rows = _nearest_rows(seen @ inverse)
    for _ in range(STEPS):
        rotation = _complete(rows)
        moved = np.zeros((*rows.shape[:-2], 4, 2, 3))  # by a turn about x, y, z, and by the scale
        moved[..., 0, 1, :] = -rotation[..., 2, :]
        moved[..., 1, 0, :] = rotation[..., 2, :]
        moved[..., 2, 0, :] = -rotation[..., 1, :]
        moved[..., 2, 1, :] = rotation[..., 0, :]
        moved[..., 3, :, :] = rows
        by_model = (moved @ own).reshape(*rows.shape[:-2], 4, 6)
        moved = moved.reshape(*rows.shape[:-2], 4, 6)
        residual = seen / _best_scale(rows, seen, own)[..., None, None] - rows @ own
        right = moved @ residual.reshape(*rows.shape[:-2], 6, 1)
        normal = by_model @ np.swapaxes(moved, -1, -2) + DAMPING * np.eye(4)
        step = np.linalg.solve(normal, right)[..., :3, 0]
        rows = (_turn(np.clip(step, -HIGHEST_STEP, HIGHEST_STEP)) @ rotation)[..., :2, :]
    return HeadPose(rotation=_complete(rows), scale=_best_scale(rows, seen, own))


def frontal_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Show faces as from the front, in face sizes of the mean face about the nose.

    Every landmark is taken to lie as deep as that of the mean face. landmarks: (..., 68, 2) in any
    unit. Returns the same shape, float64.
    """
    pose = fit_head_pose(landmarks)
    points = landmarks - landmarks[..., NOSE : NOSE + 1, :]
    points = points / pose.scale[..., None, None]
    # The rotation is a tilt about an axis in the image plane, followed by a roll, which is the
    # rotation nearest to the block that maps the image plane to itself.
    block = pose.rotation[..., :2, :2]
    roll = np.arctan2(block[..., 1, 0] - block[..., 0, 1], block[..., 0, 0] + block[..., 1, 1])
    unrolled = _rolled_back(points, roll)
    tilt = _rolled_back(pose.rotation[..., None, :2, 2], roll)  # (..., 1, 2)
    size = np.linalg.norm(tilt, axis=-1, keepdims=True)  # (..., 1, 1)
    direction = tilt / np.maximum(size, TINY)
    sine = np.minimum(size, HIGHEST_TILT)
    unrolled = unrolled - mean_face()[:, 2:] * (sine * direction)
    # Along the tilt the face is foreshortened by its cosine.
    along = (unrolled * direction).sum(-1, keepdims=True)  # (..., 68, 1)
    return np.asarray(unrolled + (1.0 / np.sqrt(1.0 - sine**2) - 1.0) * along * direction)


def _rolled_back(points: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Turn points (..., V, 2) in the image by the negative of radians (...)."""
    cosine, sine = np.cos(roll)[..., None], np.sin(roll)[..., None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([cosine * x + sine * y, cosine * y - sine * x], axis=-1)


@cache
def _stable_model() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the centred stable landmarks of the mean face, their products, and their inverse.

    Shapes (S, 3), (3, 3), (3, 3).
    """
    model = mean_face()[STABLE_LANDMARKS]
    model = model - model.mean(0)
    products = model.T @ model
    return model, products, np.linalg.inv(products)


def _nearest_rows(affine: np.ndarray) -> np.ndarray:
    """Return the first two rows of the rotation nearest to an affine map: (..., 2, 3)."""
    left, _, right = np.linalg.svd(affine, full_matrices=False)
    return np.asarray(left @ right)


def _complete(rows: np.ndarray) -> np.ndarray:
    """Add the third row of a rotation: (..., 2, 3) to (..., 3, 3)."""
    rotation = np.empty((*rows.shape[:-2], 3, 3))
    rotation[..., :2, :] = rows
    for axis in range(3):  # the cross product; numpy's own is slow for one frame
        one, other = rows[..., axis - 2], rows[..., axis - 1]
        rotation[..., 2, axis] = one[..., 0] * other[..., 1] - other[..., 0] * one[..., 1]
    return rotation


def _best_scale(rows: np.ndarray, seen: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the scale of least squares for rows of a rotation (..., 2, 3): (...), above 0."""
    lowest = LOWEST_SCALE * np.abs(seen).max((-2, -1)) + TINY
    scale = (seen * rows).sum((-2, -1)) / (rows @ own * rows).sum((-2, -1))
    return np.asarray(np.maximum(scale, lowest))


def _turn(vectors: np.ndarray) -> np.ndarray:
    """Return the rotations by vectors of radians, (..., 3) to (..., 3, 3) (Rodrigues)."""
    angle = np.maximum(np.linalg.norm(vectors, axis=-1), TINY)[..., None, None]
    cross = np.zeros((*vectors.shape, 3))
    cross[..., 2, 1] = vectors[..., 0]
    cross[..., 0, 2] = vectors[..., 1]
    cross[..., 1, 0] = vectors[..., 2]
    cross -= np.swapaxes(cross, -1, -2)
    return np.asarray(
        np.eye(3) + np.sin(angle) / angle * cross
        + (1.0 - np.cos(angle)) / angle**2 * (cross @ cross)
    )
