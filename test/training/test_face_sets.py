# SPDX-License-Identifier: Apache-2.0
"""Face sets are read as they were written, and nothing else is."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_sets_made import MadeSequence, append_made, made_faces, write_face_set
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_perception.faces.crop import FaceCrop
from fer_training.face_set_writer import CutSequence, FaceSetWriter, GrowingArray
from fer_training.face_sets import FACE_SET_FILE, FaceSetError, frame_labels, read_face_set

CLASSES = ('neutral', 'happiness')
SEQUENCES = (
    MadeSequence(labels=('happiness',) * 3, label='happiness', subject='anna', part='train'),
    MadeSequence(labels=()),
    MadeSequence(labels=('neutral', '', 'happiness', 'happiness'), subject='ben', part='val'),
    MadeSequence(labels=('',), frame_rate=0.0, part='test'),
)


def test_a_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    face_set = write_face_set(tmp_path / 'set', SEQUENCES, size=24)
    told = [
        (s.name, s.subject, s.part, s.label, s.start, s.stop, s.frame_rate)
        for s in face_set.sequences
    ]
    assert told == [
        ('s0', 'anna', 'train', 'happiness', 0, 3, 25.0),
        ('s2', 'ben', 'val', '', 3, 7, 25.0),
        ('s3', '', 'test', '', 7, 8, 0.0),
    ]
    assert face_set.classes == CLASSES and face_set.crop == FaceCrop(size=24)
    assert face_set.left_out == ('s1',) and face_set.frames_left_out == 3
    for number, sequence in ((0, face_set.sequences[0]), (2, face_set.sequences[1])):
        frames = slice(sequence.start, sequence.stop)
        expected = made_faces(SEQUENCES[number].labels, CLASSES, size=24, seed=number)
        for array, values in zip(
            (face_set.images, face_set.landmarks, face_set.labels), expected, strict=True
        ):
            assert array.dtype == values.dtype and np.array_equal(array[frames], values)
    assert face_set.labels[3:].tolist() == [0, -1, 1, 1, -1]
    assert '8 face images in 3 sequences of 2 subjects' in face_set.summary
    assert 'neutral 1, happiness 5, unknown 2' in face_set.summary
    assert sorted(path.name for path in (tmp_path / 'set').iterdir()) == [
        'face_set.json', 'images.npy', 'labels.npy', 'landmarks.npy'
    ]
    assert not (tmp_path / 'set.part').exists()


def test_images_stay_on_the_disk_and_cannot_be_written_to(tmp_path: Path) -> None:
    face_set = write_face_set(tmp_path / 'set', SEQUENCES)
    for array in (face_set.images, face_set.landmarks):
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError):
            array[0] = 0


def test_the_arrays_are_what_numpy_reads(tmp_path: Path) -> None:
    face_set = write_face_set(tmp_path / 'set', SEQUENCES)
    assert np.array_equal(np.load(tmp_path / 'set' / 'images.npy'), face_set.images)
    assert np.load(tmp_path / 'set' / 'labels.npy').dtype == np.int16


@settings(deadline=None, max_examples=20)
@given(counts=st.lists(st.integers(0, 300), max_size=6), kept=st.integers(0, 200))
def test_an_array_grows_and_is_cut_off(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], kept: int
) -> None:
    path = tmp_path_factory.mktemp('array') / 'a.npy'
    rows = np.arange(2 * sum(counts), dtype=np.float32).reshape(-1, 2)
    with closing(GrowingArray(path, row=(2,), dtype=rows.dtype)) as array:
        for part in np.split(rows, np.cumsum(counts)[:-1]) if counts else ():
            array.append(part)
    assert np.array_equal(np.load(path), rows)
    if kept <= len(rows):
        with closing(GrowingArray(path, row=(2,), dtype=rows.dtype, count=kept)) as array:
            array.append(rows[:1])
        assert np.array_equal(np.load(path), np.concatenate([rows[:kept], rows[:1]]))
    else:
        with pytest.raises(FaceSetError, match=r'a\.npy lacks'):
            GrowingArray(path, row=(2,), dtype=rows.dtype, count=kept)


def test_an_interrupted_set_goes_on_after_its_last_whole_sequence(tmp_path: Path) -> None:
    whole = write_face_set(tmp_path / 'whole', SEQUENCES)
    folder = tmp_path / 'set'

    def writer(identity: str = 'made') -> FaceSetWriter:
        return FaceSetWriter(folder, crop=FaceCrop(size=32), identity=identity)

    first = writer()
    for number in range(2):
        append_made(first, number, SEQUENCES[number], classes=CLASSES, size=32)
    first.close()
    # Half a sequence, and half a line of the journal, as an interruption leaves them.
    with (tmp_path / 'set.part' / 'images.npy').open('ab') as images:
        images.write(b'x' * 5000)
    with (tmp_path / 'set.part' / 'journal.jsonl').open('a') as journal:
        journal.write('{"name": "s2", "fra')
    assert not folder.exists()
    second = writer()
    assert second.done == 2
    for number in range(2, 4):
        append_made(second, number, SEQUENCES[number], classes=CLASSES, size=32)
    second.close()
    third = writer()
    assert third.done == 4
    third.finish(data_set='made', published='nothing', classes=CLASSES)
    for name in ('images.npy', 'landmarks.npy', 'labels.npy', FACE_SET_FILE):
        assert (folder / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
    assert len(read_face_set(folder).images) == len(whole.images)


def test_what_was_begun_as_another_set_is_not_gone_on_with(tmp_path: Path) -> None:
    for identity, done in (('one', 0), ('two', 0), ('two', 1)):
        writer = FaceSetWriter(tmp_path / 'set', crop=FaceCrop(size=32), identity=identity)
        assert writer.done == done
        append_made(writer, done, SEQUENCES[0], classes=CLASSES, size=32)
        writer.close()


def test_a_set_is_never_overwritten_nor_empty(tmp_path: Path) -> None:
    write_face_set(tmp_path / 'set', SEQUENCES)
    with pytest.raises(FaceSetError, match='is there already'):
        FaceSetWriter(tmp_path / 'set', crop=FaceCrop(size=32), identity='made')
    with pytest.raises(FaceSetError, match='no recording shows a face'):
        write_face_set(tmp_path / 'none', [MadeSequence(labels=())])
    assert not (tmp_path / 'none').exists()


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    writer = FaceSetWriter(tmp_path / 'set', crop=FaceCrop(size=32), identity='made')
    made = MadeSequence(labels=('neutral',), label='neutral')
    for number in (0, 1):
        append_made(writer, number, made, classes=CLASSES, size=32)
    writer.append(
        CutSequence(name='s0', subject='', part='', label='', frame_rate=0.0, frames=1,
                    frames_left_out=0),
        tmp_path / 'faces' / '0',
    )
    with pytest.raises(FaceSetError, match='two sequences have the same name'):
        writer.finish(data_set='made', published='', classes=CLASSES)
    assert not (tmp_path / 'set').exists()


def test_labels_of_frames_are_classes_or_unknown() -> None:
    assert frame_labels(['b', '', 'a'], ('a', 'b')).tolist() == [1, -1, 0]
    with pytest.raises(ValueError, match="'c' is not among the classes a, b"):
        frame_labels(['c'], ('a', 'b'))


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(('change', 'message'), [
    (lambda it: it | {'colour': 1}, 'unknown fields: colour'),
    (lambda it: {name: it[name] for name in it if name != 'crop'}, 'lacks fields: crop'),
    (lambda it: [it], 'must be dict'),
    (lambda it: it | {'format_version': 2}, 'format 2'),
    (lambda it: it | {'format_version': True}, 'format_version must be int'),
    (lambda it: it | {'frames': 9}, 'end at frame 8, but there are 9'),
    (lambda it: it | {'frames': '8'}, 'frames must be int'),
    (lambda it: it | {'classes': 'ab'}, 'classes must be list'),
    (lambda it: it | {'classes': ['neutral', 3]}, 'classes must be str'),
    (lambda it: it | {'classes': ['neutral', 'neutral']}, 'all different'),
    (lambda it: it | {'classes': ['neutral', 'joy']}, "'happiness', is not among the classes"),
    (lambda it: it | {'data_set': 'a\x1b[31m'}, 'cannot be shown'),
    (lambda it: it | {'crop': it['crop'] | {'size': 5000}}, 'size must be 8 to'),
    (lambda it: it | {'crop': it['crop'] | {'zoom': 1}}, 'unknown fields: zoom'),
    (lambda it: it | {'frames_left_out': -1}, 'frames_left_out must be 0 or more'),
    (lambda it: it | {'sequences': []}, 'no sequence'),
    (lambda it: it | {'sequences': {}}, 'sequences must be list'),
    (lambda it: with_sequence(it, start=1), "'s0' must start at frame 0, not 1"),
    (lambda it: with_sequence(it, stop=0), "'s0' has no frame"),
    (lambda it: with_sequence(it, stop=10**30), "'s2' must start"),
    (lambda it: with_sequence(it, part='dev'), "'dev', not one of"),
    (lambda it: with_sequence(it, frame_rate=-1.0), 'frame rate'),
    (lambda it: with_sequence(it, frame_rate=float('nan')), 'frame_rate must be finite'),
    (lambda it: with_sequence(it, name=''), 'has no name'),
    (lambda it: with_sequence(it, name='s2'), 'two sequences have the same name'),
    (lambda it: with_sequence(it, name=None), 'name must be str'),
    (lambda it: with_sequence(it, age=3), 'unknown fields: age'),
])
def test_a_description_that_lies_is_refused_by_name(
    tmp_path: Path, change: Change, message: str
) -> None:
    write_face_set(tmp_path / 'set', SEQUENCES)
    path = tmp_path / 'set' / FACE_SET_FILE
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(FaceSetError) as told:
        read_face_set(tmp_path / 'set')
    assert f'{path} is no description of a face set' in str(told.value)
    assert re.search(message, str(told.value)), told.value
    assert '\n' not in str(told.value) and '\x1b' not in str(told.value)


def with_sequence(described: dict[str, Any], **changed: Any) -> dict[str, Any]:
    first, *others = described['sequences']
    return described | {'sequences': [first | changed, *others]}


@pytest.mark.parametrize('text', ['', '{', 'null', '[' * 100_000, '{"frames": 1e999}', '\x00'])
def test_what_is_no_description_is_refused(tmp_path: Path, text: str) -> None:
    write_face_set(tmp_path / 'set', SEQUENCES)
    (tmp_path / 'set' / FACE_SET_FILE).write_text(text)
    with pytest.raises(FaceSetError, match='face_set.json is no description'):
        read_face_set(tmp_path / 'set')


def test_a_folder_without_a_description_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(FaceSetError, match='no face set: it has no face_set.json'):
        read_face_set(tmp_path)


def test_arrays_that_claim_what_they_do_not_hold_are_refused(tmp_path: Path) -> None:
    write_face_set(tmp_path / 'set', SEQUENCES)
    folder = tmp_path / 'set'
    good = {path.name: path.read_bytes() for path in folder.glob('*.npy')}

    def refused(name: str, content: bytes | None, message: str) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        with pytest.raises(FaceSetError, match=f'{name}.*{message}'):
            read_face_set(folder)
        (folder / name).write_bytes(good[name])

    for name, content in good.items():
        refused(name, None, 'No such file')
        refused(name, b'', '')
        refused(name, content[:60], '')
        refused(name, content[:-1], 'cut off')
        refused(name, content + b'x', 'cut off')
        refused(name, content.replace(b'(8,', b'(9,'), r'not \(9,')
        refused(name, content.replace(b"'descr': '", b"'descr': 'O"), '')
    refused('images.npy', content_of(np.zeros((8, 32, 32, 3), np.int8)), 'uint8')
    refused('images.npy', content_of(np.zeros((8, 32, 32), np.uint8)), 'must hold')
    refused('landmarks.npy', content_of(np.full((8, 68, 2), np.nan, np.float32)), 'finite')
    refused('landmarks.npy', content_of(np.full((8, 68, 2), 1e9, np.float32)), 'about 0 to 1')
    refused('landmarks.npy', content_of(np.asfortranarray(np.zeros((8, 68, 2), np.float32))),
            'Fortran')
    refused('labels.npy', content_of(np.array([1, 1, 1, 2, 0, 0, 0, 0], np.int16)), 'to 2, but')
    refused('labels.npy', content_of(np.array([1, 1, 1, -2, 0, 0, 0, 0], np.int16)), 'from -2')
    refused('labels.npy', content_of(np.array([1, 0, 1, 0, 0, 0, 0, 0], np.int16)), "'s0'")
    read_face_set(folder)


def content_of(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_sequence_counts_its_frames(tmp_path: Path) -> None:
    sequence = write_face_set(tmp_path / 'set', SEQUENCES).sequences[1]
    assert sequence.frames == 4
    assert replace(sequence, stop=9).frames == 6
