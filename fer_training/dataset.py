# SPDX-License-Identifier: Apache-2.0
"""What networks are trained with: clips with one target each, or tracks with one a frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler, Sampler, WeightedRandomSampler

from fer_perception.graph.landmarks import INNER_LANDMARKS
from fer_perception.graph.normalization import normalize_landmarks
from fer_perception.graph.resampling import resample_track
from fer_training.clips import Clips
from fer_training.tracks import Track

IGNORED = -100  # the target of frames that teach nothing, as in torch's cross entropy

# An expression counts as shown from this share of its apex on, as neutral up to the other one.
SHOWN_INTENSITY = 0.5
NEUTRAL_INTENSITY = 0.1


@dataclass(frozen=True)
class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """Hold sequences of one length with their targets; they are read batch by batch.

    Features may be memory-mapped: only the sequences of a batch are copied into memory.
    """

    features: np.ndarray  # (N, 2, T, V) V = 51 inner landmarks, or E edge vectors
    targets: Tensor  # int64, class index or IGNORED: (N,) of whole clips, (N, T) of each frame
    chances: Tensor | None = None  # (N,) that a draw takes each; None: an epoch takes each once
    draws: int = 0  # sequences of an epoch, where there are chances

    @classmethod
    def of_clips(cls, clips: Clips) -> 'TrainingSet':
        """Hold clips, one target each."""
        return cls(clips.features, torch.from_numpy(clips.labels))

    @property
    def has_frame_targets(self) -> bool:
        """Whether every frame has a target of its own."""
        return self.targets.ndim == 2

    @property
    def epoch_length(self) -> int:
        """Count the sequences that an epoch takes."""
        return len(self) if self.chances is None else self.draws

    def sampler(self, generator: torch.Generator) -> Sampler[int]:
        """Choose the sequences of an epoch: each once in random order, or drawn by chance."""
        if self.chances is None:
            return RandomSampler(self, generator=generator)
        return WeightedRandomSampler(
            self.chances.tolist(), self.draws, replacement=True, generator=generator
        )

    def __len__(self) -> int:
        """Count the sequences."""
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the features (2, T, V) and the target of a sequence."""
        features, targets = self.__getitems__([index])
        return features[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the features (n, 2, T, V) float32 and the targets of a batch."""
        chosen = np.asarray(indices)
        features = np.ascontiguousarray(self.features[chosen], dtype=np.float32)
        return torch.from_numpy(features), self.targets[torch.from_numpy(chosen)]


def class_shares(targets: Tensor, chances: Tensor | None = None) -> Tensor:
    """Return the share that each class has among the targets of an epoch, (C,) summing to 1.

    targets: (N,) of clips or (N, T) of frames, class index or IGNORED. chances: (N,) of a sequence
    to be drawn; None: all are equal. C is one more than the highest index. Raises ValueError if
    there is no target at all.
    """
    by_sequence = targets.reshape(len(targets), -1)  # (N, T), T = 1 of clips
    known = by_sequence != IGNORED
    if not known.any():
        raise ValueError('there is no target whose class could be counted')
    of_sequence = torch.ones(len(targets)) if chances is None else chances
    weights = of_sequence.double()[:, None].expand_as(by_sequence)[known]
    sums = torch.bincount(by_sequence[known], weights=weights)
    return sums / sums.sum()


def stack_frames(sequences: Sequence[tuple[np.ndarray, np.ndarray]]) -> TrainingSet:
    """Put sequences (2, T, 51) with targets (T,) together, filling up the shorter ones.

    What is filled up repeats the last frame, with IGNORED targets.
    """
    longest = max(len(targets) for _, targets in sequences)
    features = np.empty((len(sequences), 2, longest, len(INNER_LANDMARKS)), np.float32)
    targets = np.full((len(sequences), longest), IGNORED)
    for index, (points, labels) in enumerate(sequences):
        features[index, :, : len(labels)] = points
        features[index, :, len(labels) :] = points[:, -1:]
        targets[index, : len(labels)] = labels
    return TrainingSet(features, torch.from_numpy(targets))


def prepare_frames(
    track: Track, *, classes: Sequence[str], frame_rate: float, normalization: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features (2, T, 51) float32 and targets (T,) of a track at a frame rate.

    Where the track knows its intensity, frames up to NEUTRAL_INTENSITY are neutral, those from
    there to SHOWN_INTENSITY IGNORED. Raises ValueError for a track without a face.
    """
    if not len(track.found_landmarks):
        raise ValueError(f'a track ({track.label}, {track.subject}) shows no face')
    times_s = track.found_times_s
    points = normalize_landmarks(track.found_landmarks, normalization)
    points = resample_track(points, times_s, frame_rate=frame_rate)  # (T, 68, 2)
    labels = np.full(len(points), classes.index(track.label))
    if track.found_intensity is not None and 'neutral' in classes:
        intensity = resample_track(track.found_intensity, times_s, frame_rate=frame_rate)
        labels[intensity < SHOWN_INTENSITY] = IGNORED
        labels[intensity <= NEUTRAL_INTENSITY] = classes.index('neutral')
    features = np.moveaxis(points[:, INNER_LANDMARKS], -1, 0)  # (2, T, 51)
    return features.astype(np.float32), labels
