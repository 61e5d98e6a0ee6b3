# SPDX-License-Identifier: Apache-2.0
"""The budget gives an image as many samples as its deadline has room for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.inference.sample_budget import LEAST_SAMPLES, SampleBudget


def spend(budget: SampleBudget, *, cost_ms: float, steps: int, elapsed_ms: float = 0.0) -> int:
    """Play one image whose every sample of every step takes `cost_ms`; return its samples."""
    samples = budget.choose(steps=steps, elapsed_ms=elapsed_ms)
    budget.record(steps=steps, samples=samples, spent_ms=cost_ms * steps * samples)
    return samples


def test_without_a_deadline_every_image_has_all() -> None:
    budget = SampleBudget(100)
    assert [spend(budget, cost_ms=9.0, steps=4, elapsed_ms=1e6) for _ in range(3)] == [100] * 3


@given(
    cost_ms=st.floats(0.001, 1.0),
    steps=st.integers(1, 16),
    elapsed_ms=st.floats(0.0, 60.0),
    most=st.integers(1, 1000),
)
def test_samples_fit_into_what_is_left(
    cost_ms: float, steps: int, elapsed_ms: float, most: int
) -> None:
    budget = SampleBudget(most, deadline_ms=50.0)
    spend(budget, cost_ms=cost_ms, steps=steps)
    samples = budget.choose(steps=steps, elapsed_ms=elapsed_ms)
    assert min(LEAST_SAMPLES, most) <= samples <= most
    if samples > LEAST_SAMPLES:
        assert samples * steps * cost_ms <= 50.0 - elapsed_ms + 1e-9


def test_more_faces_get_fewer_samples_and_all_come_back() -> None:
    budget = SampleBudget(100, deadline_ms=10.0)
    spend(budget, cost_ms=0.1, steps=1)
    assert spend(budget, cost_ms=0.1, steps=4) == 25
    assert spend(budget, cost_ms=0.1, steps=1) == 100


def test_small_gains_do_not_rebuild_the_streams() -> None:
    budget = SampleBudget(100, deadline_ms=10.0)
    spend(budget, cost_ms=0.2, steps=1)
    assert budget.choose(steps=1, elapsed_ms=0.0) == 50
    assert budget.choose(steps=1, elapsed_ms=2.0) == 40
    assert budget.choose(steps=1, elapsed_ms=1.0) == 40  # 45 are not worth it
    assert budget.choose(steps=1, elapsed_ms=0.0) == 50


def test_images_without_faces_teach_nothing() -> None:
    budget = SampleBudget(100, deadline_ms=10.0)
    budget.record(steps=0, samples=100, spent_ms=3.0)
    assert budget.choose(steps=0, elapsed_ms=0.0) == 100


@pytest.mark.parametrize(('name', 'value'), [('most', 0), ('deadline_ms', -1.0)])
def test_what_makes_no_budget_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f'not {value}'):
        setattr(SampleBudget(10), name, value)
