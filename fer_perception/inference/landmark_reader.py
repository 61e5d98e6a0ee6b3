# SPDX-License-Identifier: Apache-2.0
"""Reads faces by their landmarks: a streaming network with Monte Carlo dropout."""

import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from fer_perception.graph.baseline import Baseline
from fer_perception.graph.edges import edge_vectors
from fer_perception.graph.landmarks import check_landmarks
from fer_perception.graph.normalization import normalize_landmarks
from fer_perception.graph.resampling import TrackResampler
from fer_perception.inference.face_reader import FaceReader, FaceReading
from fer_perception.inference.sample_budget import SampleBudget
from fer_perception.inference.stream import ExpressionStream, StreamingNetwork
from fer_perception.models.model_file import ModelDescription
from fer_perception.models.pst_bln import PstBln


class LandmarkReader(FaceReader):
    """Keeps one stream per face and reads every new frame with Monte Carlo dropout."""

    def __init__(
        self,
        network: StreamingNetwork[Any],
        model: ModelDescription,
        *,
        deadline_ms: float = 0.0,
    ) -> None:
        """Take a network and the description of its model.

        With a deadline in milliseconds the number of samples of an image is lowered rather than
        passing it.
        """
        super().__init__(
            labels=model.classes,
            rule=model.rule,
            budget=SampleBudget(network.samples, deadline_ms=deadline_ms),
        )
        self._network = network
        self._model = model
        self._edges = model.edges
        with torch.device('meta'):  # its weights are not needed to count them
            self._topology = PstBln(network.config, quiet=True).parameter_summary()
        self._faces: dict[str, _FaceStream] = {}

    @property
    def description(self) -> str:
        """Say what runs where, in words, for logs."""
        return f'{self._topology}; {self._network.description}'

    def update(
        self,
        faces: Mapping[str, np.ndarray],
        time_s: float,
        *,
        image: np.ndarray | None = None,
        elapsed_ms: float = 0.0,
    ) -> dict[str, list[FaceReading]]:
        """Add a frame of several faces, see FaceReader; the image is not looked at."""
        due: dict[str, np.ndarray] = {}  # (C, n, E) of each face, n > 0
        for face_id, normalized in self._normalized(faces).items():
            vectors = self._network_input(face_id, normalized, time_s)
            if vectors.shape[1]:
                due[face_id] = vectors
        steps = sum(vectors.shape[1] for vectors in due.values())
        samples = self.budget.choose(steps=steps, elapsed_ms=elapsed_ms)
        if samples != self._network.samples:
            self._network.samples = samples
        spent_ms = 0.0
        readings: dict[str, list[FaceReading]] = {face_id: [] for face_id in due}
        for tick in range(max((vectors.shape[1] for vectors in due.values()), default=0)):
            ids = [face_id for face_id, vectors in due.items() if vectors.shape[1] > tick]
            started = time.perf_counter()
            answers = self._network.step(
                [self._faces[face_id].stream for face_id in ids],
                np.stack([due[face_id][:, tick] for face_id in ids]),
            )
            spent_ms += (time.perf_counter() - started) * 1e3
            for face_id, logits in zip(ids, answers, strict=True):
                readings[face_id].append(self._reading(self._faces[face_id], logits))
        self.budget.record(steps=steps, samples=samples, spent_ms=spent_ms)
        return readings

    def keep_only(self, face_ids: Collection[str]) -> None:
        """Free the streams of all other faces."""
        for face_id in self._faces.keys() - set(face_ids):
            del self._faces[face_id]

    def _normalized(self, faces: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Normalise all faces (68, 2) of an image at once: several cost little more than one."""
        if not faces:
            return {}
        landmarks = np.stack([check_landmarks(points) for points in faces.values()])
        normalized = normalize_landmarks(landmarks, self._model.normalization)
        return dict(zip(faces, normalized, strict=True))

    def _network_input(self, face_id: str, normalized: np.ndarray, time_s: float) -> np.ndarray:
        """Return what the network reads at the ticks that a frame completes: (C, n, E)."""
        face = self._faces.get(face_id)
        if face is None:
            face = self._faces[face_id] = _FaceStream(self._network, self._model)
        if face.resampler.breaks_before(time_s):
            face.reset()
        vectors = edge_vectors(face.resampler.push(time_s, normalized), self._edges)  # (2, n, E)
        return vectors if face.baseline is None else face.baseline.push(vectors)

    def _reading(self, face: '_FaceStream', logits: np.ndarray) -> FaceReading:
        """Make the reading of a face's latest step: logits (S, C)."""
        reading = FaceReading(
            samples=softmax(logits / self._model.temperature, axis=-1),
            time_s=face.steps / self._model.frame_rate,
            window_s=face.stream.frames / self._model.frame_rate,
        )
        face.steps += 1
        return reading


class _FaceStream:
    """What is remembered of one face."""

    def __init__(self, network: StreamingNetwork[Any], model: ModelDescription) -> None:
        self.stream: ExpressionStream = network.stream()
        self.resampler = TrackResampler(frame_rate=model.frame_rate)
        span = model.baseline_frames
        self.baseline = Baseline(frames=span) if span else None
        self.steps = 0  # since the first frame, or the one after the last gap

    def reset(self) -> None:
        """Forget the frames before a gap; the resampler finds gaps by itself."""
        self.stream.reset()
        if self.baseline is not None:
            self.baseline.reset()
        self.steps = 0
