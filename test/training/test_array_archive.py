# SPDX-License-Identifier: Apache-2.0
"""Every reader of .npz and .npy files takes what was written, or says which file is wrong."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faces_made import face_landmarks
from hypothesis import given, settings
from hypothesis import strategies as st
from predictions_made import made_frames

from fer_training.face_basis import FaceBasisError, load_face_basis
from fer_training.frame_predictions import read_frame_predictions, write_frame_predictions
from fer_training.reference_format import (
    ReferenceFormatError,
    create_reference_array,
    read_reference_clips,
    write_reference_labels,
)
from fer_training.results import (
    Predictions,
    ResultFileError,
    read_predictions,
    write_predictions,
)


def write_small_predictions(path: Path) -> None:
    thirds = np.full((4, 2, 3), 1 / 3, np.float32)
    write_predictions(
        path,
        Predictions(
            labels=np.array([0, 1]), names=('a', 'b'), monte_carlo=thirds, single_pass=thirds[0]
        ),
    )


def write_small_basis(path: Path) -> None:
    face = np.pad(face_landmarks(frames=1, seed=0)[0], ((0, 0), (0, 1)))  # (68, 3)
    with path.open('wb') as file:
        np.savez(
            file, neutral=face, identity=np.zeros((2, 68, 3)), expression=np.zeros((1, 68, 3)),
            expression_names=np.array(['smile']),
        )


WRITERS: dict[str, Callable[[Path], object]] = {
    'predictions': write_small_predictions,
    'frames': lambda path: write_frame_predictions(path, made_frames('ann', seed=1, count=20)),
    'basis': write_small_basis,
}
READERS: dict[str, tuple[Callable[[Path], object], type[ValueError]]] = {
    'predictions': (read_predictions, ResultFileError),
    'frames': (read_frame_predictions, ResultFileError),
    'basis': (load_face_basis, FaceBasisError),
}


@pytest.fixture(scope='module')
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('archives')


def npy_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


changes = st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=2)


@pytest.mark.parametrize('kind', sorted(WRITERS))
@settings(max_examples=100)
@given(data=st.data(), flips=changes)
def test_damaged_archives_are_read_or_refused_by_name(
    scratch: Path, kind: str, data: st.DataObject, flips: list[tuple[int, int]]
) -> None:
    path = scratch / f'{kind}.npz'
    WRITERS[kind](path)
    read, refusal = READERS[kind]
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = data.draw(st.sampled_from(sorted(members)))
    content = bytearray(members[name])
    for place, value in flips:
        content[place] = value
    other: Any = np.zeros(
        data.draw(st.sampled_from([(), (0,), (1,), (2,), (3, 1)])),
        data.draw(st.sampled_from(['?', 'i4', 'f8', 'F', 'U2', 'V2', 'M8[s]'])),
    )
    members[name] = bytes(content) if flips else npy_of(other)
    with zipfile.ZipFile(path, 'w') as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    try:
        read(path)
    except refusal as error:
        assert path.name in str(error)


def test_numbers_that_are_no_characters_are_refused_by_name(scratch: Path) -> None:
    path = scratch / 'characters.npz'
    names = np.frombuffer(np.array([97, 0x110000], np.uint32).tobytes(), '<U1')
    with path.open('wb') as file:
        np.savez(
            file, names=names, labels=[0, 1], monte_carlo=np.ones((1, 2, 2)) / 2,
            single_pass=np.ones((2, 2)) / 2,
        )
    with pytest.raises(ResultFileError, match='characters.npz'):
        read_predictions(path)


@pytest.mark.parametrize('kind', sorted(READERS))
def test_an_array_alone_is_no_archive(scratch: Path, kind: str) -> None:
    read, refusal = READERS[kind]
    path = scratch / f'{kind}.npy'
    path.write_bytes(npy_of(np.zeros(3)))
    with pytest.raises(refusal, match=path.name):
        read(path)


@settings(max_examples=100)
@given(flips=changes, begin=st.sampled_from([b'', b'PK\x03\x04', b'\x93NUMPY\x03\x00']))
def test_damaged_reference_clips_are_read_or_refused_by_name(
    scratch: Path, flips: list[tuple[int, int]], begin: bytes
) -> None:
    data, labels = scratch / 'clips.npy', scratch / 'clips.pkl'
    create_reference_array(data, count=2, frames=3, points=51).flush()
    write_reference_labels(labels, ['a', 'b'], [0, 1])
    content = bytearray(data.read_bytes())
    content[: len(begin)] = begin
    for place, value in flips:
        content[place] = value
    data.write_bytes(content)
    try:
        read_reference_clips(data, labels, classes=['x', 'y'])
    except ReferenceFormatError as error:
        assert data.name in str(error)
