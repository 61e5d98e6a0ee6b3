# SPDX-License-Identifier: Apache-2.0
"""What became of a node's images: counts, rates, latencies. Free of ROS, for any thread."""

import threading
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

RATE_SPAN_S = 5.0  # rates and latencies are of the last so many seconds
MOST_KEPT = 2048  # images that are kept of them
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, kw_only=True)
class ImageReport:
    """Hold the figures of one moment; rates, latencies and ages are of the last 5 s."""

    received: int
    processed: int
    dropped: int  # replaced by newer ones before they were taken up
    faults: dict[str, int]  # images without an answer for another reason, by kind
    last_fault: str  # its text; empty if there was none
    recent_faults: int  # in the last 5 s
    received_hz: float
    processed_hz: float
    silence_s: float  # since the last image came, or since images were waited for
    processing_ms: dict[int, float]  # by percentile; empty if no image was processed
    age_ms: dict[int, float]  # from stamp to arrival, by percentile; empty without stamps
    faces: int  # in the last image
    samples: int  # Monte Carlo samples of the last image with a face


@dataclass
class _Recent:
    """What happened in the last seconds: (time, value)."""

    events: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))

    def values(self, now_s: float) -> list[float]:
        while self.events and self.events[0][0] < now_s - RATE_SPAN_S:
            self.events.popleft()
        return [value for _, value in self.events]


class ImageStatistics:
    """
    Counts images and remembers how long they took.

    All times are seconds of one monotonic clock; an age of None is that of an image without a
    stamp.
    """

    def __init__(self, *, now_s: float) -> None:
        self._lock = threading.Lock()
        self._received = self._processed = self._dropped = 0
        self._faults: Counter[str] = Counter()
        self._last_fault = ''
        self._faces = self._samples = 0
        self._ages, self._durations, self._recent_faults = _Recent(), _Recent(), _Recent()
        self._arrivals = _Recent()
        self.wait_from(now_s)

    def wait_from(self, now_s: float) -> None:
        """Begin to wait for images: silence counts from now, rates begin anew."""
        with self._lock:
            self._started_s = self._last_image_s = now_s
            for recent in (self._arrivals, self._ages, self._durations, self._recent_faults):
                recent.events.clear()

    def receive(self, now_s: float, *, age_ms: float | None, has_replaced: bool) -> None:
        """Count an image that came, and the one that it replaced."""
        with self._lock:
            self._received += 1
            self._dropped += has_replaced
            self._last_image_s = now_s
            self._arrivals.events.append((now_s, 0.0))
            if age_ms is not None:
                self._ages.events.append((now_s, age_ms))

    def process(self, now_s: float, *, processing_ms: float, faces: int, samples: int) -> None:
        """Count an image that was answered; samples of 0 keep the number before."""
        with self._lock:
            self._processed += 1
            self._durations.events.append((now_s, processing_ms))
            self._faces = faces
            self._samples = samples or self._samples

    def fail(self, now_s: float, *, kind: str, text: str) -> int:
        """Count an image that could not be answered; return how many there were of the kind."""
        with self._lock:
            self._faults[kind] += 1
            self._last_fault = text
            self._recent_faults.events.append((now_s, 0.0))
            return self._faults[kind]

    def silence_s(self, now_s: float) -> float:
        """Return the seconds since the last image came, or since images were waited for."""
        with self._lock:
            return now_s - self._last_image_s

    def report(self, now_s: float) -> ImageReport:
        """Return the figures of now."""
        with self._lock:
            durations = self._durations.values(now_s)
            span_s = min(RATE_SPAN_S, max(now_s - self._started_s, 1e-3))
            return ImageReport(
                received=self._received,
                processed=self._processed,
                dropped=self._dropped,
                faults=dict(self._faults),
                last_fault=self._last_fault,
                recent_faults=len(self._recent_faults.values(now_s)),
                received_hz=len(self._arrivals.values(now_s)) / span_s,
                processed_hz=len(durations) / span_s,
                silence_s=now_s - self._last_image_s,
                processing_ms=_percentiles(durations),
                age_ms=_percentiles(self._ages.values(now_s)),
                faces=self._faces,
                samples=self._samples,
            )

    def summary(self) -> str:
        """Say in one line what became of all images."""
        with self._lock:
            counts = [f'{count} left out ({kind})' for kind, count in self._faults.items()]
            return ', '.join(
                [f'{self._processed} images processed', *counts]
                + [f'{self._dropped} dropped for newer ones']
            )


def _percentiles(values: list[float]) -> dict[int, float]:
    if not values:
        return {}
    return dict(zip(PERCENTILES, np.percentile(values, PERCENTILES).tolist(), strict=True))
