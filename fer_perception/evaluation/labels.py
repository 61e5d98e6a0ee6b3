# SPDX-License-Identifier: Apache-2.0
"""Labels of a recording: which expression was shown when, read from a CSV file.

The file is not trusted: its size is bounded and everything in it is checked.
"""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_perception.evaluation.untrusted_text import one_line, quoted

COLUMNS = ('start_s', 'end_s', 'label')
FACE_COLUMN = 'face'
MOST_BYTES = 10_000_000
MOST_SEGMENTS = 100_000
DECIMALS = 9  # of seconds: 0.1 + 0.2 is 0.3
UNLABELLED = -1

NUMBER = re.compile(r'(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?')
FACE_NUMBER = re.compile(r'[0-9]{1,6}')


class LabelError(ValueError):
    """Say which file, which line of it and which value is wrong, and what to do."""


@dataclass(frozen=True, kw_only=True)
class LabelledSegment:
    """Hold one row: from `start_s` until just before `end_s` a face shows `label`."""

    line: int  # in the file, from 1
    start_s: float  # seconds since the first image of the recording
    end_s: float
    label: str
    face: int | None  # number of the face by its first appearance, from 0; None: every face


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Hold the segments of one recording, in the order of the file."""

    name: str  # of the file, for errors
    segments: tuple[LabelledSegment, ...]

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise LabelError naming the line if a label is none of the model's classes."""
        for segment in self.segments:
            if segment.label not in classes:
                raise LabelError(
                    f'{self.name}, line {segment.line}: unknown label {quoted(segment.label)}; '
                    f'the model knows {", ".join(classes)}'
                )

    def check_images(self, image_s: np.ndarray) -> None:
        """Raise LabelError naming the line if a segment holds none of the images.

        image_s: (N,) seconds since the first image, in any order.
        """
        times = np.sort(image_s)
        last = float(times[-1]) if len(times) else 0.0
        for segment in self.segments:
            first = np.searchsorted(times, segment.start_s)
            if first == np.searchsorted(times, segment.end_s):
                raise LabelError(
                    f'{self.name}, line {segment.line}: no image between {segment.start_s:g} and '
                    f'{segment.end_s:g} s; the images are from 0 to {last:g} s: are these the '
                    'labels of another recording?'
                )

    def find(self, time_s: np.ndarray, face: int | None) -> np.ndarray:
        """Find the segment that holds for a face at each of M times.

        time_s: (M,) seconds since the first image; face: its number, or None for the segments of
        every face only. Returns (M,) indices into `segments`, UNLABELLED where there is none.
        """
        wanted = [
            index for index, item in enumerate(self.segments) if item.face in (None, face)
        ]
        if not wanted:
            return np.full(len(time_s), UNLABELLED)
        index = np.array(sorted(wanted, key=lambda item: self.segments[item].start_s))
        starts = np.array([self.segments[item].start_s for item in index])
        ends = np.array([self.segments[item].end_s for item in index])
        before = np.searchsorted(starts, time_s, side='right') - 1  # (M,) the last that has begun
        inside = (before >= 0) & (time_s < ends[before])
        return np.where(inside, index[before], UNLABELLED)

    @property
    def faces(self) -> tuple[int, ...]:
        """The numbers of the faces that have segments of their own, ascending."""
        return tuple(sorted({item.face for item in self.segments if item.face is not None}))


def read_labels(path: Path) -> Labels:
    """Read labels from a CSV file with the header start_s,end_s,label or start_s,end_s,label,face.

    UTF-8, with or without a byte order mark; any line ends; values may be quoted and have blanks
    around them; empty lines are passed over. Rows may be in any order. Times are rounded to
    nanoseconds. Raises LabelError naming
    file, line and value for anything else: another header, a number that is none or negative or
    not finite, an end that is not after its start, segments of one face that overlap, a file of
    more than 10 MB or 100,000 rows, a file without a row.
    """
    try:
        with path.open('rb') as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LabelError(f'the labels {str(path)!r} cannot be read: {reason}') from error
    return parse_labels(content, name=path.name)


def parse_labels(content: bytes, *, name: str) -> Labels:
    """Read labels from the content of a file; see `read_labels`. `name` is for errors."""
    name = one_line(name)
    if len(content) > MOST_BYTES:
        raise LabelError(f'{name} has more than the {MOST_BYTES} bytes that labels may have')
    try:
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise LabelError(f'{name}, line {line}: this is no UTF-8 text; save it as UTF-8') from None
    reader = csv.reader(io.StringIO(text, newline=''), strict=True)
    header: list[str] | None = None
    segments: list[LabelledSegment] = []
    try:
        for row in reader:
            values = [value.strip() for value in row]
            if not values:
                continue
            if header is None:
                header = _checked_header(values, f'{name}, line {reader.line_num}')
                continue
            if len(segments) == MOST_SEGMENTS:
                raise LabelError(f'{name} has more than the {MOST_SEGMENTS} rows allowed')
            segments.append(_segment(values, header, name=name, line=reader.line_num))
    except csv.Error as error:
        raise LabelError(f'{name}, line {reader.line_num}: no CSV: {error}') from error
    if not segments:
        raise LabelError(f'{name} holds no labels: add rows below {",".join(COLUMNS)}')
    _refuse_overlaps(segments, name)
    return Labels(name=name, segments=tuple(segments))


def _checked_header(values: list[str], where: str) -> list[str]:
    allowed = ([*COLUMNS], [*COLUMNS, FACE_COLUMN])
    if values not in allowed:
        raise LabelError(
            f'{where}: the first line must be {" or ".join(",".join(item) for item in allowed)}, '
            f'not {quoted(",".join(values))}'
        )
    return values


def _segment(values: list[str], header: list[str], *, name: str, line: int) -> LabelledSegment:
    where = f'{name}, line {line}'
    if len(values) != len(header):
        raise LabelError(
            f'{where}: {len(values)} values, {len(header)} are needed ({",".join(header)}); '
            'decimals have a point, not a comma'
        )
    row = dict(zip(header, values, strict=True))
    start_s, end_s = (_seconds(row[column], column, where) for column in COLUMNS[:2])
    if end_s <= start_s:
        raise LabelError(f'{where}: end_s must be after start_s {start_s:g}, not {end_s:g}')
    if not row['label']:
        raise LabelError(f'{where}: the label is empty')
    face = row.get(FACE_COLUMN, '')
    if face and not FACE_NUMBER.fullmatch(face):
        raise LabelError(
            f'{where}: face must be a whole number from 0, by first appearance, or empty for '
            f'every face, not {quoted(face)}'
        )
    return LabelledSegment(
        line=line,
        start_s=start_s,
        end_s=end_s,
        label=row['label'],
        face=int(face) if face else None,
    )


def _seconds(text: str, column: str, where: str) -> float:
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise LabelError(
            f'{where}: {column} must be seconds since the first image, 0 or more, such as 1.25, '
            f'not {quoted(text)}'
        )
    return round(value, DECIMALS)


def _refuse_overlaps(segments: Sequence[LabelledSegment], name: str) -> None:
    """Raise LabelError if two segments hold for one face at one time."""
    latest: dict[int | None, LabelledSegment] = {}  # of each face, the one that ends last
    last: LabelledSegment | None = None  # of all of them
    for segment in sorted(segments, key=lambda item: item.start_s):
        own = (latest.get(None), latest.get(segment.face))
        for other in (last,) if segment.face is None else own:
            if other is not None and segment.start_s < other.end_s:
                first, second = sorted((other, segment), key=lambda item: item.line)
                face = segment.face if other.face is None else other.face
                raise LabelError(
                    f'{name}, line {second.line}: {second.start_s:g} to {second.end_s:g} s '
                    f'overlaps with line {first.line}, {first.start_s:g} to {first.end_s:g} s, '
                    f'for {"every face" if face is None else f"face {face}"}'
                )
        latest[segment.face] = segment  # it overlaps with none of its own, so it ends later
        if last is None or segment.end_s > last.end_s:
            last = segment
