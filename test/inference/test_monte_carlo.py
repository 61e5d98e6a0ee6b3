# SPDX-License-Identifier: Apache-2.0
"""Monte Carlo dropout samples what it should and leaves the model as it was."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from models_made import small_network
from scipy import stats
from torch import nn

from fer_perception.inference.monte_carlo import (
    MonteCarloDropout,
    lead_is_clear,
    only_dropout_active,
)
from fer_perception.models.dropout import MASK_KINDS, SeededDropout
from fer_perception.models.pst_bln import PstBln
from fer_perception.uncertainty.measures import measure_uncertainty


def test_only_dropout_is_active_and_every_mode_comes_back() -> None:
    network = small_network()
    first: Any = network.layers[0]
    first.train()  # a mixture of modes must come back as it was
    first.spatial_norm.eval()
    before = [module.training for module in network.modules()]
    statistics = first.temporal_norm.running_mean.clone()
    with only_dropout_active(network):
        assert all(dropout.training for dropout in network.dropouts)
        active = {type(module).__name__ for module in network.modules() if module.training}
        assert active == {'SeededDropout'}
        network(torch.randn(2, 2, 9, 181))
    assert [module.training for module in network.modules()] == before
    assert torch.equal(first.temporal_norm.running_mean, statistics)


def test_modes_come_back_after_an_error_too() -> None:
    network = small_network()
    with pytest.raises(ZeroDivisionError), only_dropout_active(network):
        raise ZeroDivisionError
    assert not any(module.training for module in network.modules())


def test_later_deterministic_calls_stay_deterministic() -> None:
    network = small_network()
    clip = torch.randn(2, 2, 9, 181)
    with torch.no_grad():
        before = network(clip)
        MonteCarloDropout(network, samples=3)(clip)
        assert torch.equal(network(clip), before)


def test_samples_are_probabilities_of_every_clip_of_the_batch() -> None:
    samples = MonteCarloDropout(small_network(), samples=11)(torch.randn(3, 2, 9, 181))
    assert samples.shape == (11, 3, 7)
    assert torch.allclose(samples.sum(-1), torch.ones(11, 3), atol=1e-6)
    assert samples.std(0).min() > 0


def test_same_seed_same_samples_whatever_torch_draws_meanwhile() -> None:
    clip = torch.randn(2, 2, 9, 181)
    network = small_network()
    torch.manual_seed(1)
    first = MonteCarloDropout(network, samples=5, seed=3)(clip)
    torch.manual_seed(2)
    assert torch.equal(first, MonteCarloDropout(network, samples=5, seed=3)(clip))
    assert not torch.equal(first, MonteCarloDropout(network, samples=5, seed=4)(clip))


@pytest.mark.parametrize(
    ('position', 'kind'), [('before', 'element'), *(('after', kind) for kind in MASK_KINDS)]
)
def test_batched_samples_are_distributed_as_looped_passes(position: str, kind: str) -> None:
    """Kolmogorov-Smirnov on every class; other seeds fail once in 10,000 if both are the same."""
    network = small_network(dropout=0.4, dropout_position=position, dropout_masks=kind)
    clip = torch.randn(1, 2, 7, 181)
    count = 600
    batched = MonteCarloDropout(network, samples=count, seed=1)(clip)[:, 0]
    generator = torch.Generator().manual_seed(2)
    with only_dropout_active(network, generator), torch.no_grad():
        looped = torch.stack([network(clip)[0].softmax(-1) for _ in range(count)])
    values = [
        stats.ks_2samp(batched[:, k].numpy(), looped[:, k].numpy()).pvalue for k in range(7)
    ]
    assert min(values) > 1e-4 / 7


def test_the_first_dropout_alone_makes_the_samples_differ() -> None:
    network = small_network(dropout=0.4)
    clip = torch.randn(1, 2, 7, 181)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    network.layers[0].register_forward_hook(count)
    MonteCarloDropout(network, samples=500)(clip)
    assert calls == 1  # computed once for all samples, however many chunks there are


def test_what_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(ValueError, match='it has none'):
        MonteCarloDropout(small_network(dropout=0.0))(torch.randn(1, 2, 7, 181))
    with pytest.raises(ValueError, match='samples'):
        MonteCarloDropout(small_network(), samples=0)
    with pytest.raises(ValueError, match='temperature'):
        MonteCarloDropout(small_network(), temperature=0.0)


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_every_sample_and_every_clip_has_masks_of_its_own(kind: str) -> None:
    # So many feature maps that no two of 60 samples drop the same ones.
    network = small_network(channels=(24, 24), dropout=0.4, dropout_masks=kind)
    clip = torch.randn(1, 2, 50, 181)
    samples = MonteCarloDropout(network, samples=30, seed=1)(clip.expand(2, -1, -1, -1))
    assert len(samples.flatten(0, 1).unique(dim=0)) == 60


def test_shared_masks_spread_the_samples_more() -> None:
    """Masks of single elements average out in the pooling over frames and edges."""
    clip = torch.randn(1, 2, 30, 181, generator=torch.Generator().manual_seed(1))
    spreads = {
        kind: float(
            MonteCarloDropout(
                small_network(dropout=0.2, dropout_masks=kind, window=0), samples=200, seed=1
            )(clip).std(0).max()
        )
        for kind in MASK_KINDS
    }
    assert all(spreads['element'] < spreads[kind] for kind in MASK_KINDS[1:])


def settled_network(*, lead: float, **changes: Any) -> PstBln:
    """Make a network whose first class leads by a bias over the second, which equals it else."""
    network = small_network(dropout=0.4, **changes)
    with torch.no_grad():
        network.head.weight[1] = network.head.weight[0]
        network.head.bias[:2] = torch.tensor([9.0 + lead, 9.0])
    return network


def test_a_clear_clip_ends_at_the_fewest_samples_and_a_tie_goes_to_the_limit() -> None:
    clips = torch.randn(2, 2, 7, 181)
    for fewest in (2, 10, 17):
        clear = MonteCarloDropout(settled_network(lead=5.0), samples=60, seed=1)
        drawn = clear.adaptive(clips, fewest_samples=fewest)
        assert [len(samples) for samples in drawn] == [-(-fewest // 10) * 10] * 2
        tie = MonteCarloDropout(settled_network(lead=0.0), samples=60, seed=1)
        assert [len(samples) for samples in tie.adaptive(clips, fewest_samples=fewest)] == [60, 60]
    few = MonteCarloDropout(settled_network(lead=5.0), samples=4, seed=1)
    assert [len(samples) for samples in few.adaptive(clips)] == [4, 4]


def test_the_number_of_samples_reaches_the_uncertainty() -> None:
    (samples,) = MonteCarloDropout(settled_network(lead=5.0), samples=60, seed=1).adaptive(
        torch.randn(1, 2, 150, 181)
    )
    uncertainty = measure_uncertainty(samples.numpy())
    assert uncertainty.mc_samples == len(samples) == 12  # passes of four fit the cache
    assert uncertainty.probabilities.argmax() == 0


@pytest.mark.parametrize(('clips', 'frames'), [(1, 60), (3, 41), (5, 150)])
def test_where_no_clip_ends_the_samples_are_those_of_a_call(clips: int, frames: int) -> None:
    network = small_network(dropout=0.4)
    batch = torch.randn(clips, 2, frames, 181)
    expected = MonteCarloDropout(network, samples=23, temperature=1.3, seed=5)(batch)
    sampler = MonteCarloDropout(network, samples=23, temperature=1.3, seed=5)
    for lead_errors in (1e9, float('inf')):
        sampler = MonteCarloDropout(network, samples=23, temperature=1.3, seed=5)
        drawn = sampler.adaptive(batch, lead_errors=lead_errors)
        assert torch.equal(torch.stack(drawn, dim=1), expected)


def undecided_network(clips: torch.Tensor) -> PstBln:
    """Make a network that answers clips differently, and some of them close to a tie."""
    network = small_network(dropout=0.5, dropout_masks='edge')
    with torch.no_grad():
        network.head.weight.mul_(5.0)
        network.head.bias.sub_(network(clips).mean(0))
    return network


def test_clips_end_at_different_times_each_by_its_own_samples() -> None:
    batch = torch.randn(30, 2, 20, 181, generator=torch.Generator().manual_seed(4))
    drawn = MonteCarloDropout(undecided_network(batch), samples=50, seed=2).adaptive(batch)
    counts = [len(samples) for samples in drawn]
    assert min(counts) == 10 and max(counts) == 50 and len(set(counts)) > 4
    for samples in drawn:
        assert torch.allclose(samples.sum(-1), torch.ones(len(samples)), atol=1e-6)
        assert len(samples) == 50 or lead_is_clear(samples[:, None], 3.0)


class SharedMaskNetwork(nn.Module):
    """Average each channel, dropping frames of all channels at once: equal ones stay equal."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = SeededDropout(0.5, kind='edge')
        self.scale = nn.Parameter(torch.ones(()))

    def deterministic_part(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.scale  # (N, 2, T, V)

    def random_part(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.dropout(features).mean((2, 3))
        return logits


def test_a_clip_ends_as_it_would_alone_whatever_the_others_do() -> None:
    tie, clear = torch.ones(2, 9, 5), torch.stack([torch.ones(9, 5), torch.zeros(9, 5)])
    monte_carlo = MonteCarloDropout(SharedMaskNetwork().eval(), samples=60, seed=1)
    for clips, expected in (
        ([tie], [60]), ([clear], [10]), ([tie, clear, clear, tie], [60, 10, 10, 60]),
        ([clear] * 3 + [tie], [10, 10, 10, 60]),
    ):
        drawn = monte_carlo.adaptive(torch.stack(clips))
        assert [len(samples) for samples in drawn] == expected
        for samples, clip in zip(drawn, clips, strict=True):  # each clip has its own samples
            assert bool((samples[:, 0] == samples[:, 1]).all()) == (clip is tie)


def test_adaptive_samples_repeat_with_their_seed_and_leave_the_model_as_it_was() -> None:
    batch = torch.randn(8, 2, 20, 181)
    network = undecided_network(batch)
    first, again, other = (
        MonteCarloDropout(network, samples=40, seed=seed).adaptive(batch)
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a[:5], b[:5]) for a, b in zip(first, other, strict=True))
    assert not any(module.training for module in network.modules())


def test_no_clips_give_no_answers_and_bad_limits_are_refused() -> None:
    monte_carlo = MonteCarloDropout(small_network(), samples=3)
    assert monte_carlo.adaptive(torch.randn(0, 2, 7, 181)) == []
    for lead_errors in (0.0, -1.0, float('nan')):
        with pytest.raises(ValueError, match=f'lead_errors must be positive, not {lead_errors}'):
            monte_carlo.adaptive(torch.randn(1, 2, 7, 181), lead_errors=lead_errors)
    with pytest.raises(ValueError, match='fewest_samples must be at least 1, not 0'):
        monte_carlo.adaptive(torch.randn(1, 2, 7, 181), fewest_samples=0)


# Multiples of 1/64 are exact in single and double precision: no case is decided by rounding.
SAMPLES = arrays.arrays(
    np.int64,
    st.tuples(st.integers(2, 30), st.integers(1, 4), st.integers(2, 5)),
    elements=st.integers(0, 64),
)


@settings(max_examples=200)
@given(values=SAMPLES, lead_errors=st.floats(0.1, 10.0))
def test_the_rule_is_the_paired_lead_against_its_standard_error(
    values: np.ndarray, lead_errors: float
) -> None:
    clear = lead_is_clear(torch.from_numpy(values / 64.0), lead_errors)
    for clip in range(values.shape[1]):
        own = values[:, clip]  # (S, classes)
        best, second = np.argsort(-own.sum(0), kind='stable')[:2]
        sums = np.sort(own.sum(0))
        if sums[-1] == sums[-2]:
            assert not clear[clip]
        elif len(sums) == 2 or sums[-2] > sums[-3]:  # else either may be the runner-up
            differences = own[:, best] - own[:, second]
            bound = lead_errors * stats.sem(differences)
            if abs(differences.mean() - bound) > 1e-9:
                assert bool(clear[clip]) == (differences.mean() > bound)


@given(values=SAMPLES, lead_errors=st.floats(0.1, 10.0), data=st.data())
def test_the_rule_asks_each_clip_alone_and_not_for_order(
    values: np.ndarray, lead_errors: float, data: st.DataObject
) -> None:
    samples = torch.from_numpy(values / 64.0)
    clear = lead_is_clear(samples, lead_errors)
    for clip in range(samples.shape[1]):
        assert lead_is_clear(samples[:, clip : clip + 1], lead_errors) == clear[clip]
    # A stricter rule is met by no other clip.
    assert not (lead_is_clear(samples, 2 * lead_errors) & ~clear).any()
    # The same samples drawn twice as often make no clear lead unclear.
    assert not (clear & ~lead_is_clear(samples.repeat(2, 1, 1), lead_errors)).any()


def test_the_rule_on_samples_that_can_be_reckoned_by_hand() -> None:
    leads = torch.tensor([0.1, 0.3] * 8)  # mean 0.2, standard error 0.0258
    samples = torch.stack([0.5 + leads / 2, 0.5 - leads / 2], dim=-1)[:, None]  # (16, 1, 2)
    assert lead_is_clear(samples, 7.7) and not lead_is_clear(samples, 7.8)
    assert not lead_is_clear(samples[:1], 3.0)  # one sample has no standard error
    assert lead_is_clear(samples[:, :, :1], 3.0)  # one class has no runner-up
    # Paired: both classes swing together, and the lead stays.
    swing = torch.linspace(0.0, 0.3, 12)
    together = torch.stack([0.35 + swing, 0.30 + swing, 0.35 - 2 * swing], dim=-1)[:, None]
    assert lead_is_clear(together.clamp(min=0), 100.0)
