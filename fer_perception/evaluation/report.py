# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation: evaluation.json, evaluation.md and report.html in a folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fer_perception.evaluation.evaluation import Evaluation
from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.named_metrics import NamedMetric
from fer_perception.evaluation.report_page import report_page
from fer_perception.evaluation.report_tables import Table, detail_tables, main_tables, summary
from fer_perception.evaluation.scoring import StreamScores, detections
from fer_perception.evaluation.untrusted_text import markdown

FORMAT_VERSION = 1
REPORT_FILES = ('evaluation.json', 'evaluation.md', 'report.html')


def write_report(folder: Path, evaluation: Evaluation) -> tuple[Path, ...]:
    """Write the files into a folder, which is made, over those of an earlier report.

    Offline the same recordings, labels and settings give the same bytes. Returns the paths;
    raises OSError if they cannot be written.
    """
    contents = (
        json.dumps(report_content(evaluation), indent=1, allow_nan=False) + '\n',
        report_text(evaluation),
        report_page(evaluation),
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / name for name in REPORT_FILES)
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content, 'utf-8')
    return paths


def report_content(evaluation: Evaluation) -> dict[str, Any]:
    """Return all of it as JSON takes it; None stands for what could not be measured."""
    return {
        'format_version': FORMAT_VERSION,
        'mode': 'live' if evaluation.live else 'offline',
        'settings': dict(evaluation.settings),
        'metrics': _values(evaluation.metrics, evaluation.pooled),
        'thresholds': [asdict(item) for item in evaluation.thresholds],
        'failures': [asdict(item) for item in evaluation.failures],
        'scores': asdict(evaluation.pooled),
        'recordings': [
            {
                **_describe(recording),
                'metrics': _values(evaluation.metrics, scores),
                'scores': asdict(scores),
                'segments': [asdict(item) for item in detections(recording)],
            }
            for recording, scores in zip(evaluation.recordings, evaluation.scores, strict=True)
        ],
    }


def report_text(evaluation: Evaluation) -> str:
    """Return it as Markdown; every name, label and error in it is escaped."""
    title = 'Live evaluation' if evaluation.live else 'Evaluation'
    lines = [f'# {title}', '', summary(evaluation)]
    for table in (*main_tables(evaluation), *detail_tables(evaluation)):
        lines += ['', f'## {table.title}', '', *([table.about, ''] if table.about else [])]
        lines += _rows(table)
    return '\n'.join(lines) + '\n'


def _rows(table: Table) -> list[str]:
    rows = [table.header, ('---',) * len(table.header), *table.rows]
    return [
        '| ' + ' | '.join(cell if cell == '---' else markdown(cell) for cell in row) + ' |'
        for row in rows
    ]


def _values(
    metrics: Sequence[NamedMetric], scores: StreamScores
) -> dict[str, float | None]:
    return {item.name: item.value(scores) for item in metrics}


def _describe(recording: LabelledRecording) -> dict[str, Any]:
    seen = recording.observations
    samples = seen.mc_samples.tolist()
    return {
        'name': recording.name,
        'topic': recording.topic,
        'images': len(seen.image_s),
        'damaged': recording.damaged,
        'duration_s': seen.duration_s,
        'steps_back': seen.steps_back,
        'faces': list(seen.faces),
        'answers': len(seen.face),
        'fewest_samples': min(samples, default=None),
        'most_samples': max(samples, default=None),
    }
