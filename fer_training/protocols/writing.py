# SPDX-License-Identifier: Apache-2.0
"""Writing of protocol files: from tracks to the reference's clips, split by split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fer_perception.graph.edges import edge_vectors, load_edge_list
from fer_perception.graph.landmarks import INNER_LANDMARKS
from fer_training.clips import ClipPreparation, check_labels
from fer_training.protocols.augmentation import ProtocolAugmentation
from fer_training.protocols.description import SplitDescription
from fer_training.protocols.folds import Fold
from fer_training.reference_format import create_reference_array, write_reference_labels
from fer_training.tracks import Track


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Set how a track becomes a clip."""

    classes: tuple[str, ...]
    preparation: ClipPreparation
    edge_list: str | None = None  # write vectors of these edges; None: the 51 inner landmarks
    augmentation: ProtocolAugmentation | None = None  # of the training parts


@dataclass(frozen=True, kw_only=True)
class NamedTracks:
    """Hold tracks and the names of the clips that they become."""

    tracks: Sequence[Track]
    names: Sequence[str]

    def by_subject(self, subjects: Sequence[str], *, inside: bool) -> 'NamedTracks':
        """Select the tracks of some subjects, or those of all others."""
        chosen = [
            (track, name)
            for track, name in zip(self.tracks, self.names, strict=True)
            if (track.subject in subjects) is inside
        ]
        return NamedTracks(
            tracks=[track for track, _ in chosen], names=[name for _, name in chosen]
        )


def write_folds(
    out: Path, named: NamedTracks, folds: Sequence[Fold], *, config: ClipConfig, progress: bool
) -> tuple[SplitDescription, ...]:
    """Write every fold into a folder of its own, with the fold's subjects as validation part."""
    return tuple(
        write_split(
            out / fold.name,
            train=named.by_subject(fold.subjects, inside=False),
            validation=named.by_subject(fold.subjects, inside=True),
            config=config,
            relative_to=out,
            subjects=fold.subjects,
        )
        for fold in tqdm(folds, desc='write', unit='fold', disable=not progress)
    )


def write_split(
    folder: Path,
    *,
    train: NamedTracks,
    validation: NamedTracks,
    config: ClipConfig,
    relative_to: Path,
    subjects: tuple[str, ...] = (),
    progress: bool = False,
) -> SplitDescription:
    """Write {train,val}.npy and {train,val}_labels.pkl of one split.

    Only the training part is augmented. Raises ValueError for an empty part or a label that is
    not among the classes.
    """
    for part, named in (('training', train), ('validation', validation)):
        if not named.tracks:
            raise ValueError(f'the {part} part of {folder} would have no clip')
        check_labels(named.tracks, config.classes)
    return SplitDescription(
        folder=folder.relative_to(relative_to).as_posix(),
        validation_subjects=subjects,
        train_clips=_write_part(
            folder, 'train', train, config, config.augmentation, progress=progress
        ),
        validation_clips=_write_part(folder, 'val', validation, config, None, progress=progress),
    )


def _write_part(
    folder: Path,
    part: str,
    named: NamedTracks,
    config: ClipConfig,
    augmentation: ProtocolAugmentation | None,
    *,
    progress: bool,
) -> int:
    """Write the clips of a part, one track at a time, and return their number."""
    edges = None if config.edge_list is None else load_edge_list(config.edge_list)
    versions = 1 if augmentation is None else augmentation.versions
    count = versions * len(named.tracks)
    array = create_reference_array(
        folder / f'{part}.npy',
        count=count,
        frames=config.preparation.frames,
        points=len(INNER_LANDMARKS) if edges is None else len(edges),
    )
    names: list[str] = []
    labels: list[int] = []
    pairs = zip(named.tracks, named.names, strict=True)
    bar = tqdm(pairs, total=len(named.tracks), desc=part, unit='clip', disable=not progress)
    for index, (track, name) in enumerate(bar):
        points = config.preparation.landmarks(track)
        made = (
            [('', points)] if augmentation is None else augmentation.augment(points, clip=index)
        )
        for suffix, version in made:  # (T, 68, 2)
            array[len(names), ..., 0] = _features(version, edges)
            names.append(name + suffix)
            labels.append(config.classes.index(track.label))
    array.flush()
    write_reference_labels(folder / f'{part}_labels.pkl', names, labels)
    return count


def _features(landmarks: np.ndarray, edges: np.ndarray | None) -> np.ndarray:
    """Turn landmarks (T, 68, 2) into the features of a clip, (2, T, 51) or (2, T, E)."""
    if edges is None:
        return np.moveaxis(landmarks[:, INNER_LANDMARKS], -1, 0)
    return edge_vectors(landmarks, edges)
