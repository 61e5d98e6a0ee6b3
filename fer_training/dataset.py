# SPDX-License-Identifier: Apache-2.0
"""From landmark tracks to tensors: normalised, resampled, with a target for every frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from fer_perception.graph.landmarks import MIRROR
from fer_perception.graph.normalization import normalize_landmarks
from fer_perception.graph.resampling import resample_track
from fer_training.tracks import Track

IGNORED = -100  # the target of frames that teach nothing, as in torch's cross entropy

# An expression counts as shown from this share of its apex on, as neutral up to the other one.
SHOWN_INTENSITY = 0.5
NEUTRAL_INTENSITY = 0.1


@dataclass(frozen=True)
class TrackTensors(Dataset[tuple[Tensor, Tensor]]):
    """Hold tracks at one rate and length; item i is (landmarks, targets)."""

    landmarks: Tensor  # (N, T, 68, 2) float32, normalised
    targets: Tensor  # (N, T) int64, class index or IGNORED

    def __len__(self) -> int:
        """Count the tracks."""
        return len(self.landmarks)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the landmarks (T, 68, 2) and targets (T,) of a track."""
        return self.landmarks[index], self.targets[index]


def track_tensors(
    tracks: Sequence[Track],
    *,
    classes: Sequence[str],
    frame_rate: float,
    normalization: str,
    progress: bool = False,
) -> TrackTensors:
    """Prepare tracks for a network of a given frame rate.

    Tracks shorter than the longest are filled up with their last frame and IGNORED targets.
    Raises ValueError for an empty list or a label that is not among the classes.
    """
    if not tracks:
        raise ValueError('there are no tracks')
    if unknown := {track.label for track in tracks} - set(classes):
        raise ValueError(
            f'the tracks have labels that the model lacks: {", ".join(sorted(unknown))}; '
            f'its classes are {", ".join(classes)}'
        )
    prepared = [
        _prepare(track, list(classes), frame_rate, normalization)
        for track in tqdm(tracks, desc='prepare', unit='track', disable=not progress)
    ]
    longest = max(len(targets) for _, targets in prepared)
    landmarks = np.empty((len(tracks), longest, 68, 2), np.float32)
    targets = np.full((len(tracks), longest), IGNORED)
    for index, (points, labels) in enumerate(prepared):
        landmarks[index, : len(points)] = points
        landmarks[index, len(points) :] = points[-1]
        targets[index, : len(points)] = labels
    return TrackTensors(torch.from_numpy(landmarks), torch.from_numpy(targets))


def batch_edge_vectors(landmarks: Tensor, edges: Tensor) -> Tensor:
    """Compute edge vectors of a batch: (N, T, 68, 2) and (E, 2) -> (N, 2, T, E)."""
    vectors = landmarks[:, :, edges[:, 0]] - landmarks[:, :, edges[:, 1]]  # (N, T, E, 2)
    return vectors.permute(0, 3, 1, 2)


def mirror_some(landmarks: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror about half of the faces of a batch: (N, T, 68, 2)."""
    mirrored = landmarks[:, :, torch.from_numpy(MIRROR)] * torch.tensor([-1.0, 1.0])
    chosen = torch.rand(len(landmarks), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], mirrored, landmarks)


def _prepare(
    track: Track, classes: list[str], frame_rate: float, normalization: str
) -> tuple[np.ndarray, np.ndarray]:
    points = normalize_landmarks(track.landmarks, normalization)
    points = resample_track(points, track.times_s, frame_rate=frame_rate)  # (T, 68, 2)
    labels = np.full(len(points), classes.index(track.label))
    if track.intensity is not None and 'neutral' in classes:
        intensity = resample_track(track.intensity, track.times_s, frame_rate=frame_rate)
        labels[intensity < SHOWN_INTENSITY] = IGNORED
        labels[intensity <= NEUTRAL_INTENSITY] = classes.index('neutral')
    return points, labels
