# SPDX-License-Identifier: Apache-2.0
"""How many Monte Carlo samples an image can have before its deadline."""

LEAST_SAMPLES = 10  # fewer say nothing about a spread
STEP = 5  # numbers of samples are multiples of it: streams are rebuilt when they change
GROWTH = 1.2  # by less than this it is not worth rebuilding the streams for more samples
SMOOTHING = 0.2  # weight of the newest image in the running mean of the cost


class SampleBudget:
    """Lowers the number of samples where they would take longer than there is time."""

    def __init__(self, most: int, *, deadline_ms: float = 0.0) -> None:
        """Allow up to `most` samples; a deadline of 0 allows them always."""
        self._cost_ms = 0.0  # of one sample of one face, running mean; 0: not measured yet
        self._current = most
        self.most = most
        self.deadline_ms = deadline_ms

    @property
    def most(self) -> int:
        """The number of samples where time allows it; may be changed between two images."""
        return self._most

    @most.setter
    def most(self, most: int) -> None:
        if most < 1:
            raise ValueError(f'samples must be 1 or more, not {most}')
        self._most = most

    @property
    def deadline_ms(self) -> float:
        """Milliseconds from an image's arrival to its answer, 0: any; may be changed."""
        return self._deadline_ms

    @deadline_ms.setter
    def deadline_ms(self, deadline_ms: float) -> None:
        if not deadline_ms >= 0.0:
            raise ValueError(f'deadline_ms must be 0 (none) or more, not {deadline_ms}')
        self._deadline_ms = deadline_ms

    def choose(self, *, steps: int, elapsed_ms: float) -> int:
        """Say how many samples the next steps may have.

        steps: steps of streams that the image needs, over all faces; elapsed_ms: time that has
        passed since the image arrived. Returns `most`, or less, but never below 10.
        """
        most = self._most  # read once: another thread may change it
        affordable = most
        if self._deadline_ms and self._cost_ms and steps:
            left_ms = max(self._deadline_ms - elapsed_ms, 0.0)
            affordable = int(left_ms / (self._cost_ms * steps)) // STEP * STEP
        allowed = min(max(affordable, LEAST_SAMPLES), most)
        if allowed < self._current or allowed == most or allowed >= self._current * GROWTH:
            self._current = allowed
        return self._current

    def record(self, *, steps: int, samples: int, spent_ms: float) -> None:
        """Learn what the steps of an image took."""
        if not steps or not samples:
            return
        cost_ms = spent_ms / (steps * samples)
        if not self._cost_ms:
            self._cost_ms = cost_ms
        else:
            self._cost_ms += SMOOTHING * (cost_ms - self._cost_ms)
