# SPDX-License-Identifier: Apache-2.0
"""Random courses in time, of one sequence: drifts, steps and pulses."""

import numpy as np
from scipy.ndimage import gaussian_filter1d


def smooth_step(position: np.ndarray) -> np.ndarray:
    """Rise smoothly from 0 at position 0 to 1 at position 1."""
    position = np.clip(position, 0.0, 1.0)
    return position * position * (3.0 - 2.0 * position)


class Courses:
    """Draws courses over the frames of a sequence, all from one random generator."""

    def __init__(
        self, generator: np.random.Generator, *, frame_rate: float, duration_s: float
    ) -> None:
        """Lay out the frames."""
        self.random = generator
        self.frame_rate = frame_rate
        self.frames = max(2, round(duration_s * frame_rate))
        self.duration_s = self.frames / frame_rate
        self.times_s = np.arange(self.frames) / frame_rate  # (F,)

    def uniform(self, bounds: tuple[float, float]) -> float:
        """Draw a number between two bounds."""
        return float(self.random.uniform(*bounds))

    def happens(self, share: float) -> bool:
        """Draw whether something is so."""
        return bool(self.random.random() < share)

    def drift(self, spread: float, *, smooth_s: float) -> np.ndarray:
        """Draw a smooth course about 0 with a given standard deviation: (F,).

        smooth_s: standard deviation of the Gaussian that smooths it, seconds.
        """
        # Drawn at knots that are as dense as the smoothing needs, whatever the frame rate.
        step_s = smooth_s / 2.0
        knots = int(np.ceil(self.duration_s / step_s)) + 2
        course = gaussian_filter1d(self.random.normal(0.0, 1.0, knots + 16), 2.0)[8:-8]
        positions = np.arange(knots) * step_s
        # A Gaussian of 2 knots leaves 1 / (2 * 2 * sqrt(pi)) of white variance.
        return np.asarray(
            spread * np.interp(self.times_s, positions, course) * np.sqrt(4.0 * np.sqrt(np.pi))
        )

    def pulse(self, start_s: float, *, rise_s: float, hold_s: float, fall_s: float) -> np.ndarray:
        """Rise from 0 to 1, hold and fall again: (F,)."""
        end_s = start_s + rise_s + hold_s
        rise = smooth_step((self.times_s - start_s) / rise_s)
        return rise * (1.0 - smooth_step((self.times_s - end_s) / fall_s))
