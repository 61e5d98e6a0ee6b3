# SPDX-License-Identifier: Apache-2.0
"""What every reader of faces offers: samples of the class probabilities, step by step."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from fer_perception.inference.sample_budget import SampleBudget
from fer_perception.uncertainty.estimate import DecisionRule


@dataclass(frozen=True, kw_only=True)
class FaceReading:
    """Hold what a reader says of one face after one step."""

    samples: np.ndarray  # (S, C) class probabilities, each row summing to 1
    weights: np.ndarray | None = None  # (S,) of the samples, summing to 1; None: all alike
    time_s: float  # seconds since the face's first step; 0 where it starts anew
    window_s: float  # seconds of evidence


class FaceReader(ABC):
    """Follows several faces and reads each as often as its model wants."""

    def __init__(
        self, *, labels: tuple[str, ...], rule: DecisionRule, budget: SampleBudget
    ) -> None:
        """Take what its model says."""
        self.labels = labels  # class names, in the order of the probabilities
        self.rule = rule  # thresholds of the model file
        self.budget = budget  # of Monte Carlo samples; may be changed between two images

    @property
    @abstractmethod
    def description(self) -> str:
        """Say what runs where, in words, for logs."""

    @abstractmethod
    def update(
        self,
        faces: Mapping[str, np.ndarray],
        time_s: float,
        *,
        image: np.ndarray | None = None,
        elapsed_ms: float = 0.0,
    ) -> dict[str, list[FaceReading]]:
        """Add a frame of several faces and read what it completes.

        faces: landmarks (68, 2) in pixels of each face id; time_s: seconds; image: (H, W, 3)
        uint8 BGR, where there is one; elapsed_ms: what of the deadline has passed already.
        Returns the readings of each face, one for every step of the model's frame rate that the
        frame completes, the oldest first; a face without one is missing. After a gap of more than
        a second a face starts anew. Raises ValueError for landmarks that are no face.
        """

    @abstractmethod
    def keep_only(self, face_ids: Collection[str]) -> None:
        """Forget all other faces."""
