# SPDX-License-Identifier: Apache-2.0
"""Dropout that can draw its masks from a generator of its own."""

import torch
from torch import Tensor, nn


def draw_mask(
    shape: tuple[int, ...] | torch.Size,
    *,
    rate: float,
    generator: torch.Generator | None,
    like: Tensor,
) -> Tensor:
    """Draw an element-wise dropout mask: 0 with probability `rate`, else 1 / (1 - rate)."""
    mask = torch.empty(shape, dtype=like.dtype, device=like.device)
    return mask.bernoulli_(1.0 - rate, generator=generator).div_(1.0 - rate)


class SeededDropout(nn.Dropout):
    """Element-wise dropout whose masks come from `generator`, or torch's own if that is None."""

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.generator: torch.Generator | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Drop elements in training mode; pass the features on unchanged otherwise."""
        if not self.training or self.p == 0.0:
            return features
        mask = draw_mask(features.shape, rate=self.p, generator=self.generator, like=features)
        return features * mask
