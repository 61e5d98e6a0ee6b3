# SPDX-License-Identifier: Apache-2.0
"""Search an image for faces in a thread of its own, while later images are followed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from fer_perception.faces.detector import FaceDetector
from fer_perception.faces.face import Box


class BackgroundSearch:
    """
    Search one image at a time; dlib's detector leaves Python to the other threads meanwhile.

    :param detector: its `detect` is called in the thread, so nobody else may call that; its `look`
        may be called as before.
    """

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix='fer_search')
        self._search: Future[list[tuple[Box, float]]] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a search was started whose result has not been taken."""
        return self._search is not None

    def start(self, grey: np.ndarray, *, min_score: float) -> None:
        """
        Begin to search an image (H, W) uint8, which must not be written to until the result.

        Raises RuntimeError if a search is under way, or after `close`.
        """
        if self._search is not None:
            raise RuntimeError('a search is under way: take its result first, or discard it')
        self._search = self._executor.submit(self._detector.detect, grey, min_score=min_score)

    def result(self) -> list[tuple[Box, float]]:
        """
        Return what `FaceDetector.detect` found; waits for the end of the search.

        Raises what the search raised, or RuntimeError if none was started.
        """
        if self._search is None:
            raise RuntimeError('no search is under way: start one first')
        search, self._search = self._search, None
        return search.result()

    def discard(self) -> None:
        """Forget a search under way, if there is one; its errors are not told."""
        if self._search is not None:
            self._search.cancel()
            self._search = None

    def close(self) -> None:
        """Discard what is under way and end the thread; waits for a search that is running."""
        self.discard()
        self._executor.shutdown(wait=True)
