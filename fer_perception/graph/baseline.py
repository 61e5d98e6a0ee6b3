# SPDX-License-Identifier: Apache-2.0
"""A face against its own recent past: what tells a small expression from a person's features.

People's resting faces differ by more than a subtle expression does. The baseline of a face is the
mean of its frames so far; after its span it forgets older ones exponentially. It sees the past
only, so that streams can use it.
"""

import numpy as np


class Baseline:
    """Puts every frame of a stream beside its difference from the baseline."""

    def __init__(self, *, frames: int) -> None:
        """Take the span of the baseline in frames, 1 or more; ValueError otherwise."""
        if frames < 1:
            raise ValueError(f'a baseline must span at least 1 frame, not {frames}')
        self._span = frames
        self.reset()

    def reset(self) -> None:
        """Forget every frame."""
        self._frames = 0
        self._mean: np.ndarray | None = None

    def push(self, vectors: np.ndarray) -> np.ndarray:
        """Add the next frames of one or more streams that run side by side.

        vectors: (..., C, T, E), T may be 0. Returns (..., 2 C, T, E): what came in, and its
        difference from the mean of the frames so far, itself among them. With t frames so far the
        newest weighs 1 / min(t, span) in the mean.
        """
        differences = np.empty_like(vectors)
        mean = self._mean
        if mean is None:
            mean = np.zeros((*vectors.shape[:-2], vectors.shape[-1]))  # (..., C, E)
        for index in range(vectors.shape[-2]):
            self._frames += 1
            frame = vectors[..., index, :]
            mean = mean + (frame - mean) / min(self._frames, self._span)
            differences[..., index, :] = frame - mean
        self._mean = mean
        return np.concatenate([vectors, differences], axis=-3)
