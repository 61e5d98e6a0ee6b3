# SPDX-License-Identifier: Apache-2.0
"""What the tests of faces share: the loaded landmark model, and a face made of numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fer_perception.faces import LandmarkPredictor
from fer_perception.faces.place import FacePlace


@pytest.fixture(scope='session')
def predictor(landmark_model_path: Path) -> LandmarkPredictor:
    """Return the landmark model, loaded once for all tests."""
    return LandmarkPredictor(landmark_model_path)


@pytest.fixture(scope='session')
def drawn_face() -> np.ndarray:
    """Return landmarks (68, 2) whose place is the square of side 1 around (0, 0), upright."""
    angles = np.linspace(0, np.pi, 17)
    jaw = np.stack([-np.cos(angles), 0.2 + np.sin(angles)], axis=1)
    brows = np.stack([np.linspace(-0.8, 0.8, 10), np.full(10, -0.4)], axis=1)
    nose = np.stack([np.linspace(-0.2, 0.2, 9), np.full(9, 0.2)], axis=1)
    turn = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    eye = 0.15 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    mouth = [0, 0.7] + 0.35 * np.stack([np.cos(turn), np.sin(turn) / 2], axis=1)
    points = np.concatenate([jaw, brows, nose, eye + [-0.45, -0.1], eye + [0.45, -0.1], mouth])
    place = FacePlace.from_landmarks(points)
    result: np.ndarray = (points - [place.x, place.y]) / place.side
    return result
