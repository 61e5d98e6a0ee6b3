# SPDX-License-Identifier: Apache-2.0
"""The timeline: every face's probabilities with their spread over time, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_perception.drawing import STATE_COLOURS, hexadecimal
from fer_perception.records import ExpressionRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATE_STRIP = (-0.08, 0.05)  # lower edge and height, in units of the probability
LABEL_STRIP = (1.03, 0.07)
OTHER_LABEL_COLOUR = '#8a8a8a'  # of a label that is no class
NAMED_INCHES = 0.8  # from which a span of a label is wide enough for its name
USUAL_WIDTH = 10.0  # inches; of wider figures the legend is below, where it is seen first
GAP_PERIODS = 2.5  # a face that was away for longer leaves its curves open
RESOLUTION = 110  # dots per inch


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceTimeline:
    """
    Hold what one face showed: M answers in order of time, C classes.

    Spans of labels are (start, end, label) in the same seconds as the answers.
    """

    name: str
    labels: tuple[str, ...]  # of the classes
    times_s: np.ndarray  # (M,) ascending
    states: np.ndarray  # (M,) values of ExpressionState
    probabilities: np.ndarray  # (M, C)
    standard_deviations: np.ndarray  # (M, C)
    mutual_information: np.ndarray  # (M,) nats
    spans: tuple[tuple[float, float, str], ...] = ()


def face_timelines(records: Sequence[ExpressionRecord]) -> list[FaceTimeline]:
    """Sort records into the timelines of their faces; seconds since the first record."""
    start_ns = min((record.stamp_ns for record in records), default=0)
    timelines = []
    for face_id in sorted({record.face_id for record in records}):
        own = [record for record in records if record.face_id == face_id]
        timelines.append(
            FaceTimeline(
                name=f'face {face_id}',
                labels=own[0].labels,
                times_s=np.array([(record.stamp_ns - start_ns) / 1e9 for record in own]),
                states=np.array([record.state for record in own]),
                probabilities=np.array([record.probabilities for record in own]),
                standard_deviations=np.array([record.standard_deviations for record in own]),
                mutual_information=np.array([record.mutual_information for record in own]),
            )
        )
    return timelines


def draw_timeline(records: Sequence[ExpressionRecord], path: Path, *, title: str = '') -> None:
    """Draw one panel for each face into a PNG file; see `timeline_figure`.

    Raises ValueError without records, ImportError where matplotlib is not installed.
    """
    title = title or 'Expressions over time: mean of the samples, one deviation about it'
    timeline_figure(face_timelines(records), title=title).savefig(path, format='png')


def timeline_figure(
    timelines: Sequence[FaceTimeline],
    *,
    title: str = '',
    width: float = USUAL_WIDTH,
    span_s: tuple[float, float] | None = None,
) -> Figure:
    """Draw one panel for each face: mean probability of each class, one deviation about it.

    The strip below a panel is the state, the one above it the labels, the dotted line the mutual
    information. width: inches; span_s: first and last second drawn, None for that of the answers.
    Raises ValueError without faces, ImportError where matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not timelines:
        raise ValueError('there are no expressions to draw')
    figure = Figure(
        figsize=(width, 3.4 * len(timelines) + 0.6), dpi=RESOLUTION, layout='constrained'
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0]
    first_s, last_s = span_s or (
        min(float(item.times_s[0]) for item in timelines),
        max(float(item.times_s[-1]) for item in timelines),
    )
    for axis, timeline in zip(axes, timelines, strict=True):
        _plot_face(axis, timeline, named_s=NAMED_INCHES / width * (last_s - first_s))
    axes[-1].xaxis.set_major_locator(MaxNLocator(round(width)))
    margin = 0.01 * (last_s - first_s) or 0.5
    axes[0].set_xlim(first_s - margin, last_s + margin)
    axes[-1].set_xlabel('time (s)')
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if title:
        figure.suptitle(title)
    is_wide = width > USUAL_WIDTH
    figure.legend(
        list(handles.values()), list(handles), frameon=False, ncols=6 if is_wide else 1,
        loc='outside lower left' if is_wide else 'outside right center',
    )
    return figure


def _plot_face(axes: Axes, timeline: FaceTimeline, *, named_s: float) -> None:
    """Draw a panel; spans of labels from `named_s` seconds on get their name."""
    times = timeline.times_s
    period = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    gaps = np.flatnonzero(np.diff(times) > GAP_PERIODS * period) + 1
    with_gaps = np.insert(times, gaps, times[gaps - 1])
    colours: dict[str, Any] = {}
    for index, label in enumerate(timeline.labels):
        mean = np.insert(timeline.probabilities[:, index], gaps, np.nan)
        deviation = np.insert(timeline.standard_deviations[:, index], gaps, np.nan)
        (line,) = axes.plot(with_gaps, mean, label=label, linewidth=1.6)
        colours[label] = line.get_color()
        low, high = np.clip(mean - deviation, 0, 1), np.clip(mean + deviation, 0, 1)
        axes.fill_between(
            with_gaps, low, high, color=colours[label], alpha=0.25, linewidth=0
        )
    axes.plot(
        with_gaps, np.insert(timeline.mutual_information, gaps, np.nan), ':', color='black',
        label='mutual information (nats)',
    )
    # An answer holds until the next one, the last one before a gap for a period.
    lengths = np.append(np.diff(times), period)
    lengths[lengths > GAP_PERIODS * period] = period
    for state, colour in STATE_COLOURS.items():
        is_own = timeline.states == state
        if is_own.any():
            label = state.name.lower().replace('_', ' ')
            spans = list(zip(times[is_own].tolist(), lengths[is_own].tolist(), strict=True))
            axes.broken_barh(spans, STATE_STRIP, color=hexadecimal(colour), label=label)
    for start, end, label in timeline.spans:
        colour = colours.get(label, OTHER_LABEL_COLOUR)
        axes.broken_barh([(start, end - start)], LABEL_STRIP, color=colour, alpha=0.55)
        if end - start >= named_s:
            axes.text(
                (start + end) / 2, LABEL_STRIP[0] + LABEL_STRIP[1] / 2, label, ha='center',
                va='center', fontsize='small', clip_on=True,
            )
    axes.set_ylim(-0.09, LABEL_STRIP[0] + LABEL_STRIP[1] + 0.01 if timeline.spans else 1.02)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylabel(f'{timeline.name}\nprobability')
    axes.grid(alpha=0.25)
