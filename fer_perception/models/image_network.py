# SPDX-License-Identifier: Apache-2.0
"""What every image recogniser is: features of each frame, then members that vote on a sequence.

Shapes: N sequences, T frames of each, H x W pixels, F features of a frame, M members, C classes.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class ImageNetwork(nn.Module, ABC):
    """A network in two parts, so that a stream computes the features of every frame only once.

    Every dropout is a SeededDropout and lies in the random part.
    """

    def __init__(
        self,
        *,
        frames: int,
        image_size: int,
        members: tuple[str, ...],
        member_weights: tuple[float, ...],
        feature_size: int,
    ) -> None:
        """Take the sizes; the members' weights sum to 1."""
        super().__init__()
        if len(members) != len(member_weights) or min(member_weights) < 0:
            raise ValueError(
                f'every member needs a weight of 0 or more: {members}, {member_weights}'
            )
        if abs(sum(member_weights) - 1.0) > 1e-6:
            raise ValueError(f'the weights of the members must sum to 1, not {member_weights}')
        self.frames = frames  # T that an answer reads
        self.image_size = image_size  # H and W
        self.members = members
        self.member_weights = member_weights
        self.feature_size = feature_size  # F

    @abstractmethod
    def frame_features(self, images: Tensor) -> Tensor:
        """Compute what is kept of each frame: (N, 3, H, W) to (N, F)."""

    @abstractmethod
    def random_part(self, features: Tensor) -> Tensor:
        """Answer for sequences of features: (N, T, F) to the members' logits (N, M, C)."""

    def deterministic_part(self, images: Tensor) -> Tensor:
        """Compute everything before the first dropout: (N, T, 3, H, W) to (N, T, F).

        Raises ValueError for another number of frames or size of images.
        """
        expected = (self.frames, 3, self.image_size, self.image_size)
        if images.ndim != 5 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f'the input must have the shape (N, {", ".join(map(str, expected))}), '
                f'not {tuple(images.shape)}'
            )
        n, t = images.shape[:2]
        features = self.frame_features(images.flatten(0, 1))  # (N * T, F)
        return features.reshape(n, t, -1)

    def forward(self, images: Tensor) -> Tensor:
        """Answer for sequences of images: (N, T, 3, H, W) to the members' logits (N, M, C)."""
        return self.random_part(self.deterministic_part(images))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Let the members vote: logits (..., M, C) to probabilities (..., C).

        The weighted sum of their softmax outputs.
        """
        weights = torch.tensor(self.member_weights, dtype=logits.dtype, device=logits.device)
        return (weights[:, None] * logits.softmax(-1)).sum(-2)

    def parameter_count(self) -> int:
        """Count the parameters."""
        return sum(parameter.numel() for parameter in self.parameters())
