# SPDX-License-Identifier: Apache-2.0
"""Dropout drops the right share, keeps the mean, and draws from its own generator."""

import torch

from fer_perception.models.dropout import SeededDropout


def test_mask_keeps_the_mean_and_drops_the_rate() -> None:
    mask = SeededDropout(0.2).train()(torch.ones(400_000))
    dropped = float((mask == 0).float().mean())
    # Five standard errors: fails once in two million runs.
    assert abs(dropped - 0.2) < 5 * (0.2 * 0.8 / 400_000) ** 0.5
    assert torch.allclose(mask[mask != 0], torch.tensor(1.25))


def test_evaluation_mode_changes_nothing() -> None:
    features = torch.randn(5, 6)
    assert SeededDropout(0.5).eval()(features) is features


def test_own_generator_repeats_and_leaves_torchs_alone() -> None:
    dropout = SeededDropout(0.5).train()
    features = torch.ones(1000)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    dropout.generator = torch.Generator().manual_seed(1)
    first = dropout(features)
    dropout.generator = torch.Generator().manual_seed(1)
    assert torch.equal(first, dropout(features))
    assert torch.equal(torch.rand(3), expected)
