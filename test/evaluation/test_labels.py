# SPDX-License-Identifier: Apache-2.0
"""Label files are read as written, or refused with file, line and value; nothing else happens."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fer_perception.evaluation import labels as labels_module
from fer_perception.evaluation.labels import (
    UNLABELLED,
    LabelError,
    LabelledSegment,
    parse_labels,
    read_labels,
)

HEADER = 'start_s,end_s,label,face\n'


def segments(text: str) -> tuple[LabelledSegment, ...]:
    return parse_labels(text.encode(), name='labels.csv').segments


def test_rows_are_read_as_written() -> None:
    read = segments('start_s,end_s,label\n0,1.5,neutral\n1.5,2,happiness\n')
    assert [(s.line, s.start_s, s.end_s, s.label, s.face) for s in read] == [
        (2, 0.0, 1.5, 'neutral', None),
        (3, 1.5, 2.0, 'happiness', None),
    ]


def test_the_face_is_optional_in_file_and_row() -> None:
    read = segments(HEADER + '0,1,neutral,\n2,3,fear,0\n2,3,anger,12\n')
    assert [item.face for item in read] == [None, 0, 12]


@pytest.mark.parametrize(
    'content',
    [
        b'\xef\xbb\xbfstart_s,end_s,label\r\n0,1,neutral\r\n',  # from a spreadsheet
        b'start_s,end_s,label\r0,1,neutral\r',
        b'start_s,end_s,label\n\n0,1,neutral\n\n\n',
        b'"start_s","end_s","label"\n"0","1","neutral"',
        b'start_s , end_s, label\n 0 ,\t1, neutral \n',
        b'start_s,end_s,label\n0.,1e0,neutral\n',
    ],
)
def test_every_way_to_write_csv_is_read(content: bytes) -> None:
    (read,) = parse_labels(content, name='x.csv').segments
    assert (read.start_s, read.end_s, read.label) == (0.0, 1.0, 'neutral')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'x.csv holds no labels'),
        (b'start_s,end_s,label\n', 'x.csv holds no labels'),
        (b'0,1,neutral\n', 'line 1: the first line must be start_s,end_s,label'),
        (b'start_s;end_s;label\n0;1;neutral\n', "not 'start_s;end_s;label'"),
        (b'end_s,start_s,label\n0,1,neutral\n', 'line 1: the first line'),
        (b'start_s,end_s,label,face,more\n', 'line 1: the first line'),
        (b'# mine\nstart_s,end_s,label\n', 'line 1: the first line'),
        (b'start_s,end_s,label\n0,1\n', 'line 2: 2 values, 3 are needed'),
        (b'start_s,end_s,label\n0,5,1,neutral\n', 'decimals have a point'),
        (b'start_s,end_s,label\n0,1,neutral\n# end,,\n', "line 3: start_s must be.*'# end'"),
        (b'start_s,end_s,label\n0,x,neutral\n', "line 2: end_s must be seconds.*not 'x'"),
        (b'start_s,end_s,label\n,1,neutral\n', "line 2: start_s must be.*not ''"),
        (b'start_s,end_s,label\n-1,1,neutral\n', "line 2: start_s must be.*not '-1'"),
        (b'start_s,end_s,label\nnan,1,neutral\n', "not 'nan'"),
        (b'start_s,end_s,label\n0,inf,neutral\n', "not 'inf'"),
        (b'start_s,end_s,label\n0,1e999,neutral\n', "not '1e999'"),
        (b'start_s,end_s,label\n0,1_0,neutral\n', "not '1_0'"),
        ('start_s,end_s,label\n0,\u0661,neutral\n'.encode(), 'end_s must be seconds'),
        (b'start_s,end_s,label\n2,1,neutral\n', 'line 2: end_s must be after start_s 2, not 1'),
        (b'start_s,end_s,label\n1,1,neutral\n', 'end_s must be after start_s'),
        (b'start_s,end_s,label\n0,1,\n', 'line 2: the label is empty'),
        (b'start_s,end_s,label,face\n0,1,neutral,-1\n', "line 2: face must be.*not '-1'"),
        (b'start_s,end_s,label,face\n0,1,neutral,a0000\n', "face must be.*not 'a0000'"),
        (b'start_s,end_s,label,face\n0,1,neutral,1234567\n', 'face must be'),
        (b'start_s,end_s,label\n0,1,neutral\n0.5,2,fear\n', 'line 3: 0.5 to 2 s overlaps.*line 2'),
        (b'start_s,end_s,label\n5,6,fear\n0,5.1,neutral\n', 'line 3: 0 to 5.1 s overlaps.*line 2'),
        (b'start_s,end_s,label\n0,9,fear\n1,2,fear\n3,4,fear\n', 'line 3: 1 to 2 s overlaps'),
        (b'start_s,end_s,label,face\n0,9,fear,1\n3,4,anger,1\n', 'for face 1'),
        (b'start_s,end_s,label,face\n0,9,fear,1\n1,2,anger,0\n3,4,anger,\n', 'for face 1'),
        (b'start_s,end_s,label,face\n0,9,fear,\n3,4,anger,7\n', 'for face 7'),
        (b'start_s,end_s,label\n0,1,\xff\xfe\n', 'line 2: this is no UTF-8'),
        (b'start_s,end_s,label\n0,1,"neutral\n', 'no CSV'),
        (b'start_s,end_s,label\n0,1,"neu"tral\n', 'line 2: no CSV'),
        (b'start_s,end_s,label\n0,1,' + b'x' * 200_000 + b'\n', 'line 2: no CSV'),
    ],
)
def test_what_is_wrong_is_named(content: bytes, message: str) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        parse_labels(content, name='x.csv')
    assert 'x.csv' in str(caught.value)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


def test_segments_that_touch_or_are_of_other_faces_do_not_overlap() -> None:
    rows = ['1,2,fear,', '0,1,anger,', '2,3,fear,0', '2,4,anger,1', '3,4,fear,0']
    assert len(segments(HEADER + '\n'.join(rows))) == 5


def test_sums_of_decimals_that_touch_do_not_overlap() -> None:
    rows = ''.join(f'{i / 10},{i / 10 + 0.1},fear,\n' for i in range(100))
    assert '0.30000000000000004' in rows
    assert [item.end_s for item in segments(HEADER + rows)][2] == 0.3


def test_huge_files_are_refused_without_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'huge.csv'
    path.write_bytes(HEADER.encode())
    with path.open('ab') as file:
        file.truncate(10**12)  # takes no place
    with pytest.raises(LabelError, match=r'huge\.csv has more than'):
        read_labels(path)
    monkeypatch.setattr(labels_module, 'MOST_SEGMENTS', 2)
    rows = '0,1,fear,\n1,2,fear,\n2,3,fear,\n'
    assert len(segments(HEADER + rows[:-10])) == 2
    with pytest.raises(LabelError, match='more than the 2 rows'):
        segments(HEADER + rows)


@pytest.mark.parametrize('name', ['none.csv', '.'])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabelError, match='cannot be read'):
        read_labels(tmp_path / name)


def test_labels_that_the_model_does_not_know_are_named() -> None:
    labels = parse_labels(b'start_s,end_s,label\n0,1,neutral\n1,2,Happiness\n', name='x.csv')
    labels.check_classes(('neutral', 'Happiness'))
    with pytest.raises(LabelError, match="x.csv, line 3: unknown label 'Happiness'.*neutral, joy"):
        labels.check_classes(('neutral', 'joy'))


def test_labels_of_another_recording_are_refused() -> None:
    labels = parse_labels(b'start_s,end_s,label\n0,1,neutral\n3,4,fear\n', name='x.csv')
    labels.check_images(np.array([0.0, 3.99]))
    for times in ([0.0, 2.0], [0.0, 4.0], [3.5], []):
        with pytest.raises(LabelError, match='x.csv, line [23]: no image between'):
            labels.check_images(np.array(times))


def test_a_segment_holds_from_its_start_until_just_before_its_end() -> None:
    labels = parse_labels(f'{HEADER}1,2,fear,\n2,3,anger,0\n5,6,joy,1\n'.encode(), name='x.csv')
    times = np.array([0.0, 1.0, 1.999, 2.0, 3.0, 5.5])
    u = UNLABELLED
    assert labels.find(times, 0).tolist() == [u, 0, 0, 1, u, u]
    assert labels.find(times, 1).tolist() == [u, 0, 0, u, u, 2]
    assert labels.find(times, None).tolist() == [u, 0, 0, u, u, u]
    assert labels.faces == (0, 1)


numbers = st.one_of(
    st.floats(0, 20).map(repr), st.integers(0, 20).map(str), st.text(max_size=5),
    st.sampled_from(['nan', '-1', 'inf', '', '1e400', '0x1', '.5', '5.']),
)
rows = st.lists(
    st.tuples(
        numbers, numbers, st.one_of(st.sampled_from(['fear', 'joy', '']), st.text(max_size=8)),
        st.one_of(st.sampled_from(['', '0', '1', '-1', 'x']), st.text(max_size=3)),
    ),
    max_size=6,
)


def written(values: list[tuple[str, str, str, str]], *, quoted: bool) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerow(HEADER.strip().split(','))
    writer.writerows(values)
    return file.getvalue().encode('utf-8', 'surrogatepass')


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=100).map(lambda tail: HEADER.encode() + tail),
        rows.map(lambda values: written(values, quoted=True)),
        rows.map(lambda values: written(values, quoted=False)),
    )
)
@example(b'\x00')
@example(HEADER.encode() + b'0,1,"a\nb",\n2,3,c,\n')
def test_any_bytes_are_labels_or_a_label_error(content: bytes) -> None:
    try:
        labels = parse_labels(content, name='fuzz.csv')
    except LabelError as error:
        assert 'fuzz.csv' in str(error) and '\n' not in str(error)
        return
    by_start = sorted(labels.segments, key=lambda item: item.start_s)
    for index, item in enumerate(by_start):
        assert math.isfinite(item.end_s) and 0 <= item.start_s < item.end_s
        assert item.label == item.label.strip() != ''
        for other in by_start[index + 1 :]:
            is_same_face = None in (item.face, other.face) or item.face == other.face
            assert other.start_s >= item.end_s or not is_same_face


@given(
    st.lists(st.integers(0, 50), min_size=2, max_size=8, unique=True).map(sorted),
    st.lists(st.floats(0, 60), max_size=20),
)
def test_lookups_agree_with_the_definition(bounds: list[int], times: list[float]) -> None:
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    text = 'start_s,end_s,label\n' + ''.join(f'{a},{b},fear\n' for a, b in reversed(pairs))
    labels = parse_labels(text.encode(), name='x.csv')
    found = labels.find(np.array(times), 0)
    for time, index in zip(times, found, strict=True):
        holding = [i for i, s in enumerate(labels.segments) if s.start_s <= time < s.end_s]
        assert [index] == (holding or [UNLABELLED])
