# SPDX-License-Identifier: Apache-2.0
"""What a streaming model must reach to be trusted, and what was measured of it."""

from dataclasses import dataclass

from fer_perception.evaluation.metrics import RecognitionMetrics
from fer_training.streaming_scores import Likelihoods, StreamingScores

RECALL, RISK, COVERAGE, FALSE_ALARMS = 0.9, 0.05, 0.8, 0.1
CALIBRATION_ERROR, ERROR_AUROC, MACRO_F1 = 0.05, 0.85, 0.85


@dataclass(frozen=True, kw_only=True)
class Line:
    """Hold one measured line of what a trusted model must reach."""

    what: str
    measured: float | None
    wanted: str  # 'at least 0.9'
    is_reached: bool | None  # None where nothing could be measured


def lines_of(scores: StreamingScores) -> tuple[Line, ...]:
    """List what a trusted model must reach, with what was measured."""
    lines = [
        _at_least(f'recall of {item.label}, {what}', item.recall, RECALL)
        for what, metrics in (('clips', scores.clips), ('frames', scores.frames))
        for item in metrics.per_class
        if item.support
    ]
    lines += [
        _at_least('macro F1, frames', scores.frames.macro_f1, MACRO_F1),
        _at_least('macro F1, clips', scores.clips.macro_f1, MACRO_F1),
        _at_least('coverage, frames', scores.selective_frames.coverage, COVERAGE),
        _at_most('CONFIDENT frames wrong', scores.selective_frames.risk, RISK),
        _at_least('coverage, clips', scores.selective_clips.coverage, COVERAGE),
        _at_most('CONFIDENT clips wrong', scores.selective_clips.risk, RISK),
    ]
    lines += [
        _at_most(f'time CONFIDENT in a wrong class, {item.source}', item.wrong, FALSE_ALARMS)
        for item in scores.false_alarms
        if item.kind == 'all'
    ]
    lines += [
        _at_most(
            'expected calibration error, frames', scores.frames.expected_calibration_error,
            CALIBRATION_ERROR,
        ),
        _at_least(
            'errors found by predictive entropy, AUROC',
            scores.frames.error_detection_auroc.predictive_entropy,
            ERROR_AUROC,
        ),
        *_lines_of_samples(scores.frames, scores.likelihoods),
    ]
    if scores.false_alarms:  # else all frames are those of expressions
        lines += [
            _measured_only(
                'errors found by predictive entropy, AUROC, all frames',
                scores.everything.error_detection_auroc.predictive_entropy,
            ),
            *_lines_of_samples(
                scores.everything, scores.likelihoods_of_everything, which=', all frames'
            ),
        ]
    return tuple(lines)


def _lines_of_samples(
    metrics: RecognitionMetrics, nats: Likelihoods, which: str = ''
) -> tuple[Line, ...]:
    """Say what samples add to one pass on these frames; `which` ends the names of the lines."""
    return (
        _measured_only(
            f'errors found by mutual information, AUROC{which}',
            metrics.error_detection_auroc.mutual_information,
        ),
        _at_most(f'NLL, samples, temperature 1{which}', nats.monte_carlo, nats.single_pass),
        _at_most(
            f'NLL, samples, calibrated{which}',
            nats.calibrated_monte_carlo, nats.calibrated_single_pass,
        ),
    )


def describe_lines(scores: StreamingScores) -> str:
    """Say all lines as a table of text."""
    marks = {True: '', False: '   not reached', None: ''}
    return '\n'.join(
        f'{line.what:<58}{number(line.measured):>8}   {line.wanted}{marks[line.is_reached]}'
        for line in lines_of(scores)
    )


def number(value: float | None) -> str:
    """Write a score, or a dash where there is none."""
    return '-' if value is None else f'{value:.3f}'


def _measured_only(what: str, measured: float | None) -> Line:
    return Line(what=what, measured=measured, wanted='', is_reached=None)


def _at_least(what: str, measured: float | None, wanted: float) -> Line:
    reached = None if measured is None else measured >= wanted
    return Line(
        what=what, measured=measured, wanted=f'at least {wanted:.3g}', is_reached=reached
    )


def _at_most(what: str, measured: float | None, wanted: float) -> Line:
    reached = None if measured is None else measured <= wanted
    return Line(what=what, measured=measured, wanted=f'at most {wanted:.3g}', is_reached=reached)
