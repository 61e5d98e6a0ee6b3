# SPDX-License-Identifier: Apache-2.0
"""From the landmarks of tracked faces to their expressions, frame by frame."""

from collections.abc import Collection

import numpy as np
import torch

from fer_perception.graph.edges import edge_vectors
from fer_perception.graph.normalization import normalize_landmarks
from fer_perception.graph.resampling import TrackResampler
from fer_perception.inference.streaming import StreamingPstBln
from fer_perception.models.model_file import LoadedModel
from fer_perception.uncertainty.estimate import DecisionRule, ExpressionEstimate
from fer_perception.uncertainty.measures import measure_uncertainty


class ExpressionRecognizer:
    """Keeps one stream per face and reads every new frame with Monte Carlo dropout."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        mc_samples: int = 100,
        rule: DecisionRule | None = None,
        seed: int | None = None,
    ) -> None:
        """Prepare a model; `rule` replaces the thresholds of the model file.

        Raises ValueError for a model that cannot stream.
        """
        if model.description.clip_frames:
            raise ValueError(
                f'the model reads whole clips of {model.description.clip_frames} frames and '
                'cannot follow a camera: fit or grow one to a frame rate, without --frames'
            )
        self._description = model.description
        self._edges = model.description.edges
        self._network = StreamingPstBln(model.network, samples=mc_samples, seed=seed)
        self._device = self._network.head_weight.device
        self.rule = rule or model.description.rule
        self._faces: dict[str, _FaceStream] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""
        return self._description.classes

    def update(
        self, face_id: str, landmarks: np.ndarray, time_s: float
    ) -> ExpressionEstimate | None:
        """Add a frame of one face and answer for the window that ends with it.

        landmarks: (68, 2) pixels; time_s: seconds. Returns None if the frame completes no step
        of the model's frame rate (a camera faster than the model). After a gap of more than a
        second the face starts anew. Raises ValueError for landmarks that are no face.
        """
        normalized = normalize_landmarks(landmarks, self._description.normalization)
        face = self._faces.get(face_id)
        if face is None:
            face = self._faces[face_id] = _FaceStream(self._network, self._description.frame_rate)
        if face.resampler.breaks_before(time_s):
            face.stream.reset()
        ticks = face.resampler.push(time_s, normalized)  # (n, 68, 2)
        if not len(ticks):
            return None
        vectors = edge_vectors(ticks, self._edges)  # (2, n, E)
        for frame in torch.from_numpy(vectors).to(self._device).unbind(1):
            logits = face.stream.step(frame)  # (S, C)
        samples = (logits / self._description.temperature).softmax(-1)
        return ExpressionEstimate.from_uncertainty(
            measure_uncertainty(samples.cpu().numpy()),
            labels=self.labels,
            rule=self.rule,
            window_s=face.stream.frames / self._description.frame_rate,
        )

    def keep_only(self, face_ids: Collection[str]) -> None:
        """Free the streams of all other faces."""
        for face_id in self._faces.keys() - set(face_ids):
            del self._faces[face_id]


class _FaceStream:
    def __init__(self, network: StreamingPstBln, frame_rate: float) -> None:
        self.stream = network.stream()
        self.resampler = TrackResampler(frame_rate=frame_rate)
