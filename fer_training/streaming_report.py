# SPDX-License-Identifier: Apache-2.0
"""The report of a streaming model on tracks: can its answers be trusted, frame by frame."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fer_perception.evaluation.figures import (
    draw_metrics,
    new_figure,
    plot_false_alarms,
    plot_subjects,
    save_figure,
    share_legend,
)
from fer_training.streaming_requirements import FALSE_ALARMS, lines_of, number
from fer_training.streaming_scores import StreamingScores, SubjectScores

REPORT_FILES = ('report.json', 'report.md')
DRAWN_SUBJECTS = 40  # a picture of more rows cannot be read


def write_streaming_report(
    folder: Path, scores: StreamingScores, *, title: str, command: str
) -> tuple[Path, ...]:
    """Write report.json, report.md and the pictures into a folder; return their paths.

    title: what was measured, as a heading; command: what makes the report again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    json_path, text_path = (folder / name for name in REPORT_FILES)
    content = {
        'title': title,
        'command': command,
        'lines': [asdict(line) for line in lines_of(scores)],
        'scores': asdict(scores),
    }
    json_path.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n', 'utf-8')
    pictures = _draw(folder, scores)
    text_path.write_text(_markdown(scores, title, command, pictures), 'utf-8')
    return (json_path, text_path, *pictures)


def _draw(folder: Path, scores: StreamingScores) -> tuple[Path, ...]:
    pictures = draw_metrics(
        folder, monte_carlo=scores.frames, single_pass=scores.frames_single_pass
    )
    pictures += (_draw_subjects(folder / 'subjects.png', scores.subjects),)
    if scores.false_alarms:
        pictures += (_draw_false_alarms(folder / 'false_alarms.png', scores),)
    return pictures


def _draw_subjects(path: Path, subjects: Sequence[SubjectScores]) -> Path:
    shown = [(item, item.selective) for item in subjects if item.selective is not None]
    title = ''
    if len(shown) > DRAWN_SUBJECTS:
        title = f'The {DRAWN_SUBJECTS} of {len(shown)} people read worst'
        shown = sorted(shown, key=lambda pair: pair[0].accuracy or 0.0)[:DRAWN_SUBJECTS]
    figure = new_figure(width=7.0, height=1.6 + 0.3 * len(shown))
    plot_subjects(
        figure.axes[0],
        names=[item.subject for item, _ in shown],
        accuracy=[item.accuracy or 0.0 for item, _ in shown],
        coverage=[selective.coverage for _, selective in shown],
        risk=[selective.risk or 0.0 for _, selective in shown],
        title=title,
    )
    share_legend(figure)
    save_figure(figure, path)
    return path


def _draw_false_alarms(path: Path, scores: StreamingScores) -> Path:
    figure = new_figure(width=7.0, height=1.6 + 0.35 * len(scores.false_alarms))
    plot_false_alarms(
        figure.axes[0],
        names=[f'{item.source}, {item.kind}' for item in scores.false_alarms],
        shares=[item.classes for item in scores.false_alarms],
        classes=scores.classes,
        most=FALSE_ALARMS,
    )
    save_figure(figure, path)
    return path


def _markdown(
    scores: StreamingScores, title: str, command: str, pictures: Sequence[Path]
) -> str:
    lines = [
        f'# {title}',
        '',
        f'`{command}`',
        '',
        f'{scores.frames.count} frames of expressions, {scores.clips.count} clips, '
        f'{scores.samples} Monte Carlo samples.',
        '',
        '| what | measured | wanted | reached |',
        '|---|---|---|---|',
    ]
    marks = {True: 'yes', False: '**no**', None: ''}
    lines += [
        f'| {line.what} | {number(line.measured)} | {line.wanted} | {marks[line.is_reached]} |'
        for line in lines_of(scores)
    ]
    shown = [item.label for item in scores.clips.per_class if item.support]
    lines += [
        '',
        '## Each person',
        '',
        '| subject | temperature | threshold | frames | accuracy | '
        + ' | '.join(f'{name}, clips' for name in shown)
        + ' | coverage | CONFIDENT wrong | ECE | false alarms |',
        '|' + '---|' * (9 + len(shown)),
    ]
    for item in scores.subjects:
        selective = item.selective
        cells = [
            item.subject,
            number(item.temperature),
            number(item.abstention_threshold),
            str(item.frames),
            number(item.accuracy),
            *(number(item.clip_recall.get(name)) for name in shown),
            number(None if selective is None else selective.coverage),
            number(None if selective is None else selective.risk),
            number(item.expected_calibration_error),
            number(item.false_alarms),
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    lines += [
        '',
        '## What confidences are worth',
        '',
        '| confidence | share of the frames | mean confidence | right |',
        '|---|---|---|---|',
    ]
    lines += [
        f'| {item.lower:.2f} to {item.upper:.2f} | {number(item.count / scores.frames.count)} '
        f'| {number(item.confidence)} | {number(item.accuracy)} |'
        for item in scores.frames.reliability
        if item.count
    ]
    if scores.false_alarms:
        lines += [
            '',
            '## What shows no expression',
            '',
            '| data | label | seconds | CONFIDENT | CONFIDENT in a wrong class | in |',
            '|---|---|---|---|---|---|',
        ]
    for alarm in scores.false_alarms:
        most = sorted(alarm.classes.items(), key=lambda pair: -pair[1])
        named = ', '.join(f'{name} {share:.3f}' for name, share in most)
        lines.append(
            f'| {alarm.source} | {alarm.kind} | {alarm.seconds:.1f} | {number(alarm.confident)} '
            f'| {number(alarm.wrong)} | {named} |'
        )
    lines += ['', '## Pictures', '']
    lines += [f'![{path.stem.replace("_", " ")}]({path.name})' for path in pictures]
    return '\n'.join(lines) + '\n'
