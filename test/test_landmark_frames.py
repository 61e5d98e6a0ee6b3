# SPDX-License-Identifier: Apache-2.0
"""Faces that come one by one are handed over image by image, each image once."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.landmark_frames import LandmarkFrame, LandmarkFrames

STEP_NS = 33_000_000


class Assembly:
    """A LandmarkFrames with what it handed over."""

    def __init__(self, *tracked: str) -> None:
        self.handed: list[LandmarkFrame] = []
        self.counts: Counter[str] = Counter()
        self.frames = LandmarkFrames(self.handed.append, counts=self.counts)
        self.frames.track(tracked)

    def add(self, face_id: str, image: int, size: tuple[int, int] = (640, 480)) -> None:
        stamp_ns = 10**12 + image * STEP_NS
        self.frames.add(
            face_id,
            np.full((68, 2), float(image)),
            header=f'header {image}',
            stamp_ns=stamp_ns,
            image_size=size,
        )

    def add_empty(self, image: int) -> None:
        self.frames.add_empty(header=f'header {image}', stamp_ns=10**12 + image * STEP_NS)

    @property
    def images(self) -> list[tuple[int, str]]:
        """The number of every image handed over with its faces, such as (3, 'ab')."""
        return [
            ((frame.stamp_ns - 10**12) // STEP_NS, ''.join(sorted(frame.faces)))
            for frame in self.handed
        ]


def test_one_face_is_handed_over_at_once() -> None:
    assembly = Assembly('a')
    for image in range(3):
        assembly.add('a', image)
        assert assembly.images[-1] == (image, 'a')
    assert [frame.header for frame in assembly.handed] == ['header 0', 'header 1', 'header 2']
    assert assembly.handed[2].faces['a'][0, 0] == 2.0
    assert assembly.handed[2].image_size == (640, 480)


def test_an_image_waits_for_all_faces_of_the_last_one() -> None:
    assembly = Assembly('a', 'b', 'c')
    for image in range(4):
        for face_id in 'abc':
            assembly.add(face_id, image)
    # Of the first image nobody could know how many faces it would have.
    assert assembly.images == [(0, 'a'), (1, 'abc'), (2, 'abc'), (3, 'abc')]
    assert assembly.counts == {'late': 2}


def test_a_face_that_stops_keeps_the_others_waiting_for_one_image() -> None:
    assembly = Assembly('a', 'b')
    for image in range(3):
        assembly.add('a', image)
        assembly.add('b', image)
    for image in range(3, 6):
        assembly.add('a', image)
    assert assembly.images == [(0, 'a'), (1, 'ab'), (2, 'ab'), (3, 'a'), (4, 'a'), (5, 'a')]
    assert assembly.handed[-1].tracked_ids == {'a', 'b'}  # b may return


def test_a_face_no_longer_tracked_is_not_waited_for() -> None:
    assembly = Assembly('a', 'b')
    for image in range(2):
        assembly.add('a', image)
        assembly.add('b', image)
    assembly.add('a', 2)
    assert assembly.images[-1] == (1, 'ab')
    assembly.frames.track(['a'])
    assert assembly.images[-1] == (2, 'a')
    assert assembly.handed[-1].tracked_ids == {'a'}


def test_faces_of_an_image_that_is_over_are_counted() -> None:
    assembly = Assembly('a', 'b')
    assembly.add('a', 5)
    assembly.add('b', 5)
    assembly.add('b', 4)
    assert assembly.images == [(5, 'a')] and assembly.counts == {'late': 2}


def test_time_that_goes_back_is_followed() -> None:
    assembly = Assembly('a')
    for image in (100, 101, 0, 1):
        assembly.add('a', image)
    assert assembly.images == [(100, 'a'), (101, 'a'), (0, 'a'), (1, 'a')]


def test_a_face_of_another_image_size_is_left_out() -> None:
    assembly = Assembly('a', 'b')
    assembly.add('a', 0)
    assembly.add('b', 0)
    assembly.add('a', 1)
    assembly.add('b', 1, size=(320, 240))
    assembly.add('a', 2)
    assert assembly.images[:2] == [(0, 'a'), (1, 'a')]
    assert assembly.counts['image size'] == 1


def test_images_without_a_face_are_handed_over_as_well() -> None:
    assembly = Assembly('a')
    assembly.add('a', 0)
    assembly.frames.track([])
    assembly.add_empty(1)
    assembly.add_empty(1)
    assembly.add_empty(2)
    assert assembly.images == [(0, 'a'), (1, ''), (2, '')]
    assert assembly.handed[-1].tracked_ids == frozenset()


@given(st.lists(st.tuples(st.sampled_from('abc'), st.integers(0, 60)), max_size=60))
def test_whatever_the_order_no_image_comes_twice(arrivals: list[tuple[str, int]]) -> None:
    assembly = Assembly('a', 'b', 'c')
    for face_id, image in arrivals:
        assembly.add(face_id, image)
    numbers = [number for number, _ in assembly.images]
    for last, number in zip(numbers, numbers[1:], strict=False):
        assert number > last or (last - number) * STEP_NS > 10**9  # or time went back
    for number, faces in assembly.images:
        assert faces and {(face_id, number) for face_id in faces} <= set(arrivals)


@given(st.sets(st.tuples(st.integers(0, 20), st.sampled_from('abc'))), st.randoms())
def test_in_order_every_face_is_handed_over_or_counted(
    arrivals: set[tuple[int, str]], random: Random
) -> None:
    assembly = Assembly('a', 'b', 'c')
    for image, face_id in sorted(arrivals, key=lambda arrival: (arrival[0], random.random())):
        assembly.add(face_id, image)
    assembly.add('a', 25)  # ends the image before, if it waits
    handed = {(number, face_id) for number, faces in assembly.images for face_id in faces}
    handed -= {(25, 'a')}
    assert handed <= arrivals
    assert len(handed) + assembly.counts['late'] == len(arrivals)


@pytest.mark.parametrize('faces', [1, 2, 16])
def test_a_steady_stream_is_handed_over_without_waiting(faces: int) -> None:
    ids = [f'f{index}' for index in range(faces)]
    assembly = Assembly(*ids)
    for image in range(10):
        for face_id in ids:
            assembly.add(face_id, image)
        assert assembly.images[-1][0] == image
    assert [len(frame.faces) for frame in assembly.handed[1:]] == [faces] * 9
