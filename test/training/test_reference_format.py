# SPDX-License-Identifier: Apache-2.0
"""Files of the reference's format are kept exactly, mapped, and never run anything."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faces_made import face_landmarks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_perception.graph.edges import edge_vectors, load_edge_list
from fer_perception.graph.normalization import normalize_landmarks
from fer_training import reference_format
from fer_training.clips import ClipPreparation, Clips, clips_from_tracks
from fer_training.reference_format import (
    ReferenceFormatError,
    edge_clips,
    read_reference_clips,
    read_reference_labels,
    write_reference_clips,
)
from fer_training.tracks import Track

CLASSES = ('anger', 'fear', 'happiness')


def made_clips(count: int = 5) -> Clips:
    tracks = [
        Track(face_landmarks(frames=6, seed=seed), CLASSES[seed % 3], f's{seed}', 30.0)
        for seed in range(count)
    ]
    return clips_from_tracks(
        tracks, classes=CLASSES,
        preparation=ClipPreparation(frames=4, normalization='centred'),
    )


def test_write_then_read_is_exact_and_stays_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_format, 'CHUNK_CLIPS', 2)
    clips = made_clips()
    data, labels = tmp_path / 'train.npy', tmp_path / 'train_labels.pkl'
    write_reference_clips(data, labels, clips)
    stored = np.load(data)
    assert stored.shape == (5, 2, 4, 51, 1) and stored.dtype == np.float32
    assert pickle.loads(labels.read_bytes()) == (list(clips.names), clips.labels.tolist())
    read = read_reference_clips(data, labels, classes=CLASSES)
    assert np.array_equal(read.features, clips.features)
    assert read.labels.tolist() == clips.labels.tolist()
    assert read.names == clips.names and read.classes == CLASSES
    assert read.subjects == ('',) * 5
    assert isinstance(read.features, np.memmap)
    assert not read.features.flags.owndata and not read.features.flags.writeable


def test_edge_clips_are_the_edge_vectors_of_the_landmarks(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_format, 'CHUNK_CLIPS', 2)
    landmarks = face_landmarks(frames=4)
    clips = clips_from_tracks(
        [Track(landmarks, 'fear', 'a', 30.0)] * 3, classes=CLASSES,
        preparation=ClipPreparation(frames=4, normalization='centred'),
    )
    edges = load_edge_list()
    made = edge_clips(clips, edges)
    expected = edge_vectors(normalize_landmarks(landmarks, 'centred'), edges)  # (2, T, E)
    assert made.features.shape == (3, 2, 4, len(edges))
    assert np.allclose(made.features[2], expected, atol=1e-4)
    with pytest.raises(ValueError, match='edge vectors already'):
        edge_clips(made, edges)


class Attack:
    """What pickles to a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_pickles_that_run_something_are_refused(tmp_path: Path) -> None:
    path, trace = tmp_path / 'labels.pkl', tmp_path / 'trace'
    attacks: list[bytes] = [
        pickle.dumps(([Attack(f'touch {trace}')], [0]), protocol) for protocol in range(6)
    ]
    attacks.append(b"cos\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR.")
    attacks.append(b"(S'touch " + str(trace).encode() + b"'\nios\nsystem\n.")
    attacks.append(b'cbuiltins\neval\n(S\'open("' + str(trace).encode() + b'","w")\'\ntR.')
    for attack in attacks:
        path.write_bytes(attack)
        with pytest.raises(ReferenceFormatError, match='labels.pkl is no label file'):
            read_reference_labels(path)
        assert not trace.exists()


@pytest.mark.parametrize(
    'content',
    [
        (['a'], [np.int64(0)]),
        (['a'], np.array([0])),
        (['a'], OrderedDict()),
        (['a'], [set()]),
    ],
)
def test_objects_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / 'labels.pkl'
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ReferenceFormatError, match='labels.pkl is no label file'):
        read_reference_labels(path)


def test_labels_that_python_2_wrote_are_read(tmp_path: Path) -> None:
    path = tmp_path / 'labels.pkl'
    path.write_bytes(b"((lp0\nS'clip'\nap1\n(lp2\nI3\nat.")
    assert read_reference_labels(path) == (['clip'], [3])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda part: st.lists(part, max_size=3) | st.lists(part, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=2), part, max_size=2),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=PLAIN)
def test_wrong_structures_give_one_clear_error(tmp_path: Path, content: Any) -> None:
    path = tmp_path / 'labels.pkl'
    path.write_bytes(pickle.dumps(content))
    try:
        names, labels = read_reference_labels(path)
    except ReferenceFormatError as error:
        assert str(path) in str(error) and '\n' not in str(error)
    else:
        assert (names, labels) == (list(content[0]), list(content[1]))
        assert all(isinstance(name, str) for name in names)
        assert all(type(label) is int for label in labels)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(junk=st.binary(max_size=60))
def test_damaged_pickles_give_one_clear_error(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / 'labels.pkl'
    good = pickle.dumps((['a', 'b'], [0, 1]))
    for content in (junk, good[: len(junk)] + junk, good[:-1] + junk):
        path.write_bytes(content)
        try:
            read_reference_labels(path)
        except ReferenceFormatError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize('put', [b'r\xff\xff\xff\x7f', b'p2000000000\n'])
def test_a_memo_index_cannot_take_all_memory(tmp_path: Path, put: bytes) -> None:
    path = tmp_path / 'labels.pkl'
    path.write_bytes(b'\x80\x02]' + put + b'.')
    with pytest.raises(ReferenceFormatError, match='memo index'):
        read_reference_labels(path)


def test_large_pickles_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_format, 'MAX_LABEL_FILE_BYTES', 100)
    path = tmp_path / 'labels.pkl'
    path.write_bytes(pickle.dumps((['name'] * 100, [1] * 100)))
    with pytest.raises(ReferenceFormatError, match='at most 100'):
        read_reference_labels(path)


@pytest.mark.parametrize(
    ('array', 'message'),
    [
        (np.zeros((5, 2, 4, 51), np.float32), 'shape'),
        (np.zeros((5, 3, 4, 51, 1), np.float32), 'shape'),
        (np.zeros((5, 2, 4, 51, 2), np.float32), 'shape'),
        (np.zeros((0, 2, 4, 51, 1), np.float32), 'shape'),
        (np.zeros((5, 2, 4, 51, 1), np.int64), 'floating'),
        (np.zeros((4, 2, 4, 51, 1), np.float32), '5 clips.* 4 clips'),
        (np.array([{}], dtype=object), 'no data file'),
    ],
)
def test_wrong_data_files_are_refused_by_name(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    data, labels = tmp_path / 'train.npy', tmp_path / 'train_labels.pkl'
    write_reference_clips(data, labels, made_clips())
    np.save(data, array, allow_pickle=True)
    with pytest.raises(ReferenceFormatError, match=f'train.npy.*{message}|{message}'):
        read_reference_clips(data, labels, classes=CLASSES)


def test_missing_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    data, labels = tmp_path / 'train.npy', tmp_path / 'train_labels.pkl'
    with pytest.raises(ReferenceFormatError, match='train.npy does not exist'):
        read_reference_clips(data, labels, classes=CLASSES)
    write_reference_clips(data, labels, made_clips())
    with pytest.raises(ReferenceFormatError, match='labels from 0 to 2.*0 to 1'):
        read_reference_clips(data, labels, classes=CLASSES[:2])
    for content in (b'', b'junk', data.read_bytes()[:200]):
        data.write_bytes(content)
        with pytest.raises(ReferenceFormatError, match='train.npy is no data file'):
            read_reference_clips(data, labels, classes=CLASSES)
    with data.open('wb') as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(ReferenceFormatError, match='archive'):
        read_reference_clips(data, labels, classes=CLASSES)
    labels.unlink()
    write_reference_clips(data, tmp_path / 'other.pkl', made_clips())
    with pytest.raises(ReferenceFormatError, match='train_labels.pkl does not exist'):
        read_reference_clips(data, labels, classes=CLASSES)
