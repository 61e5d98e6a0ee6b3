# SPDX-License-Identifier: Apache-2.0
"""The rule of growth itself, on given losses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_training.topology_search import GrowthLimits, TopologySearch, Verdict

LIMITS = GrowthLimits(block_size=5, block_threshold=0.1, layer_threshold=0.2)


def run(
    losses: list[float], limits: GrowthLimits = LIMITS, initial: tuple[int, ...] = ()
) -> tuple[TopologySearch, list[Verdict]]:
    search = TopologySearch(limits, initial=initial)
    verdicts = []
    for loss in losses:
        if search.candidate is None:
            break
        verdicts.append(search.judge(loss))
    return search, verdicts


def test_width_grows_until_a_block_brings_too_little_then_depth() -> None:
    search, verdicts = run([1.0, 0.8, 0.75, 0.5, 0.4, 0.39, 0.38, 0.37])
    tried = [verdict.channels for verdict in verdicts]
    assert tried == [
        (5,), (10,), (15,),  # 0.8 -> 0.75 is 6 %: removed
        (10, 5), (10, 10), (10, 15),  # 0.4 -> 0.39 is 2.5 %: removed; the layer brought 50 %
        (10, 10, 5), (10, 10, 10),  # the layer brought 5 %: removed, growth ends
    ]
    assert [verdict.kept for verdict in verdicts] == [
        True, True, False, True, True, False, True, False
    ]
    assert verdicts[5].layer_improvement == pytest.approx(0.5) and verdicts[5].layer_kept
    assert verdicts[7].layer_improvement == pytest.approx(0.05)
    assert verdicts[7].layer_kept is False
    assert search.accepted == (10, 10) and search.candidate is None


def test_a_drop_of_exactly_the_threshold_is_kept() -> None:
    limits = GrowthLimits(block_threshold=0.25, layer_threshold=0.25)
    search, verdicts = run([1.0, 0.75], limits)
    assert verdicts[1].kept and search.accepted == (10,)


def test_a_layer_is_judged_against_the_network_without_it() -> None:
    # The new layer begins worse than the old network, and becomes better by its blocks.
    search, verdicts = run([1.0, 1.0, 1.5, 0.9, 0.7, 0.69])
    assert search.accepted == (5, 15)
    assert verdicts[-1].layer_improvement == pytest.approx(0.3) and verdicts[-1].layer_kept


def test_the_first_layer_is_always_kept() -> None:
    search, _ = run([1.0, 1.0, 1.0, 1.0])
    assert search.accepted == (5,) and search.candidate is None


def test_the_papers_thresholds_and_block_are_the_defaults() -> None:
    limits = GrowthLimits()
    assert (limits.block_size, limits.block_threshold, limits.layer_threshold) == (5, 1e-4, 1e-4)
    _, verdicts = run([1.0, 1.0 - 0.9e-4], limits)
    assert not verdicts[1].kept
    _, verdicts = run([1.0, 1.0 - 1.1e-4], limits)
    assert verdicts[1].kept


def test_the_limits_on_blocks_and_layers_hold() -> None:
    limits = GrowthLimits(block_size=2, max_blocks=2, max_layers=2)
    search, verdicts = run([2.0**-k for k in range(50)], limits)
    assert search.accepted == (4, 4) and search.candidate is None
    assert [verdict.channels for verdict in verdicts] == [(2,), (4,), (4, 2), (4, 4)]


def test_growth_may_begin_with_a_topology() -> None:
    search, verdicts = run([1.0, 0.5, 0.49, 0.48, 0.48], initial=(15, 10))
    assert [verdict.channels for verdict in verdicts[:4]] == [
        (15, 10), (15, 15), (15, 20), (15, 15, 5)
    ]
    assert search.accepted == (15, 15)


def test_losses_that_are_no_numbers_keep_nothing() -> None:
    nan = float('nan')
    search, verdicts = run([1.0, nan, nan, nan])
    assert search.accepted == (5,) and not verdicts[1].kept


def test_after_the_end_nothing_is_judged() -> None:
    search, _ = run([1.0] * 4)
    with pytest.raises(RuntimeError, match='ended'):
        search.judge(0.1)


@given(
    losses=st.lists(st.floats(1e-6, 10.0), min_size=300, max_size=300),
    limits=st.builds(
        GrowthLimits,
        block_size=st.integers(1, 6),
        block_threshold=st.floats(1e-4, 0.5),
        layer_threshold=st.floats(1e-4, 0.5),
        max_blocks=st.integers(1, 6),
        max_layers=st.integers(1, 5),
    ),
)
def test_growth_ends_and_never_accepts_what_was_removed(
    losses: list[float], limits: GrowthLimits
) -> None:
    search, verdicts = run(losses, limits)
    assert search.candidate is None
    assert 1 <= len(search.accepted) <= limits.max_layers
    assert max(search.accepted) <= limits.max_blocks * limits.block_size
    assert search.accepted not in {verdict.channels for verdict in verdicts if not verdict.kept}
    assert sum(verdict.layer_kept is False for verdict in verdicts) <= 1
    for before, after in zip(verdicts, verdicts[1:], strict=False):
        grown = sum(after.channels) - sum(before.channels)
        assert grown == limits.block_size or not before.kept


@pytest.mark.parametrize(
    'bad', [{'block_size': 0}, {'max_layers': 0}, {'max_blocks': 0}, {'block_threshold': 0.0},
            {'layer_threshold': -1.0}]
)
def test_limits_without_a_network_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        GrowthLimits(**bad)  # type: ignore[arg-type]
