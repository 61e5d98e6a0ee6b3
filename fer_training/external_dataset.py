# SPDX-License-Identifier: Apache-2.0
"""Data sets as the learner takes them: a folder in the reference's format, or one's own class."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fer_perception.graph.edges import EDGE_LISTS, load_edge_list
from fer_perception.graph.landmarks import INNER_LANDMARKS
from fer_training.clips import Clips
from fer_training.protocols.description import PROTOCOL_FILE, read_protocol
from fer_training.protocols.expressions import expression_name
from fer_training.reference_format import read_reference_clips
from fer_training.targets import Category, SkeletonSequence


@dataclass(frozen=True, kw_only=True)
class DataSetFacts:
    """Say what the reference knows of a data set."""

    name: str
    classes: tuple[str, ...]  # what the labels 0, 1, ... mean
    num_point: int  # edges of its face graph
    frames: int  # of a clip


_SIX = ('Angry', 'Fear', 'Happy', 'Sad', 'Surprise', 'Disgust')
DATA_SETS: Mapping[str, DataSetFacts] = MappingProxyType({
    facts.name: facts
    for facts in (
        DataSetFacts(name='AFEW', classes=(*_SIX, 'Neutral'), num_point=312, frames=150),
        DataSetFacts(name='CASIA', classes=_SIX, num_point=309, frames=4),
        DataSetFacts(name='CK+', classes=(*_SIX, 'Neutral'), num_point=303, frames=4),
    )
})


def find_data_set(name: object) -> DataSetFacts:
    """Find the facts of a data set by its name, in capitals or not.

    Raises ValueError for an unknown one.
    """
    if isinstance(name, str) and name.upper() in DATA_SETS:
        return DATA_SETS[name.upper()]
    raise ValueError(f'unknown data set {name!r}; use {", ".join(DATA_SETS)}')


def known_edges(num_point: int) -> np.ndarray:
    """Return the edges (E, 2) of a face graph of this size, (0, 2) if they are not known."""
    for name in EDGE_LISTS:
        if len(edges := load_edge_list(name)) == num_point:
            return edges
    return np.empty((0, 2), np.int64)


def check_points(points: int, *, num_point: int) -> None:
    """Raise ValueError unless data are of `num_point` edges, or of landmarks that give them."""
    if points == num_point:
        return
    if points != len(INNER_LANDMARKS):
        raise ValueError(
            f'the data have {points} points, but num_point is {num_point}: they must agree, or '
            f'the data be of the {len(INNER_LANDMARKS)} inner landmarks'
        )
    if not len(known_edges(num_point)):
        known = ' or '.join(str(len(load_edge_list(name))) for name in EDGE_LISTS)
        raise ValueError(
            f'the data are of {points} landmarks, but no list of {num_point} edges is known to '
            f'make edge vectors of them: use num_point={known}, or data of edge vectors'
        )


class DatasetIterator(ABC):
    """A data set of one's own: a number of samples, each a sequence with its label.

    The sequence is a SkeletonSequence or an array (2, T, V, 1) or (2, T, V), the same T and V in
    all samples. The label is a Category or a whole number. More items of the sample, such as its
    index, are not looked at.
    """

    @abstractmethod
    def __getitem__(self, idx: int) -> tuple[Any, ...]:
        """Return a sample: its sequence and its label."""

    @abstractmethod
    def __len__(self) -> int:
        """Count the samples."""


class ExternalDataset:
    """A folder of files in the reference's format: clips in .npy, labels in .pkl."""

    def __init__(self, path: str | os.PathLike[str], dataset_type: str) -> None:
        """Name the folder and the data set, 'AFEW', 'CASIA' or 'CK+', in capitals or not.

        Raises ValueError for a path that is no text, or an unknown data set.
        """
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f'path must be the path of a folder, not {path!r}')
        self.path = os.fspath(path)
        self.dataset_type = find_data_set(dataset_type).name


def read_external_clips(
    dataset: ExternalDataset, *, data_file: str, labels_file: str, classes: Sequence[str]
) -> Clips:
    """Read clips of a folder; the data stay on disk, memory-mapped.

    Where a protocol.json of `fer_train prepare` lies beside the files, or one folder above, its
    names stand in for those of `classes` that it contradicts. Raises ValueError naming the file
    and what is wrong with it.
    """
    folder = Path(dataset.path)
    if not folder.is_dir():
        raise ValueError(f'the folder {folder} of the data set does not exist')
    clips_classes = _protocol_classes(folder, tuple(classes))
    return read_reference_clips(folder / data_file, folder / labels_file, classes=clips_classes)


def collect_clips(dataset: DatasetIterator, *, classes: Sequence[str]) -> Clips:
    """Copy the samples of one's own data set into memory as clips.

    Raises ValueError naming the sample and what is wrong with it.
    """
    if not len(dataset):
        raise ValueError('the data set has no samples')
    return _stack((dataset[index] for index in range(len(dataset))), classes)


def collect_batches(loader: Iterable[Any], *, classes: Sequence[str]) -> Clips:
    """Copy the batches of a torch DataLoader into memory as clips.

    loader: gives (sequences (n, 2, T, V, 1) or (n, 2, T, V), labels (n,), ...). Raises ValueError
    naming the sample and what is wrong with it.
    """
    return _stack(_samples_of_batches(loader), classes)


def _samples_of_batches(loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    for batch in loader:
        yield from zip(batch[0], batch[1], strict=True)


def _stack(samples: Iterable[tuple[Any, ...]], classes: Sequence[str]) -> Clips:
    features: list[np.ndarray] = []
    labels: list[int] = []
    for index, sample in enumerate(samples):
        try:
            data, label = sample[0], sample[1]
            sequence = data if isinstance(data, SkeletonSequence) else SkeletonSequence(data)
            if len(sequence) != 1:
                raise ValueError(f'it holds {len(sequence)} sequences')
            if features and sequence.features.shape[1:] != features[0].shape:
                raise ValueError(
                    f'its shape is {sequence.features.shape[1:]}, that of the first one '
                    f'{features[0].shape}'
                )
            features.append(np.asarray(sequence.features[0], np.float32))  # (2, T, V)
            labels.append(_label(label))
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f'sample {index} of the data set is wrong: {error}') from error
    if not features:
        raise ValueError('the data set has no samples')
    return Clips(
        features=np.stack(features),
        labels=np.array(labels, np.int64),
        classes=tuple(classes),
        subjects=('',) * len(labels),
        names=tuple(str(index) for index in range(len(labels))),
    )


def _label(label: object) -> int:
    if isinstance(label, Category):
        return label.prediction
    number = np.asarray(label)
    if number.size != 1 or not np.issubdtype(number.dtype, np.integer):
        raise ValueError(f'a label must be a Category or a whole number, not {label!r}')
    return int(number.reshape(()))


def _protocol_classes(folder: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Take the names of a protocol, where they mean something else than those given."""
    for place in (folder, folder.parent):
        if (place / PROTOCOL_FILE).is_file():
            described = read_protocol(place).classes
            if len(described) != len(classes):
                raise ValueError(
                    f'{place / PROTOCOL_FILE} has the {len(described)} classes '
                    f'{", ".join(described)}, the learner has {len(classes)}: pass num_class='
                    f'{len(described)}'
                )
            same = [expression_name(name) for name in classes] == list(described)
            return classes if same else described
    return classes
