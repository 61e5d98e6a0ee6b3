# SPDX-License-Identifier: Apache-2.0
"""Reports hold everything, load nothing and run nothing, whatever names they are made of."""

import base64
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings_made import answers, record, recording, showing

from fer_perception.evaluation.evaluation import Evaluation, Failure, attempt, evaluate
from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.played_images import PlayedImages
from fer_perception.evaluation.recording_files import RecordingFile
from fer_perception.evaluation.thresholds import parse_thresholds
from fer_perception.sources import SourceError

pytest.importorskip('matplotlib', reason='reports need the extra [evaluation]')

from fer_perception.evaluation import report_pictures, report_tables  # noqa: E402
from fer_perception.evaluation.report import (  # noqa: E402
    report_content,
    report_text,
    write_report,
)
from fer_perception.evaluation.report_page import report_page  # noqa: E402

HEADER = 'start_s,end_s,label,face\n'
EVIL = '<script>alert("1")</script>|`x`*_$\\frac{1$\n# \x1b[31m"\'&amp;'


def smiles() -> tuple[LabelledRecording, ...]:
    shown = ['neutral'] * 12 + ['happiness'] * 8
    labels = f'{HEADER}0,1,neutral,\n1,2,happiness,\n'
    return tuple(recording(answers(shown), labels, name=name) for name in ('one', 'two'))


def evaluated(
    *outcomes: LabelledRecording | Failure, thresholds: str = '{"accuracy": {"min": 0.95}}'
) -> Evaluation:
    return evaluate(
        outcomes or smiles(),
        live=any(getattr(item, 'played', None) for item in outcomes),
        settings={'model': 'm.safetensors', 'classes': ['neutral', 'happiness']},
        thresholds=parse_thresholds(thresholds.encode(), name='t.json'),
    )


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.images: list[bytes] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == 'src':
                assert value is not None and value.startswith('data:image/png;base64,')
                self.images.append(base64.b64decode(value.partition(',')[2], validate=True))
            self.attributes.append((name, value))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_json_holds_every_score_and_no_nan() -> None:
    content = report_content(evaluated())
    read = json.loads(json.dumps(content, allow_nan=False))
    assert read['mode'] == 'offline' and read['format_version'] == 1
    assert read['metrics']['accuracy'] == pytest.approx(0.9)
    assert read['metrics']['recall.sadness'] is None
    assert read['scores']['recognition']['confusion_matrix'] == [[20, 0, 0], [4, 16, 0], [0] * 3]
    assert [item['name'] for item in read['recordings']] == ['one', 'two']
    assert read['recordings'][0]['segments'][1]['time_to_detect_s'] == pytest.approx(0.2)
    assert read['thresholds'] == [
        {'metric': 'accuracy', 'wanted': 'at least 0.95', 'measured': pytest.approx(0.9),
         'is_passed': False}
    ]


def test_the_same_evaluation_gives_the_same_files(tmp_path: Path) -> None:
    for name in ('a', 'b'):
        paths = write_report(tmp_path / name, evaluated())
        assert [path.name for path in paths] == ['evaluation.json', 'evaluation.md', 'report.html']
    for path in paths:
        assert path.read_bytes() == (tmp_path / 'a' / path.name).read_bytes()


def test_the_page_shows_four_pictures_and_needs_nothing_else() -> None:
    page = Page(report_page(evaluated(smiles()[0])))
    assert len(page.images) == 4  # confusion, reliability, risk and coverage, timeline
    for png in page.images:
        picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None and min(picture.shape[:2]) > 200 and picture.std() > 5
    assert not {'script', 'link', 'iframe', 'object', 'form', 'a'} & set(page.tags)
    names = [name for name, _ in page.attributes]
    assert not [name for name in names if name in ('href', 'srcset') or name.startswith('on')]
    policy = page.attributes.index(('http-equiv', 'Content-Security-Policy'))
    assert (page.attributes[policy + 1][1] or '').startswith("default-src 'none';")
    assert 'http' not in ''.join(page.texts)


def test_the_page_says_what_the_markdown_says() -> None:
    evaluation = evaluated(*smiles(), Failure(name='three', error='it is damaged'))
    texts = Page(report_page(evaluation)).texts
    written = report_text(evaluation)
    for text in ('accuracy', '0.9', 'failed', 'three', 'it is damaged', 'happiness', 'one'):
        assert text in texts
        assert f'| {text} |' in written
    assert '2 recordings, 40 images' in written and '1 could not be evaluated' in written


def test_names_are_shown_and_never_run() -> None:
    image = [
        record(
            time_s=0, probabilities=[0.7, 0.3], classes=(EVIL, 'x' * 5000), face_id=EVIL
        )
    ]
    label = '"' + EVIL.replace('"', '""') + '"'
    made = recording([image] * 5, f'start_s,end_s,label\n0,1,{label}\n', name=EVIL, topic=EVIL)
    evaluation = evaluated(made, Failure(name=EVIL, error=EVIL))
    text = report_page(evaluation)
    page = Page(text)
    assert '<script' not in text and 'script' not in page.tags
    assert '\x1b' not in text
    shown = ' '.join(EVIL.split()).replace('\x1b', '?')
    assert page.texts.count(shown) >= 3  # topic, failure and its name
    assert len(page.images) == 4
    written = report_text(evaluation)
    assert '<' not in written and '\x1b' not in written
    rows = [line for line in written.splitlines() if line.startswith('|')]
    assert all(row.endswith(' |') for row in rows)
    cells = [row.replace('\\|', '').count('|') for row in rows if 'alert' in row]
    assert set(cells) <= {3, 7, 4, 14} and len(cells) >= 3  # no name has made a cell
    json.dumps(report_content(evaluation), allow_nan=False)


def test_a_recording_without_a_face_has_a_report() -> None:
    text = report_page(evaluated(recording([[]] * 5, f'{HEADER}0,1,neutral,\n')))
    assert 'No face was found' in text and Page(text).images == []


def test_live_reports_tell_latency_and_drops() -> None:
    played = PlayedImages(sent=10, latencies_ms=(5.0,) * 8, malformed=0, latest_ms=1.0)
    images = [*answers(['neutral'] * 8), None, None]
    made = recording(images, f'{HEADER}0,1,neutral,\n', played=played)
    content = report_content(evaluated(made))
    assert content['mode'] == 'live'
    assert content['metrics']['drop_rate'] == 0.2
    assert content['metrics']['latency_p99_ms'] == 5.0
    assert 'latency p95' in report_text(evaluated(made))


def test_reports_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_pictures, 'MOST_FACES', 2)
    monkeypatch.setattr(report_tables, 'MOST_ROWS', 3)
    crowd = [
        [
            record(time_s=0, probabilities=showing('neutral'), face_id=f'a{face}', left=face)
            for face in range(5 - index // 2)
        ]
        for index in range(10)
    ]
    rows = ''.join(f'{index / 10},{index / 10 + 0.1},neutral,\n' for index in range(10))
    made = recording(crowd, HEADER + rows)
    picture = report_pictures.timeline_picture(made)
    assert picture is not None and '3 faces with fewer answers' in picture.about
    table = report_tables.segments_table(made)
    assert len(table.rows) == 3 and 'more are in evaluation.json' in table.about
    assert len(report_content(evaluated(made))['recordings'][0]['segments']) > 20


def test_a_clock_that_was_set_back_does_not_break_the_timeline() -> None:
    made = smiles()[0]
    times = made.observations.image_s - 0.8 * (np.arange(20) >= 10)
    observations = replace(made.observations, image_s=times)
    assert observations.steps_back == 1
    assert report_pictures.timeline_picture(replace(made, observations=observations)) is not None


@pytest.mark.parametrize(
    ('error', 'text'),
    [
        (SourceError('the bag is\nbroken \x1b[1m'), 'the bag is broken ?[1m'),
        (KeyError('topic'), "KeyError: 'topic'"),
        (cv2.error('odd'), 'error: odd'),
    ],
)
def test_whatever_is_wrong_with_a_recording_is_told_in_one_line(
    error: Exception, text: str
) -> None:
    def read(_: RecordingFile) -> LabelledRecording:
        raise error

    file = RecordingFile(name='bag', path=Path('bag'), labels=())
    assert attempt(read, file) == Failure(name='bag', error=text)


def test_ctrl_c_is_no_failure_of_a_recording() -> None:
    def read(_: RecordingFile) -> LabelledRecording:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(read, RecordingFile(name='bag', path=Path('bag'), labels=()))
