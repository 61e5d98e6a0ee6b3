# SPDX-License-Identifier: Apache-2.0
"""Mixing of tracks from several files into one training set, each file with its share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fer_training.dataset import IGNORED, TrainingSet, stack_frames
from fer_training.track_sources import PreparedTrack


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Set how tracks become the sequences of an epoch."""

    piece_frames: int = 60  # longer tracks are cut into pieces of so many, each half overlapping
    draws: int = 1000  # sequences of an epoch, where the files have shares
    shares: tuple[tuple[str, float], ...] = ()  # of each source; empty: an epoch takes all once

    def __post_init__(self) -> None:
        """Refuse values outside of their ranges."""
        if self.piece_frames < 2 or self.draws < 1:
            raise ValueError(
                f'piece_frames must be at least 2 and draws at least 1, not {self.piece_frames} '
                f'and {self.draws}'
            )
        if wrong := [f'{name}@{share}' for name, share in self.shares if not share > 0]:
            raise ValueError(f'a share must be above 0, not {wrong[0]}')


def mix_tracks(tracks: Sequence[PreparedTrack], mixture: Mixture) -> TrainingSet:
    """Cut tracks into pieces and give each piece the chance that the shares ask for.

    A draw takes each source with its share; within a source each class that its tracks have is
    as likely, within a class each piece. Pieces without any target are left out. Raises
    ValueError if nothing is left, a share has no tracks, or tracks no share.
    """
    pieces = [
        (index, start)
        for index, track in enumerate(tracks)
        for start in piece_starts(len(track.targets), mixture.piece_frames)
        if (track.targets[start : start + mixture.piece_frames] != IGNORED).any()
    ]
    if not pieces:
        raise ValueError('there are no tracks with a target to fit a network to')
    data = stack_frames(
        [
            (
                tracks[index].features[:, start : start + mixture.piece_frames],
                tracks[index].targets[start : start + mixture.piece_frames],
            )
            for index, start in pieces
        ]
    )
    if not mixture.shares:
        return data
    groups = [(tracks[index].source, tracks[index].label) for index, _ in pieces]
    chances = _chances(groups, dict(mixture.shares))
    return replace(data, chances=torch.from_numpy(chances), draws=mixture.draws)


def piece_starts(frames: int, piece_frames: int) -> list[int]:
    """Return where the pieces of a track begin: at every half piece, the last one at its end."""
    if frames <= piece_frames:
        return [0]
    last = frames - piece_frames
    return [*range(0, last, max(1, piece_frames // 2)), last]


def _chances(groups: Sequence[tuple[str, int]], shares: Mapping[str, float]) -> np.ndarray:
    """Return the chance of each piece, (N,) summing to 1."""
    sizes = Counter(groups)
    sources = {source for source, _ in sizes}
    if sources != shares.keys():
        raise ValueError(
            f'the shares are of {", ".join(sorted(shares))}, the tracks of '
            f'{", ".join(sorted(sources))}'
        )
    classes = Counter(source for source, _ in sizes)
    total = sum(shares.values())
    return np.array(
        [
            shares[source] / total / classes[source] / sizes[source, label]
            for source, label in groups
        ]
    )
