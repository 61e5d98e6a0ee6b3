# SPDX-License-Identifier: Apache-2.0
"""Stamps: a wrong one costs its image; time that has really changed is followed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.stamp_order import PATIENCE, StampError, StampOrder, check_stamp

PERIOD_NS = 33_000_000
START_NS = 1_700_000_000_000_000_000


def admitted(order: StampOrder, stamps: list[int], clock_ns: int = START_NS) -> list[bool]:
    """Say of each stamp whether its image is read."""
    read = []
    for stamp in stamps:
        try:
            order.admit(stamp, clock_ns=clock_ns)
            read.append(True)
        except StampError:
            read.append(False)
    return read


@given(st.lists(st.integers(1, 5_000_000_000), max_size=30))
def test_whatever_goes_forward_by_less_than_ten_seconds_is_read(periods: list[int]) -> None:
    stamps = [START_NS + sum(periods[: index + 1]) for index in range(len(periods))]
    assert all(admitted(StampOrder(), stamps))


@given(st.integers(0, START_NS * 2).filter(lambda stamp: stamp != START_NS + 1))
def test_one_wrong_stamp_costs_at_most_its_own_image(stray_ns: int) -> None:
    order = StampOrder()
    before = [START_NS - 2 * PERIOD_NS, START_NS - PERIOD_NS, START_NS]
    after = [START_NS + PERIOD_NS * (1 + index) for index in range(5)]
    near = START_NS < stray_ns <= START_NS + 10_000_000_000
    assert all(admitted(order, before))
    assert admitted(order, [stray_ns]) == [near]
    if not near:
        assert all(admitted(order, after))


@pytest.mark.parametrize('offset_s', [-3600, -1, 3600])
def test_time_that_has_changed_is_followed_after_a_few_images(offset_s: int) -> None:
    order = StampOrder()
    admitted(order, [START_NS - PERIOD_NS, START_NS])
    moved_ns = START_NS + offset_s * 1_000_000_000
    read = admitted(order, [moved_ns + PERIOD_NS * index for index in range(6)])
    assert read == [index >= PATIENCE - 1 for index in range(6)]


def test_a_camera_that_is_always_ahead_of_the_clock_is_read() -> None:
    ahead_ns = START_NS + 86_400_000_000_000
    assert all(admitted(StampOrder(), [ahead_ns + PERIOD_NS * index for index in range(5)]))


def test_a_camera_that_pauses_is_read_at_once_when_it_returns() -> None:
    order = StampOrder()
    admitted(order, [START_NS])
    later_ns = START_NS + 3600 * 1_000_000_000
    assert admitted(order, [later_ns, later_ns + PERIOD_NS], clock_ns=later_ns) == [True, True]


def test_repeated_stamps_are_left_out() -> None:
    assert admitted(StampOrder(), [START_NS] * 8) == [True] + [False] * 7


def test_after_a_reset_any_time_is_as_good_as_another() -> None:
    order = StampOrder()
    admitted(order, [START_NS])
    order.reset()
    assert admitted(order, [5]) == [True]


@pytest.mark.parametrize('fields', [(-1, 0), (5, 1_000_000_000), (5, 4_294_967_295)])
def test_fields_that_are_no_time_are_refused(fields: tuple[int, int]) -> None:
    with pytest.raises(StampError, match='is no time'):
        check_stamp(*fields)
    check_stamp(0, 0)
    check_stamp(5, 999_999_999)
