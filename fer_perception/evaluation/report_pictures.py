# SPDX-License-Identifier: Apache-2.0
"""The pictures of an evaluation's report, as PNG. Needs matplotlib."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import matplotlib
import numpy as np

from fer_perception.evaluation.figures import (
    figure_png,
    new_figure,
    plot_confusion,
    plot_reliability,
    plot_risk_coverage,
    share_legend,
)
from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.scoring import StreamScores
from fer_perception.evaluation.untrusted_text import one_line
from fer_perception.timeline import FaceTimeline, timeline_figure

MOST_FACES = 8  # of a timeline, those with the most answers
MOST_SPANS = 500  # of labels in a timeline
INCHES_PER_SECOND = 0.25
WIDTHS = (10.0, 60.0)  # inches, of timelines
MOST_CHARACTERS = 24  # of a name in a picture


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Hold a PNG file and what it shows."""

    about: str
    png: bytes


def recognition_pictures(scores: StreamScores) -> tuple[Picture, ...]:
    """Draw confusion matrix, reliability and risk-coverage curve; nothing if nothing is scored."""
    if scores.recognition is None:
        return ()
    recognition = replace(
        scores.recognition, classes=tuple(_name(item) for item in scores.recognition.classes)
    )
    with _plain_text():
        size = 2.2 + 0.52 * len(recognition.classes)
        confusion = new_figure(width=size + 0.6, height=size)
        plot_confusion(confusion.axes[0], recognition)
        reliability = new_figure(width=5.4, height=5.4)
        plot_reliability(
            reliability.axes[0], recognition.reliability,
            error=recognition.expected_calibration_error,
        )
        share_legend(reliability, columns=2)
        curve = new_figure(width=6.4, height=4.6)
        plot_risk_coverage(
            curve.axes[0], {'scored answers': recognition}, confident=scores.selective
        )
        return (
            Picture(about='Confusion matrix of the scored answers', png=figure_png(confusion)),
            Picture(about='Reliability of the confidences', png=figure_png(reliability)),
            Picture(about='Risk of the most confident answers', png=figure_png(curve)),
        )


def timeline_picture(recording: LabelledRecording) -> Picture | None:
    """Draw a panel for each face: labels, probabilities with their spread, states.

    None if no face was answered.
    """
    seen = recording.observations
    answers = np.bincount(seen.face, minlength=len(seen.faces))
    most = sorted(range(len(seen.faces)), key=lambda face: -answers[face])[:MOST_FACES]
    if not most or not seen.classes:
        return None
    left_out = len(seen.faces) - len(most)
    width = float(np.clip(INCHES_PER_SECOND * seen.duration_s, *WIDTHS))
    with _plain_text():
        figure = timeline_figure(
            [_timeline(recording, face) for face in sorted(most)],
            width=width,
            span_s=(float(seen.image_s.min()), float(seen.image_s.max())),
        )
        return Picture(
            about='Timeline of each face: labels above, mean probabilities and one standard '
            'deviation about them, states below'
            + (f'; {left_out} faces with fewer answers are not drawn' if left_out else ''),
            png=figure_png(figure),
        )


def _timeline(recording: LabelledRecording, face: int) -> FaceTimeline:
    seen = recording.observations
    own = np.flatnonzero(seen.face == face)
    own = own[np.argsort(seen.time_s[own], kind='stable')]  # time may have gone back
    own = own[np.isfinite(seen.probabilities[own]).all(-1)]
    spans = [
        (item.start_s, item.end_s, _name(item.label))
        for item in recording.labels.segments
        if item.face in (None, face)
    ]
    return FaceTimeline(
        name=f'face {face} ({_name(seen.faces[face])})',
        labels=tuple(_name(item) for item in seen.classes),
        times_s=seen.time_s[own],
        states=seen.state[own],
        probabilities=seen.probabilities[own],
        standard_deviations=seen.standard_deviations[own],
        mutual_information=seen.mutual_information[own],
        spans=tuple(spans[:MOST_SPANS]),
    )


def _name(text: str) -> str:
    """Make a name fit for a picture."""
    line = one_line(text)
    return line if len(line) <= MOST_CHARACTERS else line[: MOST_CHARACTERS - 1] + '…'


@contextmanager
def _plain_text() -> Iterator[None]:
    """Draw names as they are: a $ begins no formula, and what the font lacks needs no warning."""
    with matplotlib.rc_context({'text.parse_math': False}), warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Glyph .* missing')
        yield
