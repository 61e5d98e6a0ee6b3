# SPDX-License-Identifier: Apache-2.0
"""Monte Carlo dropout samples what it should and leaves the model as it was."""

from typing import Any

import pytest
import torch
from models_made import small_network
from scipy import stats

from fer_perception.inference.monte_carlo import MonteCarloDropout, only_dropout_active


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


@pytest.mark.parametrize('position', ['after', 'before'])
def test_batched_samples_are_distributed_as_looped_passes(position: str) -> None:
    """Kolmogorov-Smirnov on every class; fails once in 10,000 runs if both are the same."""
    network = small_network(dropout=0.4, dropout_position=position)
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
