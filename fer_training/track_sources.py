# SPDX-License-Identifier: Apache-2.0
"""Track files that are used together: whose tracks they are, and what their labels mean."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fer_training.clips import check_labels
from fer_training.dataset import prepare_frames
from fer_training.intensity import with_estimated_intensity
from fer_training.label_mapping import relabel_tracks
from fer_training.source import classes_shown
from fer_training.tracks import Track, read_tracks

NEUTRAL = 'neutral'


@dataclass(frozen=True, kw_only=True)
class TrackFile:
    """Name a track file and its share of the sequences that a network is fitted to."""

    path: Path
    share: float | None = None  # above 0; None: none is said

    @property
    def source(self) -> str:
        """Name the data: the file's name without its suffix."""
        return self.path.stem


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedTrack:
    """Hold a track as a streaming network reads it, and where it comes from."""

    name: str  # such as 'happiness_b01_17', unlike that of any other track of its file
    source: str  # name of the data
    kind: str  # its label in the file, such as 'head-lr'
    subject: str  # unlike those of other sources: 'buhmap_tracks:b01'
    label: int  # class at its apex, index into the classes
    features: np.ndarray = field(repr=False)  # (2, T, 51) float32
    targets: np.ndarray = field(repr=False)  # (T,) class index, or IGNORED


@dataclass(frozen=True, kw_only=True)
class TrackSources:
    """Say which track files are used together, and how their tracks are prepared."""

    files: tuple[TrackFile, ...]
    mapping: tuple[tuple[str, str], ...] = ()  # class of a label, '' drops it
    classes: tuple[str, ...] = ()  # empty: those that the tracks show
    estimates_intensity: bool = False  # where an expression's intensity is not in the file
    frame_rate: float
    normalization: str

    def __post_init__(self) -> None:
        """Refuse files of the same name: their subjects could not be told apart."""
        names = [file.source for file in self.files]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f'two track files are called {twice[0]}: their subjects could not be told apart; '
                'rename one'
            )

    def load(
        self, *, progress: bool = False, elsewhere: Collection[str] = ()
    ) -> tuple[tuple[PreparedTrack, ...], tuple[str, ...]]:
        """Load the tracks of all files, file by file, and the classes in their order.

        elsewhere: labels of other tracks, which the mapping may have as well. The latest sources
        stay in memory, so that the folds of one process load them once. Raises ValueError or
        OSError naming what is wrong with a file or the mapping.
        """
        return _load(self, progress, frozenset(elsewhere))


def prepare_tracks(
    tracks: Sequence[Track],
    *,
    kinds: Sequence[str],
    source: str,
    classes: Sequence[str],
    frame_rate: float,
    normalization: str,
    progress: bool = False,
) -> tuple[PreparedTrack, ...]:
    """Prepare tracks for a streaming network; `kinds` are their labels in the file.

    Raises ValueError for an empty list, a label that is not among the classes, a track without a
    face, or a normalization that needs whole clips.
    """
    if not tracks:
        raise ValueError('there are no tracks')
    check_labels(tracks, classes)
    if normalization == 'track':
        raise ValueError(
            "normalization 'track' needs whole clips: a network that streams cannot use it"
        )
    prepared = []
    for index, (track, kind) in enumerate(
        zip(
            tqdm(tracks, desc=f'prepare {source}', unit='track', disable=not progress),
            kinds,
            strict=True,
        )
    ):
        features, targets = prepare_frames(
            track, classes=classes, frame_rate=frame_rate, normalization=normalization
        )
        prepared.append(
            PreparedTrack(
                name=f'{track.label}_{track.subject}_{index}',
                source=source,
                kind=kind,
                subject=f'{source}:{track.subject}',
                label=list(classes).index(track.label),
                features=features,
                targets=targets,
            )
        )
    return tuple(prepared)


@lru_cache(maxsize=1)
def _load(
    sources: TrackSources, progress: bool, elsewhere: frozenset[str]
) -> tuple[tuple[PreparedTrack, ...], tuple[str, ...]]:
    mapping = dict(sources.mapping)
    tracks = {file.source: read_tracks(file.path) for file in sources.files}
    labels = {track.label for part in tracks.values() for track in part}
    shown = classes_shown(labels, mapping, elsewhere=elsewhere)
    classes = sources.classes or shown
    prepared: list[PreparedTrack] = []
    for source, part in tracks.items():
        own = {label: mapping[label] for label in {track.label for track in part} & mapping.keys()}
        named = relabel_tracks(part, own, classes=classes)
        kinds = [track.label for track in part if own.get(track.label, track.label)]
        if sources.estimates_intensity:
            named = [
                track if track.label == NEUTRAL else with_estimated_intensity(track)
                for track in named
            ]
        prepared.extend(
            prepare_tracks(
                named, kinds=kinds, source=source, classes=classes,
                frame_rate=sources.frame_rate, normalization=sources.normalization,
                progress=progress,
            )
        )
    return tuple(prepared), classes
