# SPDX-License-Identifier: Apache-2.0
"""Flips count changes of one face's answers, whatever other faces do in between."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.evaluation.flips import Flips, measure_flips, pool_flips


def flips(
    face: list[int], answer: list[int], *, confident: list[bool] | None = None,
    label: list[int] | None = None, period_s: float = 10.0,
) -> Flips:
    count = len(face)
    return measure_flips(
        face=np.array(face, int),
        time_s=np.arange(count) * period_s,
        answer=np.array(answer, int),
        is_confident=np.array(confident or [True] * count, bool),
        label=np.array(label or [-1] * count, int),
    )


def test_changes_of_one_face_are_counted_by_the_minute() -> None:
    measured = flips([0] * 7, [1, 1, 2, 2, 1, 1, 3])
    assert (measured.answers, measured.minutes) == (3, 1.0)
    assert measured.answers_per_minute == 3.0


def test_other_faces_do_not_make_flips() -> None:
    measured = flips([0, 1] * 4, [1, 2] * 4)
    assert measured.answers == 0
    assert measured.minutes == 2.0  # 60 s of each


def test_only_confident_answers_make_confident_flips() -> None:
    confident = [True, False, True, False, True]
    assert flips([0] * 5, [1, 2, 1, 2, 1], confident=confident).confident == 0
    # The doubt in between does not hide a change.
    assert flips([0] * 5, [1, 1, 2, 3, 2], confident=confident).confident == 1


def test_changes_of_the_label_pass_over_what_is_not_labelled() -> None:
    assert flips([0] * 6, [0] * 6, label=[1, 1, -1, 1, -1, 2]).labels == 1


def test_without_time_there_is_no_rate() -> None:
    for measured in (flips([], []), flips([0], [1]), pool_flips([])):
        assert measured.minutes == 0 and measured.answers == 0
        assert measured.answers_per_minute is None


def test_pooled_flips_are_those_of_all_minutes() -> None:
    pooled = pool_flips([flips([0] * 7, [1, 2] * 3 + [1]), flips([0] * 13, [1] * 13)])
    assert (pooled.minutes, pooled.answers, pooled.answers_per_minute) == (3.0, 6, 2.0)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), max_size=30))
def test_flips_agree_with_counting_face_by_face(rows: list[tuple[int, int, bool]]) -> None:
    measured = flips(
        [face for face, _, _ in rows], [answer for _, answer, _ in rows],
        confident=[sure for _, _, sure in rows],
    )

    def count(own: list[int]) -> int:
        return sum(a != b for a, b in zip(own, own[1:], strict=False))

    faces = range(3)
    assert measured.answers == sum(count([a for f, a, _ in rows if f == n]) for n in faces)
    assert measured.confident == sum(count([a for f, a, s in rows if f == n and s]) for n in faces)
