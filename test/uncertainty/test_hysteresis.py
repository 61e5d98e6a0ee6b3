# SPDX-License-Identifier: Apache-2.0
"""CONFIDENT comes only after one expression has held, goes at once, and does not flicker."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.uncertainty.estimate import DecisionRule, ExpressionState
from fer_perception.uncertainty.hysteresis import StateHysteresis

RULE = DecisionRule(
    abstention_threshold=0.6, warm_up_s=0.3, confidence_margin=0.1, confidence_hold_s=0.2
)
CONFIDENT = ExpressionState.CONFIDENT
UNCERTAIN = ExpressionState.UNCERTAIN
WARMING_UP = ExpressionState.WARMING_UP

rules = st.builds(
    DecisionRule,
    abstention_threshold=st.floats(0.0, 1.0),
    warm_up_s=st.floats(0.0, 0.5),
    confidence_margin=st.floats(0.0, 1.0),
    confidence_hold_s=st.floats(0.0, 0.6),
)
# Of an answer: seconds since the last one, the class that is highest, its probability.
answers = st.lists(
    st.tuples(st.floats(0.001, 0.4), st.integers(0, 2), st.floats(0.34, 1.0)),
    min_size=1,
    max_size=60,
)


def answer(highest: int, confidence: float) -> np.ndarray:
    """Return probabilities (3,) of which one is the highest."""
    probabilities = np.full(3, (1 - confidence) / 2)
    probabilities[highest] = confidence
    return probabilities


def read(
    confidences: list[float], *, period_s: float, rule: DecisionRule = RULE, highest: int = 0
) -> list[ExpressionState]:
    """Return the states of answers at a steady rate, with all the evidence that it takes."""
    hysteresis = StateHysteresis()
    return [
        hysteresis.update(
            answer(highest, confidence), time_s=index * period_s, evidence_s=9.0, rule=rule
        )
        for index, confidence in enumerate(confidences)
    ]


def run(
    drawn: list[tuple[float, int, float]], rule: DecisionRule
) -> list[tuple[float, int, float, ExpressionState]]:
    """Return time, highest class, confidence and state of each answer; evidence from 0 on."""
    hysteresis = StateHysteresis()
    time_s = 0.0
    rows = []
    for step_s, highest, confidence in drawn:
        time_s += step_s
        state = hysteresis.update(
            answer(highest, confidence), time_s=time_s, evidence_s=time_s, rule=rule
        )
        rows.append((time_s, highest, confidence, state))
    return rows


@given(answers, rules)
def test_nothing_is_confident_that_would_not_be_by_itself(
    drawn: list[tuple[float, int, float]], rule: DecisionRule
) -> None:
    for time_s, _, confidence, state in run(drawn, rule):
        alone = rule.state(confidence=confidence, evidence_s=time_s)
        assert state == alone or (state, alone) == (UNCERTAIN, CONFIDENT)


@given(answers, rules)
def test_an_expression_was_clear_for_the_hold_before_it_is_confident(
    drawn: list[tuple[float, int, float]], rule: DecisionRule
) -> None:
    rows = run(drawn, rule)
    for index, (time_s, highest, _, state) in enumerate(rows):
        entered = state == CONFIDENT and (
            index == 0 or rows[index - 1][3] != CONFIDENT or rows[index - 1][1] != highest
        )
        if entered:
            start = index
            while start > 0 and (
                rows[start - 1][1] == highest and rows[start - 1][2] >= rule.entry_confidence
            ):
                start -= 1
            assert rows[index][2] >= rule.entry_confidence
            assert time_s - rows[start][0] >= rule.confidence_hold_s - 1e-5


@given(answers, rules)
def test_a_face_is_never_confident_twice_within_the_hold(
    drawn: list[tuple[float, int, float]], rule: DecisionRule
) -> None:
    rows = run(drawn, rule)
    runs: list[tuple[float, float, int]] = []  # start, end, class
    for index, (time_s, highest, _, state) in enumerate(rows):
        if state == CONFIDENT:
            if index and rows[index - 1][3] == CONFIDENT and runs[-1][2] == highest:
                runs[-1] = (runs[-1][0], time_s, highest)
            else:
                runs.append((time_s, time_s, highest))
    for (_, end_s, _), (start_s, _, _) in zip(runs, runs[1:], strict=False):
        assert start_s - end_s >= rule.confidence_hold_s - 1e-5


@given(
    answers,
    st.builds(
        DecisionRule,
        abstention_threshold=st.floats(0.0, 1.0),
        warm_up_s=st.just(0.0),
        confidence_margin=st.floats(0.0, 1.0),
        confidence_hold_s=st.floats(0.41, 0.6),  # longer than one step
    ),
)
def test_the_expression_changes_only_by_way_of_uncertain(
    drawn: list[tuple[float, int, float]], rule: DecisionRule
) -> None:
    rows = run(drawn, rule)
    for before, after in zip(rows, rows[1:], strict=False):
        if before[3] == after[3] == CONFIDENT:
            assert before[1] == after[1]


@given(answers, rules, st.integers(0, 59))
def test_what_was_before_a_reset_does_not_count(
    drawn: list[tuple[float, int, float]], rule: DecisionRule, cut: int
) -> None:
    used, fresh = StateHysteresis(), StateHysteresis()
    for _, highest, confidence in drawn[:cut]:
        used.update(answer(highest, confidence), time_s=0.0, evidence_s=9.0, rule=rule)
    used.reset()
    time_s = 0.0
    for step_s, highest, confidence in drawn[cut:]:
        time_s += step_s
        states = {
            hysteresis.update(
                answer(highest, confidence), time_s=time_s, evidence_s=time_s, rule=rule
            )
            for hysteresis in (used, fresh)
        }
        assert len(states) == 1


@given(st.sampled_from([5.0, 12.5, 30.0, 60.0]), st.floats(0.0, 1.0))
def test_it_takes_the_hold_to_become_confident_at_any_rate(rate: float, hold_s: float) -> None:
    rule = DecisionRule(
        abstention_threshold=0.6, warm_up_s=0.0, confidence_margin=0.1, confidence_hold_s=hold_s
    )
    states = read([0.9] * 100, period_s=1 / rate, rule=rule)
    first = states.index(CONFIDENT)
    assert first / rate >= hold_s - 1e-5
    assert first == 0 or (first - 1) / rate < hold_s
    assert set(states[first:]) == {CONFIDENT}


@pytest.mark.parametrize('period_frames', [2, 3, 7, 40])
@pytest.mark.parametrize('level', [0.6, 0.7])
def test_an_oscillation_about_a_level_does_not_flicker(period_frames: int, level: float) -> None:
    # About the threshold, or about where it may become CONFIDENT, by less than the margin.
    confidences = [
        level + 0.08 * math.sin(2 * math.pi * frame / period_frames + 0.3) for frame in range(600)
    ]
    states = read(confidences, period_s=1 / 30)
    changes = sum(before != after for before, after in zip(states, states[1:], strict=False))
    assert changes <= 1


def test_noise_that_is_confident_by_turns_alone_is_not() -> None:
    noise = np.random.default_rng(0).uniform(0.4, 1.0, 3000).tolist()
    alone = [RULE.state(confidence=confidence, evidence_s=9.0) for confidence in noise]
    states = read(noise, period_s=1 / 30)

    def changes(of: list[ExpressionState]) -> int:
        return sum(before != after for before, after in zip(of, of[1:], strict=False))

    assert changes(alone) > 1000
    assert changes(states) < changes(alone) / 15


def test_evidence_gathered_while_warming_up_counts() -> None:
    hysteresis = StateHysteresis()
    states = [
        hysteresis.update(
            answer(1, 0.9), time_s=index / 30, evidence_s=(index + 1) / 30, rule=RULE
        )
        for index in range(12)
    ]
    assert states == [WARMING_UP] * 8 + [CONFIDENT] * 4


def test_below_the_threshold_a_face_is_uncertain_at_once() -> None:
    states = read([0.9] * 10 + [0.61] * 5 + [0.59] + [0.9] * 10, period_s=1 / 30)
    assert states == [UNCERTAIN] * 6 + [CONFIDENT] * 9 + [UNCERTAIN] * 7 + [CONFIDENT] * 4


def test_another_rule_applies_at_once_and_has_its_own_hold() -> None:
    hysteresis = StateHysteresis()
    stricter = DecisionRule(abstention_threshold=0.85, warm_up_s=0.3, confidence_hold_s=0.2)
    strictest = DecisionRule(abstention_threshold=0.95, warm_up_s=0.3, confidence_hold_s=0.2)
    states = [
        hysteresis.update(answer(0, 0.9), time_s=index / 30, evidence_s=9.0, rule=rule)
        for index, rule in enumerate([RULE] * 10 + [stricter] * 5 + [strictest] * 3 + [RULE] * 10)
    ]
    assert states == [UNCERTAIN] * 6 + [CONFIDENT] * 9 + [UNCERTAIN] * 9 + [CONFIDENT] * 4


@pytest.mark.parametrize(
    ('threshold', 'margin', 'entry'),
    [(0.5, 0.1, 0.6), (0.8, 0.5, 0.9), (1.0, 0.3, 1.0), (0.0, 0.1, 0.1), (0.7, 0.0, 0.7)],
)
def test_there_is_always_a_way_to_become_confident(
    threshold: float, margin: float, entry: float
) -> None:
    rule = DecisionRule(
        abstention_threshold=threshold, warm_up_s=0.0, confidence_margin=margin
    )
    assert rule.entry_confidence == pytest.approx(entry)
    assert read([1.0] * 30, period_s=1 / 30, rule=rule)[-1] == CONFIDENT
