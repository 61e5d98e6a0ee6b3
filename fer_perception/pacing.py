# SPDX-License-Identifier: Apache-2.0
"""Frames of a source at the pace of their stamps."""

import time
from collections.abc import Callable, Iterable, Iterator

from fer_perception.sources import SourceFrame


def paced(
    frames: Iterable[SourceFrame],
    *,
    rate: float = 1.0,
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[SourceFrame]:
    """Give each frame when it is due by its stamp.

    rate: speed factor; wait: waits for so many seconds, or less if somebody is told to stop.
    Where the stamps go back, the pace starts anew.
    """
    start_s = first_ns = last_ns = None
    for frame in frames:
        if start_s is None or first_ns is None or last_ns is None or frame.stamp_ns < last_ns:
            start_s, first_ns = time.monotonic(), frame.stamp_ns
        last_ns = frame.stamp_ns
        due_s = start_s + (frame.stamp_ns - first_ns) * 1e-9 / rate
        wait(max(0.0, due_s - time.monotonic()))
        yield frame
