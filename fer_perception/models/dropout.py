# SPDX-License-Identifier: Apache-2.0
"""Dropout that can draw its masks from a generator of its own."""

import torch
from torch import Tensor, nn


def seeded_generator(seed: int | None, *, device: torch.device) -> torch.Generator:
    """Make a generator for masks; without a seed it draws others each time."""
    generator = torch.Generator(device=device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


class SeededDropout(nn.Dropout):
    """Element-wise dropout whose masks come from `generator`, or torch's own if that is None."""

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.generator: torch.Generator | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Drop elements in training mode; pass the features on unchanged otherwise."""
        if not self.training or self.p == 0.0:
            return features
        mask = torch.empty_like(features).bernoulli_(1.0 - self.p, generator=self.generator)
        return features * mask.div_(1.0 - self.p)
