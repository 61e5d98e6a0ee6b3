# SPDX-License-Identifier: Apache-2.0
"""Samples of what an image recogniser says: every member under every Monte Carlo mask.

Shapes: N sequences, T frames of F features each, S masks, M members, C classes.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fer_perception.inference.monte_carlo import only_dropout_active
from fer_perception.models.dropout import SeededDropout
from fer_perception.models.image_network import ImageNetwork

SEQUENCES_PER_PASS = 64  # sequences times masks that go through the random part together


def has_dropout(network: ImageNetwork) -> bool:
    """Tell whether a network has dropout that could drop anything."""
    return any(
        isinstance(module, SeededDropout) and module.p > 0 for module in network.modules()
    )


@torch.inference_mode()
def draw_logits(
    network: ImageNetwork,
    features: Tensor,
    *,
    samples: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw the members' logits under Monte Carlo masks.

    features: (N, T, F). Returns (S, N, M, C), S being 1 for a network without dropout, whose
    answers are all the same. The masks come from `generator`, or torch's own if that is None.
    Raises ValueError for fewer than one sample.
    """
    if samples < 1:
        raise ValueError(f'samples must be at least 1, not {samples}')
    drops = has_dropout(network)
    count, sequences = samples if drops else 1, len(features)
    masks: AbstractContextManager[None] = (
        only_dropout_active(network, generator) if drops else nullcontext()
    )
    per_pass = max(1, SEQUENCES_PER_PASS // max(1, sequences))  # masks
    passes = []
    with masks:
        for start in range(0, count, per_pass):
            size = min(per_pass, count - start)
            # (N, T, F) -> (size * N, T, F)
            batch = features.expand(size, *features.shape).flatten(0, 1)
            logits = network.random_part(batch)  # (size * N, M, C)
            passes.append(logits.float().unflatten(0, (size, sequences)))  # (size, N, M, C)
    return torch.cat(passes)


@torch.inference_mode()
def draw_samples(
    network: ImageNetwork,
    features: Tensor,
    *,
    samples: int,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draw class probabilities: each member under each Monte Carlo mask is a sample of its own.

    features: (N, T, F); the network is in evaluation mode. Returns the samples (S * M, N, C),
    mask by mask, and their weights (S * M,), which sum to 1: the weighted mean of the samples is
    the vote of the members. S is 1 for a network without dropout. The same generator state gives
    the same samples. Raises ValueError for fewer than one sample or a temperature that is not
    positive.
    """
    if not temperature > 0:
        raise ValueError(f'temperature must be positive, not {temperature}')
    logits = draw_logits(network, features, samples=samples, generator=generator)
    probabilities = (logits / temperature).softmax(-1)  # (S, N, M, C)
    drawn = probabilities.transpose(1, 2).flatten(0, 1)  # (S, M, N, C) -> (S * M, N, C)
    return drawn, sample_weights(network, len(logits)).to(drawn)


def sample_weights(network: ImageNetwork, samples: int) -> Tensor:
    """Weigh each member under each of S masks: (S * M,), mask by mask, summing to 1."""
    members = torch.tensor(network.member_weights)
    return (members / members.sum() / samples).repeat(samples)
