# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation as one HTML file that needs no network and runs no script."""

import base64
from collections.abc import Sequence
from html import escape

from fer_perception.evaluation.evaluation import Evaluation
from fer_perception.evaluation.report_pictures import (
    Picture,
    recognition_pictures,
    timeline_picture,
)
from fer_perception.evaluation.report_tables import (
    Table,
    detail_tables,
    main_tables,
    segments_table,
    summary,
)
from fer_perception.evaluation.untrusted_text import one_line

MOST_TIMELINES = 50  # recordings with one, in the order of their names
# Nothing is fetched and nothing runs, whatever the names in the report may hold.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  max-width: 72rem; padding: 0 1.5rem; }
h1 { margin-bottom: 0; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: 0.8rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.9rem 0.25rem 0; text-align: left;
  vertical-align: top; overflow-wrap: break-word; max-width: 40rem; }
th { color: #555; font-weight: 600; }
td { font-variant-numeric: tabular-nums; }
td.passed { color: #00734f; }
td.failed, td.missed { color: #b34700; font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.pictures figure { flex: 1 1 26rem; max-width: 34rem; }
.pictures img { width: 100%; height: auto; }
figure { margin: 0; }
figcaption { color: #555; font-size: 0.9rem; }
.wide { overflow-x: auto; }
"""
MARKED = {'passed', 'failed', 'missed'}  # cells that the style shows


def report_page(evaluation: Evaluation) -> str:
    """Make the page; every name, label and error in it is escaped."""
    title = 'Live evaluation' if evaluation.live else 'Evaluation'
    parts = [
        '<!DOCTYPE html>',
        '<html lang="en">',
        '<head>',
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>fer_evaluate: {title}</title>',
        f'<style>{STYLE}</style>',
        '</head>',
        '<body>',
        f'<h1>{title}</h1>',
        f'<p>{_text(summary(evaluation))}</p>',
    ]
    for table in main_tables(evaluation):
        parts += _section(table)
    parts.append('<div class="pictures">')
    parts += [_figure(picture) for picture in recognition_pictures(evaluation.pooled)]
    parts.append('</div>')
    for table in detail_tables(evaluation):
        parts += _section(table)
    for index, recording in enumerate(evaluation.recordings):
        parts.append(f'<h2>Recording {_text(recording.name)}</h2>')
        picture = timeline_picture(recording) if index < MOST_TIMELINES else None
        if picture is not None:
            parts.append(f'<div class="wide">{_figure(picture)}</div>')
        elif recording.observations.faces:
            parts.append(f'<p>Only the first {MOST_TIMELINES} recordings have a timeline.</p>')
        else:
            parts.append('<p>No face was found.</p>')
        parts += _table(segments_table(recording))
    parts += ['</body>', '</html>', '']
    return '\n'.join(parts)


def _section(table: Table) -> list[str]:
    return [f'<h2>{_text(table.title)}</h2>', *_table(table)]


def _table(table: Table) -> list[str]:
    parts = [f'<p>{_text(table.about)}</p>'] if table.about else []
    parts += ['<table>', _row('th', table.header)]
    parts += [_row('td', row) for row in table.rows]
    return [*parts, '</table>']


def _row(kind: str, cells: Sequence[str]) -> str:
    return '<tr>' + ''.join(
        f'<{kind}{f" class={cell}" if cell in MARKED else ""}>{_text(cell)}</{kind}>'
        for cell in cells
    ) + '</tr>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode('ascii')
    about = _text(picture.about)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{about}">'
        f'<figcaption>{about}</figcaption></figure>'
    )


def _text(text: str) -> str:
    """Make one line of a text and escape it for elements and attributes."""
    return escape(one_line(text), quote=True)
