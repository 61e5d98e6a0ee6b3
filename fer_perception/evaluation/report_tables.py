# SPDX-License-Identifier: Apache-2.0
"""The tables of an evaluation's report, as text that is not escaped for anything yet."""

from collections.abc import Sequence
from dataclasses import dataclass

from fer_perception.evaluation.evaluation import Evaluation
from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.scoring import StreamScores, detections

NOTHING = '-'
MOST_ROWS = 200  # of a table; evaluation.json holds all of them


@dataclass(frozen=True, kw_only=True)
class Table:
    """Hold a heading, a line about it, the header and the rows."""

    title: str
    about: str = ''
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None) -> str:
    """Write a number with four significant digits, whole ones as they are."""
    if value is None:
        return NOTHING
    return str(value) if isinstance(value, int) else f'{value:.4g}'


def summary(evaluation: Evaluation) -> str:
    """Say in a sentence what was evaluated and how."""
    images = sum(len(item.observations.image_s) for item in evaluation.recordings)
    how = (
        'played to a running node at the pace of the stamps'
        if evaluation.live
        else 'every image read offline'
    )
    count = len(evaluation.recordings)
    failed = len(evaluation.failures)
    return (
        f'{count} recording{"" if count == 1 else "s"}, {images} images, {how}; '
        f'{evaluation.pooled.scored} answers scored'
        + (f'; {failed} could not be evaluated' if failed else '')
        + '.'
    )


def main_tables(evaluation: Evaluation) -> tuple[Table, ...]:
    """Make the tables that say how it went; those without a row are left out."""
    tables = (_thresholds(evaluation), _failures(evaluation), _metrics(evaluation))
    return tuple(table for table in tables if table.rows)


def detail_tables(evaluation: Evaluation) -> tuple[Table, ...]:
    """Make the tables of what lies behind that; those without a row are left out."""
    tables = (
        _classes(evaluation.pooled),
        _states(evaluation.pooled),
        _recordings(evaluation),
        _settings(evaluation),
    )
    return tuple(table for table in tables if table.rows)


def segments_table(recording: LabelledRecording) -> Table:
    """Make the table of a recording's labelled segments."""
    rows = []
    for item in detections(recording):
        face = NOTHING if item.face is None else str(item.face)
        seconds = item.time_to_detect_s
        rows.append(
            (
                str(item.line),
                f'{item.start_s:g} to {item.end_s:g}',
                item.label,
                face,
                'missed' if seconds is None else f'{seconds:.3f}',
            )
        )
    left_out = len(rows) - MOST_ROWS
    return Table(
        title='Labelled segments',
        about=f'{left_out} more are in evaluation.json.' if left_out > 0 else '',
        header=('line', 'seconds', 'label', 'face', 'detected after (s)'),
        rows=tuple(rows[:MOST_ROWS]),
    )


def _thresholds(evaluation: Evaluation) -> Table:
    return Table(
        title='Thresholds',
        header=('metric', 'measured', 'wanted', 'result'),
        rows=tuple(
            (
                item.metric,
                number(item.measured),
                item.wanted,
                'passed' if item.is_passed else 'failed',
            )
            for item in evaluation.thresholds
        ),
    )


def _failures(evaluation: Evaluation) -> Table:
    return Table(
        title='Not evaluated',
        header=('recording', 'why'),
        rows=tuple((item.name, item.error) for item in evaluation.failures),
    )


def _metrics(evaluation: Evaluation) -> Table:
    return Table(
        title='Metrics',
        about='An answer is one face in one image. Scored are those after the warm-up in a '
        'labelled segment.',
        header=('metric', 'measured', 'meaning'),
        rows=tuple(
            (item.name, number(item.value(evaluation.pooled)), item.meaning)
            for item in evaluation.metrics
            if '.' not in item.name  # those of the classes have a table of their own
        ),
    )


def _classes(scores: StreamScores) -> Table:
    recognition = scores.recognition
    alarms = scores.false_alarms.classes if scores.false_alarms else {}
    return Table(
        title='Classes',
        about='Those that are labelled, or were CONFIDENT wrongly.',
        header=(
            'class', 'labelled answers', 'recall', 'precision', 'F1',
            'share of the time CONFIDENT wrongly',
        ),
        rows=tuple(
            (
                item.label,
                str(item.support),
                number(item.recall),
                number(item.precision),
                number(item.f1),
                number(alarms.get(item.label, 0.0)),
            )
            for item in (recognition.per_class if recognition else ())
            if item.support or item.label in alarms
        ),
    )


def _states(scores: StreamScores) -> Table:
    return Table(
        title='States',
        about='Of all answers in labelled segments.',
        header=('state', 'answers', 'share'),
        rows=tuple(
            (name, str(item.count), number(item.share))
            for name, item in scores.states.items()
            if item.count
        ),
    )


def _recordings(evaluation: Evaluation) -> Table:
    columns = {
        'accuracy': 'accuracy',
        'coverage': 'coverage',
        'risk': 'risk',
        'false_alarm_rate': 'false alarms',
        'face_coverage': 'faces found',
        'missed_segments': 'missed',
    }
    if evaluation.live:
        columns |= {'drop_rate': 'drops', 'latency_p95_ms': 'latency p95 (ms)'}
    values = {item.name: item.value for item in evaluation.metrics}
    return Table(
        title='Recordings',
        header=(
            *('recording', 'topic', 'images', 'damaged', 'seconds', 'faces', 'scored'),
            *columns.values(),
        ),
        rows=tuple(
            (
                recording.name,
                recording.topic or NOTHING,
                str(len(recording.observations.image_s)),
                str(recording.damaged),
                f'{recording.observations.duration_s:.1f}',
                str(len(recording.observations.faces)),
                str(scores.scored),
                *(number(values[name](scores)) for name in columns),
            )
            for recording, scores in zip(evaluation.recordings, evaluation.scores, strict=True)
        ),
    )


def _settings(evaluation: Evaluation) -> Table:
    def shown(value: object) -> str:
        return ', '.join(map(str, value)) if isinstance(value, Sequence) and not isinstance(
            value, str
        ) else str(value)

    return Table(
        title='Settings',
        header=('what', 'value'),
        rows=tuple((name, shown(value)) for name, value in evaluation.settings.items()),
    )
