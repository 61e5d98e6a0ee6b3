# SPDX-License-Identifier: Apache-2.0
"""The watcher shows the newest image of a source, tells of its end, and ends when told to."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fer_perception.pipeline import Pipeline, PipelineConfig
from fer_perception.records import ExpressionRecord
from fer_perception.results import FrameResult
from fer_perception.sources import Source, SourceError, SourceFrame, open_source
from fer_perception.view.picture import LONGEST_SIDE, Picture
from fer_perception.view.watcher import SourceWatcher

LIMIT_S = 60.0  # for what must happen at all


class Seen:
    """Keeps what a watcher tells, and lets a test wait for it."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.ends: list[str] = []
        self._changed = threading.Condition()

    def on_picture(self, picture: Picture) -> None:
        with self._changed:
            self.pictures.append(picture)
            self._changed.notify_all()

    def on_end(self, end: str) -> None:
        with self._changed:
            self.ends.append(end)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, LIMIT_S)

    @property
    def contents(self) -> list[dict[str, Any]]:
        return [json.loads(picture.text) for picture in self.pictures]


class Frames(Source):
    """Yields small images whose stamps are milliseconds, and does something before some."""

    def __init__(self, count: int, before: dict[int, Callable[[], object]]) -> None:
        super().__init__(name='frames', frame_rate=1000.0)
        self._count = count
        self._before = before

    def __iter__(self) -> Iterator[SourceFrame]:
        for index in range(self._count):
            self._before.get(index, lambda: None)()
            yield SourceFrame(image=np.zeros((60, 80, 3), np.uint8), stamp_ns=index * 1_000_000)


class Slow:
    """Stands for a pipeline: finds no face, and waits in each image until it may go on."""

    def __init__(self) -> None:
        self.has_image = threading.Event()
        self.may_go_on = threading.Event()

    def process(self, image: np.ndarray, stamp_ns: int) -> FrameResult:
        self.has_image.set()
        assert self.may_go_on.wait(LIMIT_S)
        return FrameResult(stamp_ns, (image.shape[1], image.shape[0]), (), 1.0)


def watcher_of(
    source: Source, pipeline: Any, seen: Seen, *, is_looped: bool = False
) -> SourceWatcher:
    return SourceWatcher(
        source=source,
        pipeline=pipeline,
        is_looped=is_looped,
        rate=4.0,
        on_picture=seen.on_picture,
        on_end=seen.on_end,
    )


@pytest.fixture
def pipeline(landmark_model_path: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(
        PipelineConfig(landmark_model=landmark_model_path, mc_samples=2, deterministic_ids=True)
    )
    yield pipeline
    pipeline.close()


def test_the_sample_clip_is_shown_to_its_end(sample_clip: Path, pipeline: Pipeline) -> None:
    seen = Seen()
    with open_source(str(sample_clip)) as source:
        watcher = watcher_of(source, pipeline, seen)
        watcher.start()
        watcher.start()  # every page that opens starts it
        seen.wait_for(lambda: bool(seen.ends))
        assert watcher.stop()
    assert seen.ends == ['']
    assert [picture.number for picture in seen.pictures] == list(range(1, len(seen.pictures) + 1))
    records = [
        ExpressionRecord.from_json(json.dumps(face['record']))
        for content in seen.contents
        for face in content['faces']
        if face['record']
    ]
    assert {'neutral', 'happiness'} <= {record.expression for record in records}
    content = seen.contents[-1]
    face = content['faces'][0]
    assert content['kind'] == 'picture' and content['size'] == [640, 360]
    x, y, width, height = face['roi']
    middle = np.mean(face['landmarks'], axis=0)
    assert len(face['landmarks']) == 68
    assert x < middle[0] < x + width and y < middle[1] < y + height
    image = cv2.imdecode(np.frombuffer(seen.pictures[-1].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.shape == (360, 640, 3) and image.std() > 20


def test_a_slow_pipeline_misses_images_but_does_not_lag() -> None:
    seen, pipeline = Seen(), Slow()
    may_end = threading.Event()

    def let_it_go_on() -> None:
        pipeline.may_go_on.set()
        may_end.wait(LIMIT_S)

    before: dict[int, Callable[[], object]] = {
        1: lambda: pipeline.has_image.wait(LIMIT_S),  # the first is being processed
        10: let_it_go_on,
    }
    watcher = watcher_of(Frames(11, before), pipeline, seen)
    watcher.start()
    seen.wait_for(lambda: len(seen.pictures) == 2)
    may_end.set()
    seen.wait_for(lambda: bool(seen.ends))
    stamps = [content['stamp_ns'] for content in seen.contents]
    assert stamps == [0, 9_000_000, 10_000_000]  # the last one is never missed
    assert seen.contents[1]['dropped'] == 8
    assert watcher.stop()


def test_a_loop_goes_on_in_time() -> None:
    seen, pipeline = Seen(), Slow()
    pipeline.may_go_on.set()
    watcher = watcher_of(Frames(3, {}), pipeline, seen, is_looped=True)
    watcher.start()
    seen.wait_for(lambda: len(seen.pictures) > 10)
    assert watcher.stop()
    stamps = [content['stamp_ns'] for content in seen.contents]
    assert stamps == sorted(set(stamps)) and stamps[-1] > 6_000_000
    assert not seen.ends


def test_stamps_that_go_back_do_not_stop_it() -> None:
    class Twice(Frames):
        def __iter__(self) -> Iterator[SourceFrame]:
            for stamp_ns in (10**15, 10**15 + 10**6, 0, 10**6):
                yield SourceFrame(image=np.zeros((60, 80, 3), np.uint8), stamp_ns=stamp_ns)

    seen, pipeline = Seen(), Slow()
    pipeline.may_go_on.set()
    watcher = watcher_of(Twice(4, {}), pipeline, seen)
    watcher.start()
    seen.wait_for(lambda: bool(seen.ends))
    assert watcher.stop()
    assert seen.ends == [''] and seen.contents[-1]['stamp_ns'] == 10**6


def test_a_source_that_breaks_tells_why(tmp_path: Path) -> None:
    seen, pipeline = Seen(), Slow()
    pipeline.may_go_on.set()
    for index in range(3):
        cv2.imwrite(str(tmp_path / f'{index}.png'), np.zeros((60, 80, 3), np.uint8))
    (tmp_path / '1.png').write_bytes(b'no image')
    with open_source(str(tmp_path)) as source:
        watcher = watcher_of(source, pipeline, seen)
        watcher.start()
        seen.wait_for(lambda: bool(seen.ends))
        assert watcher.stop()
    assert '1.png' in seen.ends[0]


def test_a_pipeline_that_breaks_tells_why() -> None:
    class Broken:
        def process(self, image: np.ndarray, stamp_ns: int) -> FrameResult:
            raise RuntimeError('out of memory')

    seen = Seen()
    watcher = watcher_of(Frames(100, {}), Broken(), seen)
    watcher.start()
    seen.wait_for(lambda: bool(seen.ends))
    assert watcher.stop()
    assert seen.ends == ['RuntimeError: out of memory'] and not seen.pictures


def test_stop_ends_it_between_two_images() -> None:
    class Gap(Source):
        def __iter__(self) -> Iterator[SourceFrame]:
            image = np.zeros((60, 80, 3), np.uint8)
            yield SourceFrame(image=image, stamp_ns=0)
            yield SourceFrame(image=image, stamp_ns=3600 * 10**9)  # an hour later
            raise SourceError('read on')

    seen, pipeline = Seen(), Slow()
    pipeline.may_go_on.set()
    watcher = watcher_of(Gap(name='gap'), pipeline, seen)
    watcher.start()
    seen.wait_for(lambda: len(seen.pictures) == 1)
    assert watcher.stop()
    assert len(seen.pictures) == 1 and not seen.ends


def test_one_that_was_never_started_stops_and_stays_so() -> None:
    seen = Seen()
    watcher = watcher_of(Frames(3, {}), Slow(), seen)
    assert watcher.stop()
    watcher.start()
    assert watcher.stop() and not seen.pictures and not seen.ends


def test_a_large_image_is_sent_smaller_and_its_pixels_are_the_sources_own() -> None:
    class Large(Frames):
        def __iter__(self) -> Iterator[SourceFrame]:
            yield SourceFrame(image=np.zeros((1200, 4000, 3), np.uint8), stamp_ns=0)

    seen, pipeline = Seen(), Slow()
    pipeline.may_go_on.set()
    watcher = watcher_of(Large(1, {}), pipeline, seen)
    watcher.start()
    seen.wait_for(lambda: bool(seen.ends))
    assert watcher.stop()
    image = cv2.imdecode(np.frombuffer(seen.pictures[0].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.shape == (384, LONGEST_SIDE, 3)
    assert seen.contents[0]['size'] == [4000, 1200]
