# SPDX-License-Identifier: Apache-2.0
"""From tracked faces to their expressions, frame by frame."""

from collections.abc import Collection, Mapping

import numpy as np

from fer_perception.inference.face_reader import FaceReader, FaceReading
from fer_perception.inference.sample_budget import SampleBudget
from fer_perception.uncertainty.estimate import DecisionRule, ExpressionEstimate
from fer_perception.uncertainty.hysteresis import StateHysteresis
from fer_perception.uncertainty.measures import measure_uncertainty


class ExpressionRecognizer:
    """Measures how uncertain every reading of a face is, and decides when it is CONFIDENT."""

    def __init__(self, reader: FaceReader, *, rule: DecisionRule | None = None) -> None:
        """Take what reads the faces; `rule` replaces the thresholds of its model file."""
        self.reader = reader
        self.rule = rule or reader.rule
        self._states: dict[str, StateHysteresis] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""
        return self.reader.labels

    @property
    def budget(self) -> SampleBudget:
        """How many samples an image may have; may be changed between two images."""
        return self.reader.budget

    def update(
        self,
        faces: Mapping[str, np.ndarray],
        time_s: float,
        *,
        image: np.ndarray | None = None,
        elapsed_ms: float = 0.0,
    ) -> dict[str, ExpressionEstimate]:
        """Add a frame of several faces and answer for the windows that end with it.

        The arguments are those of FaceReader. A face whose frame completes no step of the model's
        frame rate (a camera faster than the model) is missing from the answer. After a gap of more
        than a second a face starts anew. Raises ValueError for landmarks that are no face.
        """
        readings = self.reader.update(faces, time_s, image=image, elapsed_ms=elapsed_ms)
        return {
            face_id: [self._estimate(face_id, reading) for reading in steps][-1]
            for face_id, steps in readings.items()
        }

    def keep_only(self, face_ids: Collection[str]) -> None:
        """Forget all other faces."""
        self.reader.keep_only(face_ids)
        for face_id in self._states.keys() - set(face_ids):
            del self._states[face_id]

    def _estimate(self, face_id: str, reading: FaceReading) -> ExpressionEstimate:
        """Make the estimate of a step; every step counts for the face's state."""
        uncertainty = measure_uncertainty(reading.samples, weights=reading.weights)
        hysteresis = self._states.setdefault(face_id, StateHysteresis())
        if reading.time_s == 0.0:
            hysteresis.reset()
        state = hysteresis.update(
            uncertainty.probabilities,
            time_s=reading.time_s,
            evidence_s=reading.window_s,
            rule=self.rule,
        )
        return ExpressionEstimate.from_uncertainty(
            uncertainty, labels=self.labels, state=state, window_s=reading.window_s
        )
