# SPDX-License-Identifier: Apache-2.0
"""What every streaming backend offers: one network for all faces, one stream for each face.

Shapes: S samples, C channels, E edges, F faces.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from fer_perception.models.pst_bln import PstBlnConfig


class ExpressionStream(Protocol):
    """The state of one face in one backend."""

    @property
    def frames(self) -> int:
        """Frames of evidence in the window, up to its length."""

    def step(
        self, edge_vectors: np.ndarray, *, masks: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Take one frame and answer for the window that ends with it.

        edge_vectors: (2, E) float32. Returns logits (S, classes) float32; S = 1 with dropout off.
        `masks` replaces the random masks: for each dropout of the network in turn an array that
        broadcasts to (C, S, E), 0 where it drops and 1 where it keeps.
        """

    def clip(
        self,
        edge_vectors: np.ndarray,
        *,
        masks: Sequence[Sequence[np.ndarray]] | None = None,
    ) -> np.ndarray:
        """Take a whole clip from a reset state and return the answer after each frame.

        edge_vectors: (2, T, E); `masks`: those of each frame. Returns logits (T, S, classes).
        """

    def reset(self) -> None:
        """Forget every frame."""


Stream = TypeVar('Stream', bound=ExpressionStream)


class StreamingNetwork(Protocol[Stream]):
    """The weights of a causal network in one backend; faces share them."""

    config: PstBlnConfig
    description: str  # backend, precision and device in words, for logs

    @property
    def samples(self) -> int:
        """Monte Carlo samples of every answer; 0: dropout is off."""

    @samples.setter
    def samples(self, samples: int) -> None:
        """Change the number of samples from the next step on; 1 or more.

        Streams that go on keep what they remember; streams that are added begin as copies of
        others, and are independent of them once their masks have passed out of the window.
        Raises ValueError for a number below 1, or if dropout is off.
        """

    @property
    def receptive_field(self) -> int:
        """Frames that an answer can depend on: the window and what its first frame saw."""

    @property
    def bytes_per_face(self) -> int:
        """Memory in bytes that the state of one face takes."""

    def stream(self) -> Stream:
        """Start the stream of one face."""

    def step(
        self, streams: Sequence[Stream], edge_vectors: np.ndarray
    ) -> list[np.ndarray]:
        """Take one frame of each of several faces, in one batch where that pays.

        edge_vectors: (F, 2, E) float32. Returns the logits (S, classes) of each face.
        """
