# SPDX-License-Identifier: Apache-2.0
"""Sets of face images for training: crops, their landmarks and labels, sequence by sequence.

A folder with four files. F frames, S pixels a side, C classes:

- images.npy (F, S, S, 3) uint8, RGB
- landmarks.npy (F, 68, 2) float32: 0 to 1 from one side of the crop to the other
- labels.npy (F,) int16: the index into `classes`, -1 where unknown
- face_set.json: everything else that a FaceSet has

The frames of a sequence lie one after another, and so do the sequences.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from fer_perception.evaluation.untrusted_text import one_line, quoted
from fer_perception.faces.crop import FaceCrop
from fer_perception.graph.landmarks import LANDMARK_COUNT
from fer_perception.models.description_fields import (
    checked_fields,
    read_dataclass,
    read_json,
    tuple_of,
    typed,
)
from fer_training.array_archive import HEADER_READERS

FORMAT_VERSION = 1
IMAGES_FILE = 'images.npy'
LANDMARKS_FILE = 'landmarks.npy'
LABELS_FILE = 'labels.npy'
FACE_SET_FILE = 'face_set.json'
PARTS = ('', 'train', 'val', 'test')
UNKNOWN = -1  # the label of a frame of which nobody said what it shows
MAX_CLASSES = 1000
MAX_DESCRIPTION_BYTES = 256 << 20
FURTHEST_LANDMARK = 100.0  # sides of the crop; what lies beyond was never cut by FaceCrop
CHUNK_FRAMES = 65536  # checked at a time
SAID_CHARACTERS = 300  # of what is wrong with a file that nobody has checked


class FaceSetError(ValueError):
    """Say which face set cannot be read or written, and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class FaceSequence:
    """Name the frames of one recording of one face, or one still image of it."""

    name: str  # what the data set calls it; no two sequences have the same
    subject: str  # who it is; '': unknown
    part: str  # of the data set: one of PARTS; '': it has none
    label: str  # the class of all frames; '': they have labels of their own, or none
    start: int  # its frames are start to stop - 1
    stop: int
    frame_rate: float  # frames per second; 0: stills, which do not follow each other in time

    @property
    def frames(self) -> int:
        """Count its frames."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceSet:
    """Hold face images; images and landmarks stay on disk, memory-mapped and not writable."""

    images: np.ndarray  # (F, S, S, 3) uint8, RGB
    landmarks: np.ndarray  # (F, 68, 2) float32, 0 to 1 within the crop; some may lie beyond
    labels: np.ndarray  # (F,) int16, index into `classes`, -1: unknown
    sequences: tuple[FaceSequence, ...]
    classes: tuple[str, ...]
    crop: FaceCrop
    data_set: str  # its name
    published: str  # what the whole data set is said to have, to compare with
    left_out: tuple[str, ...]  # names of recordings that show no face
    frames_left_out: int  # frames without a face, those of `left_out` included

    @property
    def summary(self) -> str:
        """Say in one line what it has."""
        people = len({sequence.subject for sequence in self.sequences} - {''})
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.classes))
        shares = [f'{name} {count}' for name, count in zip(self.classes, counts, strict=True)]
        if unknown := int((self.labels < 0).sum()):
            shares.append(f'unknown {unknown}')
        return (
            f'{self.data_set}: {_plural(len(self.labels), "face image")} in '
            f'{_plural(len(self.sequences), "sequence")}'
            + (f' of {_plural(people, "subject")}' if people else '')
            + f' ({", ".join(shares)})'
        )


def read_face_set(folder: Path) -> FaceSet:
    """Read a face set, checking that its files belong together and hold what they claim.

    Raises FaceSetError naming the file and what is wrong with it.
    """
    path = folder / FACE_SET_FILE
    if not path.is_file():
        raise FaceSetError(f'{folder} is no face set: it has no {FACE_SET_FILE}')
    try:
        described = _read_description(path)
    except (ValueError, OSError, RecursionError) as error:
        raise FaceSetError(f'{path} is no description of a face set: {_said(error)}') from error
    size, frames = described.crop.size, described.frames
    images = map_array(folder / IMAGES_FILE, np.dtype(np.uint8), (frames, size, size, 3))
    landmarks = map_array(
        folder / LANDMARKS_FILE, np.dtype('<f4'), (frames, LANDMARK_COUNT, 2)
    )
    labels = np.array(map_array(folder / LABELS_FILE, np.dtype('<i2'), (frames,)))
    _check_landmarks(landmarks, folder / LANDMARKS_FILE)
    _check_labels(labels, described, folder / LABELS_FILE)
    return FaceSet(
        images=images,
        landmarks=landmarks,
        labels=labels,
        sequences=described.sequences,
        classes=described.classes,
        crop=described.crop,
        data_set=described.data_set,
        published=described.published,
        left_out=described.left_out,
        frames_left_out=described.frames_left_out,
    )


@dataclass(frozen=True, kw_only=True)
class FaceSetDescription:
    """Hold what face_set.json says."""

    format_version: int
    data_set: str
    published: str
    classes: tuple[str, ...]
    crop: FaceCrop
    frames: int
    sequences: tuple[FaceSequence, ...]
    left_out: tuple[str, ...]
    frames_left_out: int

    def __post_init__(self) -> None:
        """Check that everything fits together; raises ValueError naming what does not."""
        if self.format_version != FORMAT_VERSION:
            raise ValueError(
                f'it is of format {self.format_version}, this program reads {FORMAT_VERSION}'
            )
        for text in (self.data_set, self.published, *self.classes, *self.left_out):
            _check_text(text)
        if len(set(self.classes)) < len(self.classes) or '' in self.classes:
            raise ValueError(f'the classes must have names, all different: {list(self.classes)}')
        if len(self.classes) > MAX_CLASSES:
            raise ValueError(f'it has {len(self.classes)} classes, at most {MAX_CLASSES}')
        if not self.sequences:
            raise ValueError('it has no sequence')
        at, names = 0, set()
        for sequence in self.sequences:
            _check_sequence(sequence, self.classes)
            if sequence.start != at:
                raise ValueError(
                    f'sequence {quoted(sequence.name)} must start at frame {at}, not '
                    f'{sequence.start}'
                )
            at = sequence.stop
            names.add(sequence.name)
        if at != self.frames:
            raise ValueError(f'the sequences end at frame {at}, but there are {self.frames}')
        if len(names) < len(self.sequences):
            raise ValueError('two sequences have the same name')
        if self.frames_left_out < 0:
            raise ValueError(f'frames_left_out must be 0 or more, not {self.frames_left_out}')


def frame_labels(names: Iterable[str], classes: Sequence[str]) -> np.ndarray:
    """Turn the labels of frames into indices (n,) int16; '' is unknown.

    Raises ValueError for a label that is not among the classes.
    """
    indices = {name: index for index, name in enumerate(classes)} | {'': UNKNOWN}
    try:
        return np.array([indices[name] for name in names], np.int16)
    except KeyError as error:
        raise ValueError(
            f'the label {error.args[0]!r} is not among the classes {", ".join(classes)}'
        ) from error


def _read_description(path: Path) -> FaceSetDescription:
    if (size := path.stat().st_size) > MAX_DESCRIPTION_BYTES:
        raise ValueError(f'it has {size} bytes, at most {MAX_DESCRIPTION_BYTES} are read')
    content = read_json(FACE_SET_FILE, path.read_text('utf-8'))
    described = checked_fields('it', FaceSetDescription, content)
    sequences = typed('sequences', described['sequences'], list)
    return FaceSetDescription(
        **described
        | {
            'classes': tuple_of('classes', described['classes'], str),
            'left_out': tuple_of('left_out', described['left_out'], str),
            'crop': read_dataclass('crop', FaceCrop, described['crop']),
            'sequences': tuple(
                read_dataclass(f'sequence {number}', FaceSequence, sequence)
                for number, sequence in enumerate(sequences)
            ),
        }
    )


def _check_sequence(sequence: FaceSequence, classes: tuple[str, ...]) -> None:
    name = quoted(sequence.name)
    for text in (sequence.name, sequence.subject):
        _check_text(text)
    if not sequence.name:
        raise ValueError(f'the sequence at frame {sequence.start} has no name')
    if sequence.part not in PARTS:
        raise ValueError(
            f'the part of sequence {name} is {quoted(sequence.part)}, not one of {PARTS}'
        )
    if sequence.label and sequence.label not in classes:
        raise ValueError(
            f'the label of sequence {name}, {quoted(sequence.label)}, is not among the classes '
            f'{", ".join(classes)}'
        )
    if not sequence.start < sequence.stop:
        raise ValueError(f'sequence {name} has no frame: {sequence.start} to {sequence.stop}')
    if not (math.isfinite(sequence.frame_rate) and sequence.frame_rate >= 0):
        raise ValueError(
            f'the frame rate of sequence {name} must be 0 or more, not {sequence.frame_rate}'
        )


def _check_text(text: str) -> None:
    if not text.isprintable():
        raise ValueError(f'{quoted(text)} holds characters that cannot be shown')


def map_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Map an .npy file that must have this type and shape, and be as large as these need.

    Raises FaceSetError naming the file and what is wrong with it.
    """
    try:
        with path.open('rb') as file:
            version = npy.read_magic(file)
            if version not in HEADER_READERS:
                raise ValueError(f'it is of version {version}, which is not read')
            found, fortran_order, found_dtype = HEADER_READERS[version](file)
            offset = file.tell()
        if found_dtype != dtype or found != shape or fortran_order:
            raise ValueError(
                f'it must hold {shape} of {dtype}, not {found} of {found_dtype}'
                + (' in Fortran order' if fortran_order else '')
            )
        size, needed = path.stat().st_size, offset + math.prod(shape) * dtype.itemsize
        if size != needed:
            raise ValueError(f'it must have {needed} bytes, not {size}: it is cut off or damaged')
        return np.memmap(path, dtype=dtype, mode='r', offset=offset, shape=shape)
    except Exception as error:  # damaged headers raise errors of almost every kind
        raise FaceSetError(f'{path} is no array of a face set: {_said(error)}') from error


def _check_landmarks(landmarks: np.ndarray, path: Path) -> None:
    for start in range(0, len(landmarks), CHUNK_FRAMES):
        chunk = landmarks[start : start + CHUNK_FRAMES]
        if not (np.abs(chunk) <= FURTHEST_LANDMARK).all():  # false for NaN too
            raise FaceSetError(
                f'{path} is no array of a face set: landmarks must be finite and about 0 to 1'
            )


def _check_labels(labels: np.ndarray, described: FaceSetDescription, path: Path) -> None:
    if labels.min() < UNKNOWN or labels.max() >= len(described.classes):
        raise FaceSetError(
            f'{path} has labels from {labels.min()} to {labels.max()}, but the classes are 0 to '
            f'{len(described.classes) - 1}'
        )
    index = {name: number for number, name in enumerate(described.classes)}
    for sequence in described.sequences:
        of_sequence = labels[sequence.start : sequence.stop]
        if sequence.label and (of_sequence != index[sequence.label]).any():
            raise FaceSetError(
                f'{path} has other labels for sequence {quoted(sequence.name)} than '
                f'{sequence.label!r}, which {FACE_SET_FILE} says'
            )


def _said(error: BaseException) -> str:
    return one_line(str(error))[:SAID_CHARACTERS] or type(error).__name__


def _plural(count: int, what: str) -> str:
    return f'{count} {what}' + ('' if count == 1 else 's')
