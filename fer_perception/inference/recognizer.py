# SPDX-License-Identifier: Apache-2.0
"""From the landmarks of tracked faces to their expressions, frame by frame."""

import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from scipy.special import softmax

from fer_perception.graph.baseline import Baseline
from fer_perception.graph.edges import edge_vectors
from fer_perception.graph.normalization import normalize_landmarks
from fer_perception.graph.resampling import TrackResampler
from fer_perception.inference.sample_budget import SampleBudget
from fer_perception.inference.stream import ExpressionStream, StreamingNetwork
from fer_perception.models.model_file import ModelDescription
from fer_perception.uncertainty.estimate import DecisionRule, ExpressionEstimate
from fer_perception.uncertainty.hysteresis import StateHysteresis
from fer_perception.uncertainty.measures import measure_uncertainty


class ExpressionRecognizer:
    """Keeps one stream per face and reads every new frame with Monte Carlo dropout."""

    def __init__(
        self,
        network: StreamingNetwork[Any],
        description: ModelDescription,
        *,
        rule: DecisionRule | None = None,
        deadline_ms: float = 0.0,
    ) -> None:
        """Take a network and the description of its model.

        `rule` replaces the thresholds of the model file. With a deadline in milliseconds the
        number of samples of an image is lowered rather than passing it.
        """
        self._network = network
        self._description = description
        self._edges = description.edges
        self.rule = rule or description.rule
        self.budget = SampleBudget(network.samples, deadline_ms=deadline_ms)
        self._faces: dict[str, _FaceStream] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""
        return self._description.classes

    def update(
        self, faces: Mapping[str, np.ndarray], time_s: float, *, elapsed_ms: float = 0.0
    ) -> dict[str, ExpressionEstimate]:
        """Add a frame of several faces and answer for the windows that end with it.

        faces: landmarks (68, 2) in pixels of each face id; time_s: seconds; elapsed_ms: what of
        the deadline has passed already. A face whose frame completes no step of the model's frame
        rate (a camera faster than the model) is missing from the answer. After a gap of more than
        a second a face starts anew. Raises ValueError for landmarks that are no face.
        """
        due: dict[str, np.ndarray] = {}  # (C, n, E) of each face, n > 0
        for face_id, landmarks in faces.items():
            vectors = self._network_input(face_id, landmarks, time_s)
            if vectors.shape[1]:
                due[face_id] = vectors
        steps = sum(vectors.shape[1] for vectors in due.values())
        samples = self.budget.choose(steps=steps, elapsed_ms=elapsed_ms)
        if samples != self._network.samples:
            self._network.samples = samples
        spent_ms = 0.0
        estimates: dict[str, ExpressionEstimate] = {}
        for tick in range(max((vectors.shape[1] for vectors in due.values()), default=0)):
            ids = [face_id for face_id, vectors in due.items() if vectors.shape[1] > tick]
            started = time.perf_counter()
            answers = self._network.step(
                [self._faces[face_id].stream for face_id in ids],
                np.stack([due[face_id][:, tick] for face_id in ids]),
            )
            spent_ms += (time.perf_counter() - started) * 1e3
            for face_id, logits in zip(ids, answers, strict=True):
                estimates[face_id] = self._estimate(self._faces[face_id], logits)
        self.budget.record(steps=steps, samples=samples, spent_ms=spent_ms)
        return estimates

    def keep_only(self, face_ids: Collection[str]) -> None:
        """Free the streams of all other faces."""
        for face_id in self._faces.keys() - set(face_ids):
            del self._faces[face_id]

    def _network_input(self, face_id: str, landmarks: np.ndarray, time_s: float) -> np.ndarray:
        """Return what the network reads at the ticks that a frame completes: (C, n, E)."""
        normalized = normalize_landmarks(landmarks, self._description.normalization)
        face = self._faces.get(face_id)
        if face is None:
            face = self._faces[face_id] = _FaceStream(self._network, self._description)
        if face.resampler.breaks_before(time_s):
            face.reset()
        vectors = edge_vectors(face.resampler.push(time_s, normalized), self._edges)  # (2, n, E)
        return vectors if face.baseline is None else face.baseline.push(vectors)

    def _estimate(self, face: '_FaceStream', logits: np.ndarray) -> ExpressionEstimate:
        """Make the estimate of the face's latest step; every step counts for its state."""
        samples = softmax(logits / self._description.temperature, axis=-1)  # (S, C)
        uncertainty = measure_uncertainty(samples)
        window_s = face.stream.frames / self._description.frame_rate
        state = face.hysteresis.update(
            uncertainty.probabilities,
            time_s=face.steps / self._description.frame_rate,
            evidence_s=window_s,
            rule=self.rule,
        )
        face.steps += 1
        return ExpressionEstimate.from_uncertainty(
            uncertainty, labels=self.labels, state=state, window_s=window_s
        )


class _FaceStream:
    """What is remembered of one face."""

    def __init__(self, network: StreamingNetwork[Any], description: ModelDescription) -> None:
        self.stream: ExpressionStream = network.stream()
        self.resampler = TrackResampler(frame_rate=description.frame_rate)
        span = description.baseline_frames
        self.baseline = Baseline(frames=span) if span else None
        self.hysteresis = StateHysteresis()
        self.steps = 0  # since the first frame, or the one after the last gap

    def reset(self) -> None:
        """Forget the frames before a gap; the resampler finds gaps by itself."""
        self.stream.reset()
        if self.baseline is not None:
            self.baseline.reset()
        self.hysteresis.reset()
        self.steps = 0
