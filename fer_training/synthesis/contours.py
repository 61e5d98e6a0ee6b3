# SPDX-License-Identifier: Apache-2.0
"""Contours: landmarks that a basis and a detector put on different places of one outline."""

import numpy as np

from fer_perception.graph.normalization import face_size
from fer_training.synthesis.config import SynthesisConfig
from fer_training.synthesis.courses import Courses

# Where landmarks slide: (landmark, neighbour), first those of the eyelids, brows and outer lips.
CONTOURS = (
    ((37, 38), (41, 40), (44, 43), (46, 47)),
    ((18, 19), (20, 19), (25, 24), (23, 24)),
    ((49, 50), (53, 52)),
    ((50, 51), (52, 51)),
    ((59, 58), (55, 56)),
    ((58, 57), (56, 57)),
)
INNER_LIPS = (((61, 62), (63, 62)), ((67, 66), (65, 66)))
NOSE_WINGS = {31: 1.0, 32: 0.5, 34: 0.5, 35: 1.0}  # landmark -> share of the rise

# (upper, lower) landmarks that meet when lips or lids close.
MEETING = np.array([(61, 67), (62, 66), (63, 65), (37, 41), (38, 40), (43, 47), (44, 46)])

JAW = np.arange(17)
FACE_FRONT = np.array([36, 39, 42, 45, 48, 54])  # eye and mouth corners
CHEEK_DEPTH = 1.0  # of the cheeks before the jaw line, against the depth of FACE_FRONT


def part_contours(heads: np.ndarray) -> np.ndarray:
    """Let lips and lids that would pass through each other meet halfway: (F, 68, 3), y up."""
    parted = heads.copy()
    upper, lower = MEETING.T
    height = heads[..., 1]  # (F, 68)
    overlap = np.maximum(height[:, lower] - height[:, upper], 0.0)  # (F, 7)
    parted[:, upper, 1] += overlap / 2
    parted[:, lower, 1] -= overlap / 2
    return parted


def slide_jaw(heads: np.ndarray, yaw: np.ndarray, *, share: float) -> np.ndarray:
    """Move the far side's jaw landmarks to the contour that is seen when a head turns.

    A head's cross-section at the height of a jaw landmark is taken for half an ellipse, from that
    landmark at the side to the cheek in front; the contour is where a line of sight touches it.

    heads: (F, 68, 3), x to the model's left, z to the viewer; yaw: (F,) radians, positive when
    the nose turns to x; share: how far to go, 0 to 1. Returns a new array of the same shape, in
    head coordinates before the turn. The near side, and a face seen from the front, stay as
    they are.
    """
    slid = heads.copy()
    jaw = heads[:, JAW]  # (F, 17, 3)
    middle = heads[:, 8:9, 0]  # (F, 1) of the chin
    width = jaw[..., 0] - middle  # (F, 17), positive at the model's left
    front = heads[:, FACE_FRONT, 2].mean(1, keepdims=True)  # (F, 1)
    depth = np.maximum(CHEEK_DEPTH * (front - jaw[..., 2]), 0.0)  # (F, 17)
    far = width * yaw[:, None] > 0.0
    half = np.maximum(np.abs(width), 1e-9)
    angle = share * np.arctan2(depth * np.tan(np.abs(yaw))[:, None], half)  # (F, 17)
    slid[:, JAW, 0] = np.where(far, middle + width * np.cos(angle), jaw[..., 0])
    slid[:, JAW, 2] = np.where(far, jaw[..., 2] + depth * np.sin(angle), jaw[..., 2])
    return slid


def slide_contours(
    landmarks: np.ndarray, config: SynthesisConfig, courses: Courses
) -> np.ndarray:
    """Move landmarks along their contours to where a detector may see them: (F, 68, 2)."""
    slid = landmarks.copy()
    for contours, bounds in (
        (CONTOURS, config.contour_slide),
        (INNER_LIPS, config.inner_lip_slide),
    ):
        for contour in contours:
            share = courses.uniform(bounds)
            points, neighbours = np.array(contour).T
            slid[:, points] += share * (landmarks[:, neighbours] - landmarks[:, points])
    up = landmarks[:, 27] - landmarks[:, 33]  # along the nose
    up = up / np.maximum(np.linalg.norm(up, axis=-1, keepdims=True), 1e-9)
    rise = courses.uniform(config.nose_wing_rise) * np.median(face_size(landmarks))
    for point, share in NOSE_WINGS.items():
        slid[:, point] += share * rise * up
    return slid
