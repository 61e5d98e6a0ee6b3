# SPDX-License-Identifier: Apache-2.0
"""The search in a thread: finds what the detector finds, tells its errors, leaves no thread."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_perception.faces import Box, FaceDetector
from fer_perception.faces.background_search import BackgroundSearch
from fer_perception.faces.place import FacePlace

GREY = np.zeros((480, 640), np.uint8)
BOX = Box(1, 2, 30, 40)


class GivenDetector(FaceDetector):
    """Finds one box, or fails; waits for a permission first, and notes the thread it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.permission = threading.Event()
        self.permission.set()
        self.error: Exception | None = None
        self.threads: list[str] = []

    def detect(self, grey: np.ndarray, *, min_score: float = 0.0) -> list[tuple[Box, float]]:
        self.threads.append(threading.current_thread().name)
        assert self.permission.wait(30.0)
        if self.error is not None:
            raise self.error
        return [(BOX, min_score)]


def search_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith('fer_search')]


def test_the_same_is_found_as_in_the_foreground(sample_clip: Path) -> None:
    ok, image = cv2.VideoCapture(str(sample_clip)).read()
    assert ok
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    detector = FaceDetector()
    expected = detector.detect(grey, min_score=-0.3)
    assert expected
    search = BackgroundSearch(detector)
    try:
        for _ in range(3):
            search.start(grey, min_score=-0.3)
            # Looks go on meanwhile, and do not disturb the search.
            for _ in range(5):
                assert detector.look(grey, FacePlace.from_box(expected[0][0]))
            assert search.under_way
            assert search.result() == expected
    finally:
        search.close()


def test_it_runs_in_a_thread_that_close_ends() -> None:
    before = search_threads()
    detector = GivenDetector()
    search = BackgroundSearch(detector)
    assert search_threads() == before  # no thread for nothing
    search.start(GREY, min_score=0.5)
    assert search.result() == [(BOX, 0.5)]
    assert detector.threads[0].startswith('fer_search')
    search.start(GREY, min_score=0.5)
    search.close()
    assert search_threads() == before
    assert not search.under_way
    search.close()
    with pytest.raises(RuntimeError):
        search.start(GREY, min_score=0.5)


def test_an_error_is_told_and_the_next_search_works() -> None:
    detector = GivenDetector()
    search = BackgroundSearch(detector)
    try:
        detector.error = ValueError('broken image')
        search.start(GREY, min_score=0.0)
        with pytest.raises(ValueError, match='broken image'):
            search.result()
        detector.error = None
        search.start(GREY, min_score=0.0)
        assert search.result() == [(BOX, 0.0)]
    finally:
        search.close()


def test_a_discarded_search_is_not_told() -> None:
    detector = GivenDetector()
    search = BackgroundSearch(detector)
    try:
        detector.permission.clear()
        search.start(GREY, min_score=1.0)
        search.discard()
        search.discard()
        assert not search.under_way
        search.start(GREY, min_score=2.0)
        detector.permission.set()
        assert search.result() == [(BOX, 2.0)]
    finally:
        detector.permission.set()
        search.close()


def test_one_search_at_a_time() -> None:
    search = BackgroundSearch(GivenDetector())
    try:
        with pytest.raises(RuntimeError, match='no search'):
            search.result()
        search.start(GREY, min_score=0.0)
        with pytest.raises(RuntimeError, match='under way'):
            search.start(GREY, min_score=0.0)
    finally:
        search.close()
