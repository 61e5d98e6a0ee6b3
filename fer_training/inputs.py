# SPDX-License-Identifier: Apache-2.0
"""From a batch of features to the input of a network, augmented while training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fer_perception.graph.baseline import Baseline
from fer_perception.graph.landmarks import INNER_LANDMARKS, MIRROR

FIRST = int(INNER_LANDMARKS[0])
INNER_MIRROR = torch.from_numpy(MIRROR[INNER_LANDMARKS] - FIRST)  # within the 51 landmarks
# Brows, nose, eyes and mouth: how many of the 51 landmarks follow one another in each.
PART_SIZES = torch.tensor([5, 5, 9, 6, 6, 20])
PAIRED_SIZES = torch.tensor([10, 9, 12, 20])  # likewise, both brows together and both eyes


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Set how landmarks are varied while training, anew for every clip and epoch."""

    mirror: bool = True  # flip about half of the faces left to right
    rotation: float = 0.0  # standard deviation of the rolls, radians
    stretch: float = 0.0  # standard deviation of the factors on width and height
    # Standard deviation of where brows, nose, eyes and mouth lie, in face sizes, and half of it
    # of each landmark in them: the same in all frames, as if the clip were of another person
    person: float = 0.0
    # Standard deviation of the logarithm of how much further than they did brows, nose, eyes and
    # mouth move from where the clip begins, each sideways and up or down: the same in all frames
    movement: float = 0.0
    time_crop: float = 0.0  # up to this share of the clip is cut off at either end

    def __post_init__(self) -> None:
        """Refuse values outside of their ranges."""
        for name in ('rotation', 'stretch', 'person', 'movement'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} must be 0 or more, not {getattr(self, name)}')
        if not 0 <= self.time_crop < 0.5:
            raise ValueError(f'time_crop must be 0 or more and below 0.5, not {self.time_crop}')

    def __call__(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Vary a batch of landmarks centred on the nose: (N, 2, T, 51)."""
        n = len(points)
        if self.mirror:
            mirrored = points[..., INNER_MIRROR] * torch.tensor([-1.0, 1.0])[:, None, None]
            chosen = torch.rand(n, generator=generator) < 0.5
            points = torch.where(chosen[:, None, None, None], mirrored, points)
        if self.rotation:
            angle = self.rotation * torch.randn(n, generator=generator)
            rows = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
            matrices = torch.stack(rows, -1).reshape(n, 2, 2)
            points = torch.einsum('nij,njtv->nitv', matrices, points)
        if self.stretch:
            points = points * (1.0 + self.stretch * torch.randn(n, 2, 1, 1, generator=generator))
        if self.person:
            parts = torch.randn(n, 2, 1, len(PART_SIZES), generator=generator)
            own = torch.randn(n, 2, 1, points.shape[-1], generator=generator)
            points = points + self.person * (parts.repeat_interleave(PART_SIZES, -1) + own / 2)
        if self.movement:
            parts = torch.randn(n, 2, 1, len(PAIRED_SIZES), generator=generator)
            factors = (self.movement * parts).exp().repeat_interleave(PAIRED_SIZES, -1)
            first = points[:, :, :1]
            points = first + factors * (points - first)
        if self.time_crop:
            points = _crop_in_time(points, self.time_crop, generator)
        return points


@dataclass(frozen=True, kw_only=True)
class NetworkInput:
    """Turn features into what a network reads: edge vectors, or the landmarks themselves."""

    # (E, 2) int64 landmarks 17..67; (0, 2) where they are unknown: the features must be edge
    # vectors already; None: the network reads landmarks
    edges: Tensor | None
    augmentation: Augmentation = Augmentation(mirror=False)
    baseline_frames: int = 0  # span of the baseline that a streaming network sees; 0: none

    def __call__(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Prepare a batch, augmented if there is a generator.

        features: (N, 2, T, 51) landmarks, or (N, 2, T, E) edge vectors, which pass as they are.
        Returns (N, 2, T, V): V = E, or 51 without edges; with a baseline (N, 4, T, V), the
        sequences beginning as streams do. Raises ValueError for features of
        another size; where the edges are unknown, it is the network that checks it.
        """
        vectors = self._vectors(features, generator)
        if not self.baseline_frames:
            return vectors
        return torch.from_numpy(Baseline(frames=self.baseline_frames).push(vectors.numpy()))

    def _vectors(self, features: Tensor, generator: torch.Generator | None) -> Tensor:
        size = features.shape[-1]
        if self.edges is not None and len(self.edges) in (0, size):
            return features
        if size != len(INNER_LANDMARKS):
            wanted = '' if self.edges is None else f' or {len(self.edges)} edges'
            raise ValueError(
                f'features must be of {len(INNER_LANDMARKS)} landmarks{wanted}, not of {size}'
            )
        if generator is not None:
            features = self.augmentation(features, generator)
        return features if self.edges is None else batch_edge_vectors(features, self.edges)


def batch_edge_vectors(points: Tensor, edges: Tensor) -> Tensor:
    """Compute edge vectors of inner landmarks: (N, 2, T, 51) and (E, 2) -> (N, 2, T, E)."""
    sources, targets = edges[:, 0] - FIRST, edges[:, 1] - FIRST
    return points[..., sources] - points[..., targets]


def _crop_in_time(points: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Cut frames off at both ends and stretch what is left to the old length."""
    n, _, frames, _ = points.shape
    cut = share * torch.rand(n, 2, generator=generator)
    steps = torch.linspace(0.0, 1.0, frames)
    at = (frames - 1) * (cut[:, :1] + (1.0 - cut.sum(1, keepdim=True)) * steps)  # (N, T)
    before = at.floor().long().clamp(max=max(frames - 2, 0))
    after = (before + 1).clamp(max=frames - 1)
    weight = (at - before)[:, None, :, None]  # (N, 1, T, 1)
    by_time = points.transpose(1, 2)  # (N, T, 2, V)
    rows = torch.arange(n)[:, None]
    earlier = by_time[rows, before].transpose(1, 2)  # (N, 2, T, V)
    later = by_time[rows, after].transpose(1, 2)
    return (1.0 - weight) * earlier + weight * later
