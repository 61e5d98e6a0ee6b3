# SPDX-License-Identifier: Apache-2.0
"""Reads faces by their landmarks and by their images, and averages both."""

from collections.abc import Collection, Mapping

import numpy as np

from fer_perception.inference.face_reader import FaceReader, FaceReading
from fer_perception.uncertainty.estimate import DecisionRule


class FusedReader(FaceReader):
    """Mixes the samples of a landmark reader with the latest ones of an image reader.

    The probabilities are the weighted mean of both; where they disagree, mutual information says
    so. Until the image reader has read a face, and where it cannot, the landmarks answer alone.
    """

    def __init__(
        self, landmarks: FaceReader, images: FaceReader, *, image_weight: float = 0.5
    ) -> None:
        """Take both readers and the share of the image reader, 0 to 1.

        Thresholds are the weighted means of both models'. Raises ValueError for a weight out of
        range, or readers of other classes.
        """
        if not 0.0 <= image_weight <= 1.0:
            raise ValueError(f'image_weight must be 0 to 1, not {image_weight}')
        if set(landmarks.labels) != set(images.labels):
            raise ValueError(
                f'the landmark model knows {", ".join(landmarks.labels)}, the image model '
                f'{", ".join(images.labels)}: only models of the same classes can be fused'
            )
        threshold = (1.0 - image_weight) * landmarks.rule.abstention_threshold
        threshold += image_weight * images.rule.abstention_threshold
        super().__init__(
            labels=landmarks.labels,
            rule=DecisionRule(
                abstention_threshold=threshold,
                warm_up_s=max(landmarks.rule.warm_up_s, images.rule.warm_up_s),
            ),
            budget=landmarks.budget,
        )
        self._landmarks, self._images = landmarks, images
        self._image_weight = image_weight
        self._order = [images.labels.index(label) for label in landmarks.labels]
        self._latest: dict[str, FaceReading] = {}  # of the image reader

    @property
    def description(self) -> str:
        """Say what runs where, in words, for logs."""
        return (
            f'{self._landmarks.description}, and by {self._image_weight:.2g} '
            f'{self._images.description}'
        )

    def update(
        self,
        faces: Mapping[str, np.ndarray],
        time_s: float,
        *,
        image: np.ndarray | None = None,
        elapsed_ms: float = 0.0,
    ) -> dict[str, list[FaceReading]]:
        """Add a frame of several faces, see FaceReader; the landmark reader's steps count."""
        self._images.budget.most = self.budget.most
        if image is not None:
            for face_id, steps in self._images.update(faces, time_s, image=image).items():
                self._latest[face_id] = steps[-1]
        by_landmarks = self._landmarks.update(faces, time_s, elapsed_ms=elapsed_ms)
        return {
            face_id: [self._mix(face_id, reading) for reading in steps]
            for face_id, steps in by_landmarks.items()
        }

    def keep_only(self, face_ids: Collection[str]) -> None:
        """Forget all other faces."""
        self._landmarks.keep_only(face_ids)
        self._images.keep_only(face_ids)
        for face_id in self._latest.keys() - set(face_ids):
            del self._latest[face_id]

    def _mix(self, face_id: str, reading: FaceReading) -> FaceReading:
        other = self._latest.get(face_id)
        if other is None:
            return reading
        return FaceReading(
            samples=np.concatenate([reading.samples, other.samples[:, self._order]]),
            weights=np.concatenate([
                (1.0 - self._image_weight) * _weights(reading),
                self._image_weight * _weights(other),
            ]),
            time_s=reading.time_s,
            window_s=reading.window_s,
        )


def _weights(reading: FaceReading) -> np.ndarray:
    """Return the weights of a reading's samples (S,)."""
    if reading.weights is not None:
        return reading.weights
    return np.full(len(reading.samples), 1.0 / len(reading.samples))
