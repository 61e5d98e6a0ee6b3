# SPDX-License-Identifier: Apache-2.0
"""What every streaming backend offers: one network for all faces, one stream for each face.

Shapes: S samples, C channels, E edges, F faces.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from fer_perception.models.pst_bln import PstBlnConfig


class ExpressionStream(ABC):
    """The state of one face in one backend."""

    def __init__(self, config: PstBlnConfig) -> None:
        """Begin without a frame."""
        self._config = config
        self._frames = 0  # since the last reset

    @property
    def frames(self) -> int:
        """Frames of evidence in the window, up to its length."""
        return min(self._frames, self._config.window)

    @abstractmethod
    def step(
        self, edge_vectors: np.ndarray, *, masks: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Take one frame and answer for the window that ends with it.

        edge_vectors: (2, E) float32. Returns logits (S, classes) float32; S = 1 with dropout off.
        `masks` replaces the random masks: for each dropout of the network in turn an array that
        broadcasts to (C, S, E), 0 where it drops and 1 where it keeps.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget every frame."""

    def clip(
        self,
        edge_vectors: np.ndarray,
        *,
        masks: Sequence[Sequence[np.ndarray]] | None = None,
    ) -> np.ndarray:
        """Take a whole clip from a reset state and return the answer after each frame.

        edge_vectors: (2, T, E); `masks`: those of each frame. Returns logits (T, S, classes).
        """
        self.reset()
        return np.stack(
            [
                self.step(edge_vectors[:, t], masks=None if masks is None else masks[t])
                for t in range(edge_vectors.shape[1])
            ]
        )


Stream = TypeVar('Stream', bound=ExpressionStream)


class StreamingNetwork(ABC, Generic[Stream]):
    """The weights of a causal network in one backend; faces share them."""

    description: str  # backend, precision and device in words, for logs

    def __init__(self, config: PstBlnConfig, *, samples: int) -> None:
        """Take the number of samples; 0 turns dropout off. ValueError for a negative one."""
        if samples < 0:
            raise ValueError(f'samples must be 0 (dropout off) or more, not {samples}')
        self.config = config
        self._samples = samples

    @property
    def samples(self) -> int:
        """Monte Carlo samples of every answer; 0: dropout is off."""
        return self._samples

    @samples.setter
    def samples(self, samples: int) -> None:
        """Change the number of samples from the next step on; 1 or more.

        Streams that go on keep what they remember; streams that are added begin as copies of
        others, and are independent of them once their masks have passed out of the window.
        Raises ValueError for a number below 1, or if dropout is off.
        """
        if not self._samples:
            raise ValueError('dropout is off, so there are no samples to change')
        if samples < 1:
            raise ValueError(f'samples must be 1 or more, not {samples}')
        self._samples = samples

    @property
    def receptive_field(self) -> int:
        """Frames that an answer can depend on: the window and what its first frame saw."""
        return self.config.receptive_field + self.config.window - 1

    @property
    @abstractmethod
    def bytes_per_face(self) -> int:
        """Memory in bytes that the state of one face takes."""

    @abstractmethod
    def stream(self) -> Stream:
        """Start the stream of one face."""

    def step(self, streams: Sequence[Stream], edge_vectors: np.ndarray) -> list[np.ndarray]:
        """Take one frame of each of several faces, here one after the other.

        edge_vectors: (F, 2, E) float32. Returns the logits (S, classes) of each face.
        """
        return [
            stream.step(frame) for stream, frame in zip(streams, edge_vectors, strict=True)
        ]
