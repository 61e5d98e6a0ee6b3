# SPDX-License-Identifier: Apache-2.0
"""A face against its own recent past: what tells a small expression from a person's features.

People's resting faces differ by more than a subtle expression does. The baseline of a face is the
mean of its first frames, which follows what comes after them slowly: an exponential average over
its span. A plain mean of all frames so far would follow an expression that begins soon after them
at once, and hide half of it. The baseline sees the past only, so that streams can use it.
"""

import numpy as np

FIRST_FRAMES = 5  # at 30 Hz a sixth of a second: few enough to be of one expression


class Baseline:
    """Puts every frame of a stream beside its difference from the baseline."""

    def __init__(self, *, frames: int) -> None:
        """Take the span of the average in frames, 1 or more; ValueError otherwise."""
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
        difference from the baseline, which the frame itself has moved by then: with t frames so
        far it weighs 1 / min(t, span) in it, t up to FIRST_FRAMES, and 1 / span afterwards.
        """
        differences = np.empty_like(vectors)
        mean = self._mean
        if mean is None:
            mean = np.zeros((*vectors.shape[:-2], vectors.shape[-1]))  # (..., C, E)
        for index in range(vectors.shape[-2]):
            self._frames += 1
            frame = vectors[..., index, :]
            is_settled = self._frames > FIRST_FRAMES
            weight = 1.0 / (self._span if is_settled else min(self._frames, self._span))
            mean = mean + weight * (frame - mean)
            differences[..., index, :] = frame - mean
        self._mean = mean
        return np.concatenate([vectors, differences], axis=-3)
