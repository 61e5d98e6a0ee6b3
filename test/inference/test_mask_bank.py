# SPDX-License-Identifier: Apache-2.0
"""Masks read from the bank are as unbiased as those that dropout draws."""

import pytest
import torch

from fer_perception.inference.mask_bank import ALIGNMENT, RENEWAL_STEPS, MaskBank
from fer_perception.models.dropout import seeded_generator


def bank(rate: float = 0.2, seed: int = 1, largest: int = 10_000) -> MaskBank:
    generator = seeded_generator(seed, device=torch.device('cpu'))
    return MaskBank(rate, largest=largest, dtype=torch.bfloat16, generator=generator)


@pytest.mark.parametrize('rate', [0.05, 0.2, 0.5, 0.9])
def test_masks_keep_their_share(rate: float) -> None:
    """Five standard errors: each case fails once in two million runs."""
    masks = bank(rate)
    kept, count = 0.0, 0
    for _ in range(RENEWAL_STEPS):
        masks.renew()
        kept += float(masks.draw((10, 20, 50)).float().sum())
        count += 10_000
    assert abs(kept / count - (1 - rate)) < 5 * (rate * (1 - rate) / count) ** 0.5


def test_elements_of_a_mask_are_independent_of_their_neighbours() -> None:
    masks = bank(0.3)
    drawn = torch.stack([masks.draw((4, 50, 50)).float() for _ in range(100)]) - 0.7
    count = drawn[:, :, :, 1:].numel()
    for shifted, kept in (
        (drawn[:, :, :, 1:], drawn[:, :, :, :-1]),  # edges
        (drawn[:, :, 1:], drawn[:, :, :-1]),  # samples
        (drawn[:, 1:], drawn[:, :-1]),  # channels
    ):
        correlation = float((shifted * kept).mean()) / 0.21
        assert abs(correlation) < 5 / (0.5 * count) ** 0.5


def test_each_draw_is_another_place_and_each_element_is_renewed() -> None:
    masks = bank()
    first = masks.draw((ALIGNMENT, 10)).clone()
    assert not torch.equal(masks.draw((ALIGNMENT, 10)), first)
    before = masks._bank.clone()
    for _ in range(RENEWAL_STEPS):
        masks.renew()
    changed = (before != masks._bank).float().mean()
    assert abs(float(changed) - 2 * 0.2 * 0.8) < 0.01


def test_the_seed_repeats_the_masks() -> None:
    assert torch.equal(bank(seed=3).draw((5, 7)), bank(seed=3).draw((5, 7)))
    assert not torch.equal(bank(seed=3).draw((50, 70)), bank(seed=4).draw((50, 70)))
