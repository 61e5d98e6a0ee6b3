# SPDX-License-Identifier: Apache-2.0
"""The reference's data files: clips in an .npy file, their names and labels in a pickle.

`.npy`: (N, 2, T, V, 1), V = 51 inner landmarks or E edge vectors. `_labels.pkl`: a tuple of two
lists, the names and the labels (whole numbers) of the N clips.
"""

import pickle
import pickletools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fer_perception.graph.edges import check_edge_list
from fer_perception.graph.landmarks import INNER_LANDMARKS
from fer_training.clips import Clips

MAX_LABEL_FILE_BYTES = 64 << 20
CHUNK_CLIPS = 256  # copied at a time


class ReferenceFormatError(ValueError):
    """Say which file of the reference's format cannot be read, and what in it is wrong."""


# What a pickle of lists, tuples, strings and numbers is made of; nothing here looks a name up.
PLAIN_OPCODES = frozenset(
    (
        'PROTO', 'FRAME', 'STOP', 'MARK', 'POP', 'POP_MARK', 'DUP', 'GET', 'BINGET',
        'LONG_BINGET', 'PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE', 'EMPTY_LIST', 'LIST',
        'APPEND', 'APPENDS', 'EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'INT',
        'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT',
        'NEWTRUE', 'NEWFALSE', 'NONE', 'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE',
        'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8',
    )
)
MEMO_OPCODES = frozenset(('PUT', 'BINPUT', 'LONG_BINPUT'))


def _check_plain(pickled: bytes) -> None:
    """Raise ValueError if a pickle holds anything but lists, tuples, strings and numbers.

    It is only read, not run: what it asks for is known before anything is made. A memo index
    beyond the size of the file is refused too, for the unpickler would make room up to it.
    """
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name not in PLAIN_OPCODES:
            raise ValueError(
                f'it asks for {opcode.name}{_named(argument)}, but only lists, tuples, strings '
                'and numbers are read; write the labels as plain numbers'
            )
        if opcode.name in MEMO_OPCODES and not 0 <= int(argument or 0) <= len(pickled):
            raise ValueError(f'its memo index {argument} is beyond its size')


def _named(argument: object) -> str:
    return f' {argument}' if isinstance(argument, str) else ''


def read_reference_clips(data: Path, labels: Path, *, classes: Sequence[str]) -> Clips:
    """Read clips in the reference's format; the data stay on disk, memory-mapped.

    data: .npy, labels: .pkl, classes: what the labels 0, 1, ... mean. The subjects are unknown.
    Raises ReferenceFormatError naming the file and what is wrong with it.
    """
    features = _map_features(data)
    names, numbers = read_reference_labels(labels)
    if len(names) != len(features):
        raise ReferenceFormatError(
            f'{labels} has the labels of {len(names)} clips, but {data} has {len(features)} clips'
        )
    if min(numbers) < 0 or max(numbers) >= len(classes):
        raise ReferenceFormatError(
            f'{labels} has labels from {min(numbers)} to {max(numbers)}, but the classes '
            f'{", ".join(classes)} are 0 to {len(classes) - 1}'
        )
    return Clips(
        features=features,
        labels=np.array(numbers, np.int64),
        classes=tuple(classes),
        subjects=('',) * len(names),
        names=tuple(names),
    )


def read_reference_labels(path: Path) -> tuple[list[str], list[int]]:
    """Read a label file: the names and labels of its clips.

    Admits lists, tuples, strings and numbers only, so that no file can run anything. Raises
    ReferenceFormatError naming the file and what is wrong with it.
    """
    if not path.is_file():
        raise ReferenceFormatError(f'label file {path} does not exist')
    if (size := path.stat().st_size) > MAX_LABEL_FILE_BYTES:
        raise ReferenceFormatError(
            f'{path} is no label file: it has {size} bytes, at most {MAX_LABEL_FILE_BYTES} are '
            'read'
        )
    try:
        pickled = path.read_bytes()
        _check_plain(pickled)
        content = pickle.loads(pickled, encoding='latin1')  # Python 2 wrote bytes
    except Exception as error:  # damaged pickles raise errors of almost every kind
        raise ReferenceFormatError(
            f'{path} is no label file: {str(error) or type(error).__name__}'
        ) from error
    try:
        return _checked_labels(content)
    except ValueError as error:
        raise ReferenceFormatError(f'{path} is no label file: {error}') from error


def write_reference_clips(data: Path, labels: Path, clips: Clips) -> None:
    """Write clips in the reference's format, a chunk at a time."""
    count, _, frames, points = clips.features.shape
    array = create_reference_array(data, count=count, frames=frames, points=points)
    for chunk in _chunks(count):
        array[chunk, ..., 0] = clips.features[chunk]
    array.flush()
    write_reference_labels(labels, clips.names, clips.labels.tolist())


def create_reference_array(path: Path, *, count: int, frames: int, points: int) -> np.memmap:
    """Create a data file to be filled: a memory map (count, 2, frames, points, 1) float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(
        path, mode='w+', dtype=np.float32, shape=(count, 2, frames, points, 1)
    )


def write_reference_labels(path: Path, names: Sequence[str], labels: Sequence[int]) -> None:
    """Write a label file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('wb') as file:
        pickle.dump((list(names), [int(label) for label in labels]), file, protocol=4)


def edge_clips(clips: Clips, edges: np.ndarray) -> Clips:
    """Turn clips of inner landmarks into clips of edge vectors, source minus target.

    edges: (E, 2), landmarks in dlib's numbering, 17 to 67. Returns clips of (N, 2, T, E) in
    memory. Raises ValueError for clips that are edge vectors already.
    """
    check_edge_list(edges)
    if not clips.holds_landmarks:
        raise ValueError(
            f'the clips have {clips.features.shape[-1]} points, not the 51 inner landmarks that '
            'edges join: are they edge vectors already?'
        )
    source, target = (edges - INNER_LANDMARKS[0]).T  # (E,) each
    vectors = np.empty((*clips.features.shape[:-1], len(edges)), np.float32)  # (N, 2, T, E)
    for chunk in _chunks(len(clips)):
        points = clips.features[chunk]  # (n, 2, T, 51)
        vectors[chunk] = points[..., source] - points[..., target]
    return replace(clips, features=vectors)


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK_CLIPS) for start in range(0, count, CHUNK_CLIPS))


def _map_features(path: Path) -> np.ndarray:
    """Map a data file: a view (N, 2, T, V)."""
    if not path.is_file():
        raise ReferenceFormatError(f'data file {path} does not exist')
    try:
        array = np.load(path, mmap_mode='r', allow_pickle=False)
    except Exception as error:  # damaged headers raise errors of almost every kind
        raise ReferenceFormatError(f'{path} is no data file: {error}') from error
    if not isinstance(array, np.ndarray):
        array.close()  # an .npz file
        raise ReferenceFormatError(f'{path} is no data file: it is an archive, not one array')
    shape = array.shape
    if len(shape) != 5 or shape[1] != 2 or shape[4] != 1 or not all(shape):
        raise ReferenceFormatError(
            f'{path} is no data file: its shape must be (N, 2, T, V, 1), not {shape}'
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise ReferenceFormatError(
            f'{path} is no data file: it must hold floating-point numbers, not {array.dtype}'
        )
    return array[..., 0]


def _checked_labels(content: Any) -> tuple[list[str], list[int]]:
    if not isinstance(content, (list, tuple)) or len(content) != 2:
        raise ValueError('it must hold two lists, names and labels')
    names, labels = content
    for part, kind, meaning in ((names, str, 'names: text'), (labels, int, 'labels: integers')):
        if not isinstance(part, (list, tuple)):
            raise ValueError(f'it must hold a list of {meaning}, not {type(part).__name__}')
        if strange := [item for item in part if type(item) is not kind]:
            raise ValueError(f'it must hold a list of {meaning}, not {type(strange[0]).__name__}')
    if not names or len(names) != len(labels):
        raise ValueError(f'it has {len(names)} names and {len(labels)} labels')
    return list(names), list(labels)
