# SPDX-License-Identifier: Apache-2.0
"""Landmarks for tests, made from plain geometry: a schematic face that moves a little."""

import numpy as np


def face_landmarks(*, frames: int, seed: int = 1, movement: float = 1.0) -> np.ndarray:
    """Make the landmarks of a face about 100 pixels wide: (frames, 68, 2) float64."""

    def arc(count: int, start: float, end: float, size: tuple[float, float]) -> np.ndarray:
        angles = np.linspace(start, end, count)
        return np.stack([size[0] * np.cos(angles), size[1] * np.sin(angles)], axis=1)

    turn = 2 * np.pi
    eye = arc(7, np.pi, np.pi + turn, (10.0, 5.0))[:6]
    face = np.concatenate(
        [
            arc(17, np.pi, 0.0, (60.0, 75.0)),
            np.stack([np.linspace(-45, -12, 5), [-42, -48, -50, -48, -44]], axis=1),
            np.stack([np.linspace(12, 45, 5), [-44, -48, -50, -48, -42]], axis=1),
            np.stack([np.zeros(4), np.linspace(-32, -8, 4)], axis=1),
            np.stack([np.linspace(-10, 10, 5), [1, 3, 4, 3, 1]], axis=1),
            eye + (-28, -30),
            eye + (28, -30),
            arc(13, np.pi, np.pi + turn, (20.0, 9.0))[:12] + (0, 30),
            arc(9, np.pi, np.pi + turn, (15.0, 3.0))[:8] + (0, 30),
        ]
    )
    steps = np.random.default_rng(seed).normal(0.0, movement, (frames, 68, 2))
    return face + steps


def transformed(
    landmarks: np.ndarray, *, scale: float, roll: float, shift: tuple[float, float]
) -> np.ndarray:
    """Scale, turn (radians) and shift landmarks (..., 68, 2)."""
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    return scale * landmarks @ turn + np.array(shift)
