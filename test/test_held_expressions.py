# SPDX-License-Identifier: Apache-2.0
"""Nothing counts that was not CONFIDENT for long enough, and whoever came leaves once."""

import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from expressions_made import made_record
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.held_expressions import (
    Appeared,
    Changed,
    FaceEvent,
    HeldExpressions,
    HoldRule,
    Left,
)
from fer_perception.pipeline import Pipeline, PipelineConfig
from fer_perception.records import expression_records
from fer_perception.sources import open_source
from fer_perception.uncertainty.estimate import ExpressionState

CONFIDENT = ExpressionState.CONFIDENT
HOLD_S, LEAVE_S = 0.5, 2.0
FRAME_MS = 100

Shown = dict[str, tuple[ExpressionState, str]]  # face id: its state and expression in an image


def update(held: HeldExpressions, time_ms: float, shown: Shown) -> list[FaceEvent]:
    return held.update(
        round(time_ms * 1e6),
        [
            made_record(face_id, state=state, expression=expression)
            for face_id, (state, expression) in shown.items()
        ],
    )


def events_of(
    images: Iterable[tuple[float, Shown]], *, hold_s: float = HOLD_S
) -> list[FaceEvent]:
    held = HeldExpressions(HoldRule(hold_s=hold_s, leave_s=LEAVE_S))
    return [event for time_ms, shown in images for event in update(held, time_ms, shown)]


def smiles(*times_ms: float, face_id: str = 'a') -> list[tuple[float, Shown]]:
    return [(time_ms, {face_id: (CONFIDENT, 'happiness')}) for time_ms in times_ms]


# Runs of equal images, as faces hold what they show, with the steps in time between them.
faces_shown = st.dictionaries(
    st.sampled_from('ab'),
    st.one_of(
        st.tuples(st.just(CONFIDENT), st.sampled_from(['neutral', 'happiness'])),
        st.tuples(st.sampled_from(ExpressionState), st.sampled_from(['happiness', ''])),
    ),
)
runs = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.sampled_from([FRAME_MS, FRAME_MS, FRAME_MS, 0, 450, 1900, 2000, 7000, -1, -5000]),
        faces_shown,
    ),
    max_size=12,
)


def images_of(drawn: list[tuple[int, int, Shown]]) -> list[tuple[int, Shown]]:
    images: list[tuple[int, Shown]] = []
    time_ms = 10_000
    for count, step_ms, shown in drawn:
        time_ms += step_ms
        for _ in range(count):
            images.append((time_ms, shown))
            time_ms += FRAME_MS
    return images


def shows(shown: Shown, face_id: str) -> str | None:
    """Return the expression that an image shows a face with, if that is CONFIDENT."""
    state, expression = shown.get(face_id, (ExpressionState.UNKNOWN, ''))
    return expression or None if state == CONFIDENT else None


def has_held(images: list[tuple[int, Shown]], face_id: str, expression: str) -> bool:
    """Say whether the latest images show a face CONFIDENT in an expression for long enough."""
    last_ms = images[-1][0]
    for (before_ms, _), (time_ms, shown) in reversed(
        list(pairwise([(-math.inf, {}), *images]))
    ):
        if shows(shown, face_id) != expression:
            return False
        if last_ms - time_ms >= 1000 * HOLD_S:
            return True
        if not 0 <= time_ms - before_ms < 1000 * LEAVE_S:
            return False
    return False


@given(drawn=runs)
def test_nothing_begins_that_has_not_held_and_what_has_held_counts(
    drawn: list[tuple[int, int, Shown]]
) -> None:
    images = images_of(drawn)
    held = HeldExpressions(HoldRule(hold_s=HOLD_S, leave_s=LEAVE_S))
    for number, (time_ms, shown) in enumerate(images, start=1):
        for event in update(held, time_ms, shown):
            if isinstance(event, Changed) and event.after is not None:
                assert has_held(images[:number], event.face_id, event.after)
        for face_id, face in held.faces.items():
            if face_id in shown:
                assert face.expression in (None, shows(shown, face_id))
                if expression := shows(shown, face_id):
                    is_due = has_held(images[:number], face_id, expression)
                    assert face.expression == expression or not is_due


@given(drawn=runs)
def test_who_appears_leaves_at_most_once_and_changes_join_up(
    drawn: list[tuple[int, int, Shown]]
) -> None:
    held = HeldExpressions(HoldRule(hold_s=HOLD_S, leave_s=LEAVE_S))
    here: dict[str, str | None] = {}  # faces that are there, with what counts

    def follow(events: Iterable[FaceEvent]) -> None:
        for event in events:
            match event:
                case Appeared(face_id):
                    assert face_id not in here
                    here[face_id] = None
                case Changed(face_id, before, after):
                    assert here[face_id] == before != after
                    here[face_id] = after
                case Left(face_id):
                    assert here.pop(face_id) is None  # what counted has ended before

    for time_ms, shown in images_of(drawn):
        follow(update(held, time_ms, shown))
        assert here == {face_id: face.expression for face_id, face in held.faces.items()}
        assert shown.keys() <= here.keys()
    follow(held.clear())
    assert not here and not held.faces


@given(drawn=runs)
def test_faces_do_not_matter_to_each_other(drawn: list[tuple[int, int, Shown]]) -> None:
    images = images_of(drawn)
    together = [event for event in events_of(images) if event.face_id == 'a']
    alone = [
        (time_ms, {face_id: what for face_id, what in shown.items() if face_id == 'a'})
        for time_ms, shown in images
    ]
    assert together == events_of(alone)


def test_a_smile_counts_once_it_has_held_and_until_it_is_doubted() -> None:
    assert events_of(smiles(0, 100, 200, 300, 400)) == [Appeared('a')]
    began = [Appeared('a'), Changed('a', None, 'happiness')]
    assert events_of(smiles(0, 100, 200, 300, 400, 500, 600)) == began
    for doubt in (
        (ExpressionState.UNCERTAIN, 'happiness'),
        (ExpressionState.WARMING_UP, 'happiness'),
        (ExpressionState.UNKNOWN, ''),
        (CONFIDENT, 'neutral'),
        (CONFIDENT, ''),
    ):
        doubted: list[tuple[float, Shown]] = [*smiles(0, 250, 500), (600, {'a': doubt})]
        ended = [*began, Changed('a', 'happiness', None)]
        assert events_of(doubted) == ended
        # And then it has to hold anew.
        assert events_of([*doubted, *smiles(700, 1100)]) == ended
        assert events_of([*doubted, *smiles(700, 1200)]) == [
            *ended, Changed('a', None, 'happiness')
        ]


def test_an_expression_gives_way_to_another_through_nothing_unless_none_has_to_hold() -> None:
    neutral: Shown = {'a': (CONFIDENT, 'neutral')}
    images: list[tuple[float, Shown]] = [*smiles(0, 500), (600, neutral), (1100, neutral)]
    assert events_of(images)[1:] == [
        Changed('a', None, 'happiness'),
        Changed('a', 'happiness', None),
        Changed('a', None, 'neutral'),
    ]
    assert events_of(images, hold_s=0.0)[1:] == [
        Changed('a', None, 'happiness'), Changed('a', 'happiness', 'neutral')
    ]


def test_an_image_without_the_face_ends_no_smile_but_one_that_has_not_held() -> None:
    lost: list[tuple[float, Shown]] = [(600, {})]
    began = [Appeared('a'), Changed('a', None, 'happiness')]
    assert events_of([*smiles(0, 500), *lost, *smiles(700)]) == began
    assert events_of([*smiles(300), *lost, *smiles(800)]) == [Appeared('a')]
    assert events_of([*smiles(300), *lost, *smiles(800, 1300)]) == began


def test_a_silent_face_leaves_whether_or_not_images_come() -> None:
    gone = [
        Appeared('a'), Changed('a', None, 'happiness'), Changed('a', 'happiness', None), Left('a')
    ]
    assert events_of([*smiles(0, 500), (2400, {}), (2499, {})]) == gone[:2]
    assert events_of([*smiles(0, 500), (2400, {}), (2500, {})]) == gone
    assert events_of([*smiles(0, 500), *smiles(3000, face_id='b')]) == [*gone, Appeared('b')]
    assert events_of([*smiles(0, 500), *smiles(3000)]) == [*gone, Appeared('a')]


def test_time_that_goes_back_lets_all_leave_and_begins_anew() -> None:
    assert events_of(smiles(5000, 5400, 4999, 5400)) == [Appeared('a'), Left('a'), Appeared('a')]
    assert events_of(smiles(5000, 5500, 0))[2:] == [
        Changed('a', 'happiness', None), Left('a'), Appeared('a')
    ]


def test_the_latest_record_of_a_face_is_kept() -> None:
    held = HeldExpressions(HoldRule())
    for number in range(3):
        held.update(number, [made_record('a', stamp_ns=number)])
    assert held.faces['a'].record.stamp_ns == 2


def test_the_smile_of_the_sample_clip_counts_once(
    sample_clip: Path, landmark_model_path: Path
) -> None:
    config = PipelineConfig(
        landmark_model=landmark_model_path, deterministic_ids=True, seed=1, device='cpu'
    )
    pipeline = Pipeline(config)
    patient, quick = (HeldExpressions(HoldRule(hold_s=hold_s)) for hold_s in (0.5, 0.0))
    events: list[FaceEvent] = []
    quick_events: list[FaceEvent] = []
    with open_source(str(sample_clip)) as source:
        for frame in source:
            records = expression_records(pipeline.process(frame.image, frame.stamp_ns))
            events += patient.update(frame.stamp_ns, records)
            quick_events += quick.update(frame.stamp_ns, records)
    pipeline.close()
    its_end = [Changed('a0000', 'happiness', None)]  # it goes with the last frames of the clip
    assert events[:2] == [Appeared('a0000'), Changed('a0000', None, 'happiness')]
    assert events[2:] in ([], its_end)
    assert quick_events[4:] in ([], its_end)
    assert quick_events[:4] == [
        Appeared('a0000'),
        Changed('a0000', None, 'neutral'),
        Changed('a0000', 'neutral', None),
        Changed('a0000', None, 'happiness'),
    ]


@pytest.mark.parametrize('value', [-0.1, math.inf, math.nan])
def test_impossible_times_are_refused(value: float) -> None:
    for name in ('hold_s', 'leave_s'):
        with pytest.raises(ValueError, match=f'{name} .* not {value}'):
            HoldRule(**{name: value})
    with pytest.raises(ValueError, match='leave_s must be more than 0'):
        HoldRule(leave_s=0.0)
