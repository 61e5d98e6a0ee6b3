# SPDX-License-Identifier: Apache-2.0
"""Dropout drops the right share, keeps the mean, and draws from its own generator."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.models.dropout import MASK_KINDS, SHARED_AXES, SeededDropout, mask_shape

SHAPE = (30, 20, 25, 40)  # (N, C, T, E)
SIZES = st.tuples(*[st.integers(1, 9)] * 4)


def drawn_mask(kind: str, *, rate: float = 0.2) -> torch.Tensor:
    dropout = SeededDropout(rate, kind=kind).train()
    dropout.generator = torch.Generator().manual_seed(3)
    mask: torch.Tensor = dropout(torch.ones(SHAPE))
    return mask


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


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_every_kind_drops_its_rate_and_keeps_the_mean(kind: str) -> None:
    mask = drawn_mask(kind)
    draws = torch.Size(mask_shape(kind, SHAPE)).numel()
    # Five standard errors of as many draws as there are: another seed fails once in two million.
    assert abs(float((mask == 0).float().mean()) - 0.2) < 5 * (0.2 * 0.8 / draws) ** 0.5
    assert abs(float(mask.mean()) - 1.0) < 5 * (0.2 / 0.8 / draws) ** 0.5
    assert torch.allclose(mask[mask != 0], torch.tensor(1.25))


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_every_kind_shares_its_axis_and_no_other(kind: str) -> None:
    """Pairs along an axis agree always where it is shared, else as often as independent draws."""
    mask = drawn_mask(kind) != 0
    for axis in range(4):
        agreement = float((mask == mask.roll(1, axis)).float().mean())
        if axis in SHARED_AXES[kind]:
            assert agreement == 1.0
        else:
            draws = torch.Size(mask_shape(kind, SHAPE)).numel()
            # 0.8 * 0.8 + 0.2 * 0.2. Each draw is in two pairs, so that the variance is at most
            # three times that of pairs apart; another seed fails less than once in a million.
            assert abs(agreement - 0.68) < 5 * (3 * 0.68 * 0.32 / draws) ** 0.5


@given(kind=st.sampled_from(MASK_KINDS), shape=SIZES)
def test_masks_have_their_shape_and_broadcast(kind: str, shape: tuple[int, ...]) -> None:
    expected = mask_shape(kind, shape)
    shared = {axis for axis, size in enumerate(shape) if size != expected[axis]}
    assert shared <= set(SHARED_AXES[kind])
    assert torch.broadcast_shapes(expected, shape) == shape
    dropout = SeededDropout(0.5, kind=kind).train()
    mask = dropout(torch.ones(shape)) != 0
    assert mask.shape == shape
    for axis in SHARED_AXES[kind]:
        assert (mask == mask.narrow(axis, 0, 1)).all()


def test_kinds_differ_under_the_same_seed() -> None:
    masks = [drawn_mask(kind) for kind in MASK_KINDS]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(masks, 2))


def test_unknown_kinds_and_other_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="'node'; there are element, .*constant, feature_map"):
        SeededDropout(0.5, kind='node')
    with pytest.raises(ValueError, match="unknown kind of masks 'node'"):
        mask_shape('node', SHAPE)
    with pytest.raises(ValueError, match=r"'edge' need \(N, C, T, E\), not \(3, 4\)"):
        SeededDropout(0.5, kind='edge').train()(torch.ones(3, 4))
