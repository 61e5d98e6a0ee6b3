# SPDX-License-Identifier: Apache-2.0
"""Writing of face sets, sequence by sequence: what is interrupted goes on, nothing is half."""

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from fer_perception.faces.crop import FaceCrop
from fer_perception.graph.landmarks import LANDMARK_COUNT
from fer_training.face_sets import (
    FACE_SET_FILE,
    FORMAT_VERSION,
    IMAGES_FILE,
    LABELS_FILE,
    LANDMARKS_FILE,
    FaceSequence,
    FaceSetDescription,
    FaceSetError,
    map_array,
)

CHUNK_BYTES = 64 << 20  # of images, copied at a time


@dataclass(frozen=True, kw_only=True)
class CutSequence:
    """Hold what one recording became, before it is known where in a set it will lie."""

    name: str
    subject: str
    part: str
    label: str
    frame_rate: float
    frames: int  # with a face; 0: the recording is left out
    frames_left_out: int  # without one


class FaceFiles:
    """The three arrays of a folder of faces, which grow by frames and are read as .npy files."""

    def __init__(self, folder: Path, *, size: int, frames: int = 0) -> None:
        """Open the arrays, `frames` long: what lies beyond is cut off. size: of the crops."""
        folder.mkdir(parents=True, exist_ok=True)
        self._arrays = [
            GrowingArray(folder / name, row=row, dtype=dtype, count=frames)
            for name, row, dtype in (
                (IMAGES_FILE, (size, size, 3), np.dtype(np.uint8)),
                (LANDMARKS_FILE, (LANDMARK_COUNT, 2), np.dtype('<f4')),
                (LABELS_FILE, (), np.dtype('<i2')),
            )
        ]

    def append(self, images: np.ndarray, landmarks: np.ndarray, labels: np.ndarray) -> None:
        """Append frames: (n, S, S, 3) uint8, (n, 68, 2) float32 and (n,) int16."""
        for array, rows in zip(self._arrays, (images, landmarks, labels), strict=True):
            array.append(rows)

    def flush(self) -> None:
        """Bring all that was appended to the disk, so that an interruption does not lose it."""
        for array in self._arrays:
            array.flush()

    def close(self) -> None:
        """Write the headers and close the files; they are whole .npy files then."""
        for array in self._arrays:
            array.close()


class FaceSetWriter:
    """Writes a face set sequence by sequence; an interrupted one is gone on with.

    Until `finish`, everything lies beside the folder, in one of its name with .part at the end;
    its journal says which sequences are whole. A set is never there by half.
    """

    def __init__(self, folder: Path, *, crop: FaceCrop, identity: str) -> None:
        """Go on with what was begun, or begin anew if that was of another identity.

        identity: a digest of all that the set is made from and how. Raises FaceSetError if the
        folder is there already.
        """
        if folder.exists():
            raise FaceSetError(f'{folder} is there already: remove it or choose another folder')
        self._folder = folder
        self._crop = crop
        self.part_folder = folder.with_name(f'{folder.name}.part')
        self._journal = self.part_folder / 'journal.jsonl'
        self._done = self._read_journal(identity)
        self.part_folder.mkdir(parents=True, exist_ok=True)
        lines = [{'identity': identity}, *map(asdict, self._done)]
        scratch = self._journal.with_suffix('.new')  # without a last line that was interrupted
        scratch.write_text(''.join(f'{json.dumps(line)}\n' for line in lines), 'utf-8')
        scratch.replace(self._journal)
        self._files = FaceFiles(
            self.part_folder,
            size=crop.size,
            frames=sum(sequence.frames for sequence in self._done),
        )

    @property
    def done(self) -> int:
        """Count the sequences that are written, those without any face included."""
        return len(self._done)

    def append(self, sequence: CutSequence, faces: Path) -> None:
        """Append a sequence whose frames are the files of the folder `faces`, in chunks."""
        if sequence.frames:
            size = self._crop.size
            images = map_array(
                faces / IMAGES_FILE, np.dtype(np.uint8), (sequence.frames, size, size, 3)
            )
            landmarks = map_array(
                faces / LANDMARKS_FILE, np.dtype('<f4'), (sequence.frames, LANDMARK_COUNT, 2)
            )
            labels = map_array(faces / LABELS_FILE, np.dtype('<i2'), (sequence.frames,))
            step = max(1, CHUNK_BYTES // (size * size * 3))
            for start in range(0, sequence.frames, step):
                rows = slice(start, start + step)
                self._files.append(images[rows], landmarks[rows], labels[rows])
            self._files.flush()
        with self._journal.open('a', encoding='utf-8') as file:
            file.write(f'{json.dumps(asdict(sequence))}\n')
            file.flush()
            os.fsync(file.fileno())
        self._done.append(sequence)

    def finish(self, *, data_set: str, published: str, classes: Sequence[str]) -> None:
        """Write the description and give the folder its name.

        Raises FaceSetError if no sequence has a face, or if the set would not be readable.
        """
        if not any(sequence.frames for sequence in self._done):
            raise FaceSetError(f'{data_set}: no recording shows a face')
        sequences, at = [], 0
        for cut in self._done:
            if cut.frames:
                sequences.append(
                    FaceSequence(
                        name=cut.name,
                        subject=cut.subject,
                        part=cut.part,
                        label=cut.label,
                        start=at,
                        stop=at + cut.frames,
                        frame_rate=cut.frame_rate,
                    )
                )
                at += cut.frames
        try:
            description = FaceSetDescription(
                format_version=FORMAT_VERSION,
                data_set=data_set,
                published=published,
                classes=tuple(classes),
                crop=self._crop,
                frames=at,
                sequences=tuple(sequences),
                left_out=tuple(cut.name for cut in self._done if not cut.frames),
                frames_left_out=sum(cut.frames_left_out for cut in self._done),
            )
        except ValueError as error:
            raise FaceSetError(f'{self._folder} cannot be written: {error}') from error
        self._files.close()
        text = json.dumps(asdict(description), indent=1, ensure_ascii=False)
        (self.part_folder / FACE_SET_FILE).write_text(f'{text}\n', 'utf-8')
        self._journal.unlink()
        self.part_folder.rename(self._folder)

    def close(self) -> None:
        """Close the files of a set that is not finished; what is whole in it is kept."""
        self._files.close()

    def _read_journal(self, identity: str) -> list[CutSequence]:
        """Read which sequences are whole; what was begun as another set is removed."""
        try:
            first, *lines = self._journal.read_text('utf-8').split('\n')
            if json.loads(first) == {'identity': identity}:
                # The last line is empty, or was interrupted.
                return [CutSequence(**json.loads(line)) for line in lines[:-1]]
        except (OSError, ValueError, TypeError):
            pass  # nothing was begun, or not even the first line was written
        shutil.rmtree(self.part_folder, ignore_errors=True)
        return []


class GrowingArray:
    """An .npy file that grows by rows; NumPy keeps room in the header for the number of them."""

    def __init__(
        self, path: Path, *, row: tuple[int, ...], dtype: np.dtype, count: int = 0
    ) -> None:
        """Open or make the file and cut it off after `count` rows of the shape `row`."""
        self._row, self._dtype, self._count = row, dtype, count
        self._file = path.open('r+b' if path.exists() else 'w+b')
        self._write_header()
        self._header_bytes = self._file.tell()
        rows_bytes = count * math.prod(row) * dtype.itemsize
        self._file.seek(0, os.SEEK_END)
        if self._file.tell() < self._header_bytes + rows_bytes:
            self._file.close()
            raise FaceSetError(f'{path} lacks what its journal names: remove its folder')
        self._file.truncate(self._header_bytes + rows_bytes)
        self._file.seek(0, os.SEEK_END)

    def append(self, rows: np.ndarray) -> None:
        """Append rows: (n, *row), converted to the file's type."""
        if rows.shape[1:] != self._row:
            raise ValueError(f'rows must be (n, *{self._row}), not {rows.shape}')
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._count += len(rows)

    def flush(self) -> None:
        """Bring all rows to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the header and close the file."""
        if self._file.closed:
            return
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._header_bytes:
            raise ValueError(f'the header of {self._file.name} does not fit {self._count} rows')
        self._file.close()

    def _write_header(self) -> None:
        header = {
            'descr': npy.dtype_to_descr(self._dtype),
            'fortran_order': False,
            'shape': (self._count, *self._row),
        }
        npy.write_array_header_1_0(self._file, header)
