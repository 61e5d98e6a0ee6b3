# SPDX-License-Identifier: Apache-2.0
"""Reads a source at its own pace and runs the newest image through the pipeline, in threads."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from fer_perception.mailbox import Mailbox
from fer_perception.pacing import paced
from fer_perception.pipeline import Pipeline
from fer_perception.sources import FALLBACK_FRAME_RATE, Source, SourceError, SourceFrame
from fer_perception.view.picture import Picture, WatchStatistics, picture_of

RATE_WINDOW_S = 2.0  # over which the frame rate is measured
LOOK_PERIOD_S = 0.01  # between two looks whether the last image was taken


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reading:
    """An image that was read, on its way to the pipeline."""

    frame: SourceFrame
    stamp_ns: int  # grows over all rounds through the source
    taken_s: float  # time.monotonic()


class SourceWatcher:
    """Watches a source from `start` to `stop` and tells of each image and of the end.

    Both callbacks are called from another thread. A slow pipeline misses images, it does not lag.
    """

    def __init__(
        self,
        *,
        source: Source,
        pipeline: Pipeline,
        is_looped: bool,
        rate: float = 1.0,
        on_picture: Callable[[Picture], None],
        on_end: Callable[[str], None],
    ) -> None:
        """Prepare; rate: speed factor. on_end gets what went wrong, '' for a source that ended."""
        self._source = source
        self._pipeline = pipeline
        self._is_looped = is_looped
        self._rate = rate
        self._on_picture = on_picture
        self._on_end = on_end
        self._mailbox: Mailbox[_Reading | str] = Mailbox()  # a text: as for on_end
        self._is_stopped = threading.Event()
        self._dropped = 0
        self._last_put: _Reading | None = None
        self._last_taken: _Reading | None = None
        self._threads = [
            threading.Thread(target=target, name=f'fer_view_{name}', daemon=True)
            for name, target in (('reader', self._read), ('worker', self._work))
        ]

    def start(self) -> None:
        """Begin, unless it has begun."""
        if not self._is_stopped.is_set() and self._threads[0].ident is None:
            for thread in self._threads:
                thread.start()

    def stop(self, *, limit_s: float = 0.5) -> bool:
        """End; tell whether both threads did within the limit.

        A camera that does not answer can hold its thread longer: then neither source nor pipeline
        may be closed.
        """
        self._is_stopped.set()
        self._mailbox.close()
        end_s = time.monotonic() + limit_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _read(self) -> None:
        try:
            self._read_rounds()
            end = ''
        except Exception as error:  # also what no source should raise: the page says it
            end = _reason(error)
        # The end must not take the place of the last image.
        while self._last_taken is not self._last_put and not self._is_stopped.wait(LOOK_PERIOD_S):
            pass
        self._mailbox.put(end)

    def _read_rounds(self) -> None:
        period_s = 1.0 / (self._source.frame_rate or FALLBACK_FRAME_RATE)
        offset_ns = 0
        while True:
            first_ns = last_ns = None
            for frame in paced(self._source, rate=self._rate, wait=self._is_stopped.wait):
                if self._is_stopped.is_set():
                    return
                first_ns = frame.stamp_ns if first_ns is None else first_ns
                last_ns = frame.stamp_ns
                self._last_put = _Reading(
                    frame=frame, stamp_ns=last_ns + offset_ns, taken_s=time.monotonic()
                )
                self._dropped += self._mailbox.put(self._last_put)
            # The last image stands for its own period.
            if self._is_stopped.wait(period_s / self._rate) or not self._is_looped:
                return
            if first_ns is not None and last_ns is not None:
                offset_ns += last_ns - first_ns + round(period_s * 1e9)

    def _work(self) -> None:
        try:
            end = self._show_all()
        except Exception as error:  # a thread that ended in silence would leave the page waiting
            end = _reason(error)
        if end is not None:
            self._on_end(end)

    def _show_all(self) -> str | None:
        """Process what the reader hands over; return its end, None after `stop`."""
        done_s: deque[float] = deque()  # when the latest images were done
        for number in count(1):
            reading = self._mailbox.take()
            if reading is None or isinstance(reading, str):
                return reading
            self._last_taken = reading
            result = self._pipeline.process(reading.frame.image, reading.stamp_ns)
            now_s = time.monotonic()
            done_s.append(now_s)
            while now_s - done_s[0] > RATE_WINDOW_S:
                done_s.popleft()
            span_s = now_s - done_s[0]
            self._on_picture(
                picture_of(
                    reading.frame.image,
                    result,
                    number=number,
                    frame_id=reading.frame.frame_id,
                    statistics=WatchStatistics(
                        frame_rate=(len(done_s) - 1) / span_s if span_s else 0.0,
                        age_ms=(now_s - reading.taken_s) * 1e3,
                        dropped=self._dropped,
                        skipped=self._source.skipped,
                    ),
                )
            )
        return None


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, SourceError) else f'{type(error).__name__}: {error}'
