# SPDX-License-Identifier: Apache-2.0
"""The report of a streaming model on tracks: can its answers be trusted, frame by frame."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from fer_perception.evaluation.figures import (
    draw_metrics,
    new_figure,
    plot_false_alarms,
    plot_subjects,
    save_figure,
    share_legend,
)
from fer_perception.evaluation.metrics import (
    RecognitionMetrics,
    SelectiveScores,
    measure_recognition,
    measure_selective,
)
from fer_training.frame_calibration import FrameCalibration
from fer_training.frame_predictions import FramePredictions, pool_clips, scored_frames

REPORT_FILES = ('report.json', 'report.md')
DRAWN_SUBJECTS = 40  # a picture of more rows cannot be read

# What a model must reach to be trusted; a line of the report holds what was measured beside it.
RECALL, RISK, COVERAGE, FALSE_ALARMS = 0.9, 0.05, 0.8, 0.1
CALIBRATION_ERROR, ERROR_AUROC, MACRO_F1 = 0.05, 0.85, 0.85


@dataclass(frozen=True, kw_only=True)
class FalseAlarms:
    """Say how often not-an-expression material passes for an expression."""

    source: str  # name of the data
    kind: str  # label in the file, 'all' for all of the source
    seconds: float  # after the warm-up
    confident: float  # share of the time CONFIDENT, whatever the answer
    wrong: float  # share of the time CONFIDENT in another class than the label's
    classes: dict[str, float]  # share of the time CONFIDENT in each of these other classes


@dataclass(frozen=True, kw_only=True)
class SubjectScores:
    """Hold the scores of one subject."""

    subject: str
    temperature: float
    abstention_threshold: float
    frames: int  # of expressions, scored
    accuracy: float | None  # None where the subject shows no expressions
    recall: dict[str, float]  # of the classes that the subject shows
    clip_recall: dict[str, float]
    selective: SelectiveScores | None
    expected_calibration_error: float | None
    false_alarms: float | None  # share of the time, None without such material


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """Compare the ensemble with one pass by negative log-likelihood (nats), each at its best."""

    monte_carlo: float  # at temperature 1
    single_pass: float
    calibrated_monte_carlo: float  # each at its own temperature
    calibrated_single_pass: float


@dataclass(frozen=True, kw_only=True)
class StreamingScores:
    """Hold all scores of a streaming model on tracks.

    Frames are those after the warm-up with a target, clips the mean probabilities over those
    frames of a track that show its expression. Recognition is measured on the tracks that show
    expressions (neutral is one), after calibration.
    """

    classes: tuple[str, ...]
    samples: int
    frames: RecognitionMetrics
    frames_single_pass: RecognitionMetrics
    clips: RecognitionMetrics
    clips_single_pass: RecognitionMetrics
    selective_frames: SelectiveScores
    selective_clips: SelectiveScores
    everything: RecognitionMetrics  # frames of not-an-expression material as well
    everything_single_pass: RecognitionMetrics
    likelihoods: Likelihoods  # of the frames of expressions
    likelihoods_of_everything: Likelihoods  # for which the temperatures were fitted
    false_alarms: tuple[FalseAlarms, ...]
    subjects: tuple[SubjectScores, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """Hold one measured line of what a trusted model must reach."""

    what: str
    measured: float | None
    wanted: str  # 'at least 0.9'
    is_reached: bool | None  # None where nothing could be measured


def measure_streaming(
    frames: FramePredictions,
    calibrations: Mapping[str, FrameCalibration] | FrameCalibration,
    *,
    classes: tuple[str, ...],
    frame_rate: float,
) -> StreamingScores:
    """Measure predictions of frames, with one calibration or one for each subject.

    frame_rate: Hz, of the predicted frames. Raises ValueError if no frame of a track that shows
    an expression is scored, or a track never shows its expression.
    """
    by_subject = (
        {subject: calibrations for subject in frames.tracks.subjects}
        if isinstance(calibrations, FrameCalibration)
        else calibrations
    )
    own = [by_subject[subject] for subject in frames.tracks.subjects]
    temperature = np.array([item.temperature for item in own])[frames.track]
    single_temperature = np.array([item.single_pass_temperature for item in own])[frames.track]
    thresholds = np.array([item.abstention_threshold for item in own])
    answers = replace(
        frames.answers(temperature), single_pass=frames.answers(single_temperature).single_pass
    )
    judged = _Judged.of(frames, answers.ensemble, thresholds[frames.track], classes)
    expressive = judged.is_expressive
    if not expressive.any():
        raise ValueError('no frame of a track that shows an expression could be scored')
    frame_scores = answers.subset(expressive).measure(classes)
    everything_scores = answers.subset(judged.is_scored).measure(classes)
    raw = frames.answers(1.0)

    of_expressions = frames.tracks.show_expression(classes)[frames.track]
    expression_frames = frames.subset(of_expressions)
    clips = pool_clips(expression_frames, answers.subset(of_expressions))
    clip_tracks = np.array([index for index, _ in expression_frames.clip_frames()])
    clip_scores = clips.measure(classes)
    clip_mean = clips.ensemble
    clip_right = clip_mean.argmax(-1) == clips.labels
    clip_confident = clip_mean.max(-1) >= thresholds[clip_tracks]
    clip_subjects = np.array(frames.tracks.subjects)[clip_tracks]

    def clip_recall(subject: str) -> dict[str, float]:
        is_own = clip_subjects == subject
        return _recalls(clip_right[is_own], clips.labels[is_own], classes)

    return StreamingScores(
        classes=classes,
        samples=len(frames.monte_carlo),
        frames=frame_scores[0],
        frames_single_pass=frame_scores[1],
        clips=clip_scores[0],
        clips_single_pass=clip_scores[1],
        selective_frames=measure_selective(
            judged.is_confident[expressive], judged.is_right[expressive]
        ),
        selective_clips=measure_selective(clip_confident, clip_right),
        everything=everything_scores[0],
        everything_single_pass=everything_scores[1],
        likelihoods=_likelihoods(raw.subset(expressive).measure(classes), frame_scores),
        likelihoods_of_everything=_likelihoods(
            raw.subset(judged.is_scored).measure(classes), everything_scores
        ),
        false_alarms=_false_alarms(judged, frame_rate),
        subjects=tuple(
            _subject_scores(judged, subject, by_subject[subject], clip_recall(subject))
            for subject in sorted(set(frames.subjects[judged.is_scored].tolist()))
        ),
    )


def _likelihoods(
    raw: tuple[RecognitionMetrics, RecognitionMetrics],
    calibrated: tuple[RecognitionMetrics, RecognitionMetrics],
) -> Likelihoods:
    """Join the likelihoods of (ensemble, one pass) at temperature 1 and at their own."""
    return Likelihoods(
        monte_carlo=raw[0].negative_log_likelihood,
        single_pass=raw[1].negative_log_likelihood,
        calibrated_monte_carlo=calibrated[0].negative_log_likelihood,
        calibrated_single_pass=calibrated[1].negative_log_likelihood,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Judged:
    """Hold what became of each of M frames."""

    frames: FramePredictions
    classes: tuple[str, ...]
    mean: np.ndarray  # (M, C)
    answers: np.ndarray  # (M,) most probable class
    is_right: np.ndarray  # (M,) bool
    is_confident: np.ndarray  # (M,) bool
    is_scored: np.ndarray  # (M,) bool
    is_expressive: np.ndarray  # (M,) bool: scored, of a track that shows an expression

    @classmethod
    def of(
        cls,
        frames: FramePredictions,
        mean: np.ndarray,
        thresholds: np.ndarray,
        classes: tuple[str, ...],
    ) -> '_Judged':
        scored = scored_frames(frames)
        answers = mean.argmax(-1)
        return cls(
            frames=frames,
            classes=classes,
            mean=mean,
            answers=answers,
            is_right=answers == frames.targets,
            is_confident=mean.max(-1) >= thresholds,
            is_scored=scored,
            is_expressive=scored & frames.tracks.show_expression(classes)[frames.track],
        )


def _false_alarms(judged: _Judged, frame_rate: float) -> tuple[FalseAlarms, ...]:
    """Measure the material of each source that shows no expression, all of it and by label."""
    tracks = judged.frames.tracks
    others = judged.is_scored & ~judged.is_expressive
    found = np.unique(judged.frames.track[others])
    sources = sorted({tracks.sources[index] for index in found})
    alarms = []
    for source in sources:
        of_source = np.array(tracks.sources) == source
        kinds = sorted({tracks.kinds[index] for index in found if of_source[index]})
        for kind in ('all', *kinds):
            wanted = of_source if kind == 'all' else of_source & (np.array(tracks.kinds) == kind)
            inside = others & wanted[judged.frames.track]
            wrong = inside & judged.is_confident & ~judged.is_right
            counts = np.bincount(judged.answers[wrong], minlength=len(judged.classes))
            alarms.append(
                FalseAlarms(
                    source=source,
                    kind=kind,
                    seconds=float(inside.sum()) / frame_rate,
                    confident=float(judged.is_confident[inside].mean()),
                    wrong=float(wrong.sum() / inside.sum()),
                    classes={
                        name: float(count / inside.sum())
                        for name, count in zip(judged.classes, counts, strict=True)
                        if count
                    },
                )
            )
    return tuple(alarms)


def _subject_scores(
    judged: _Judged, subject: str, calibration: FrameCalibration, clip_recall: dict[str, float]
) -> SubjectScores:
    is_own = judged.frames.subjects == subject
    shown = is_own & judged.is_expressive
    other = is_own & judged.is_scored & ~judged.is_expressive
    labels = judged.frames.targets[shown]
    metrics = None
    if shown.any():
        metrics = measure_recognition(judged.mean[shown], labels, classes=judged.classes)
    alarms = (judged.is_confident & ~judged.is_right)[other]
    return SubjectScores(
        subject=subject,
        temperature=calibration.temperature,
        abstention_threshold=calibration.abstention_threshold,
        frames=int(shown.sum()),
        accuracy=None if metrics is None else metrics.accuracy,
        recall=_recalls(judged.is_right[shown], labels, judged.classes),
        clip_recall=clip_recall,
        selective=None if metrics is None else measure_selective(
            judged.is_confident[shown], judged.is_right[shown]
        ),
        expected_calibration_error=(
            None if metrics is None else metrics.expected_calibration_error
        ),
        false_alarms=float(alarms.mean()) if len(alarms) else None,
    )


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
        f'{line.what:<58}{_number(line.measured):>8}   {line.wanted}{marks[line.is_reached]}'
        for line in lines_of(scores)
    )


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
    pictures = draw_metrics(
        folder, monte_carlo=scores.frames, single_pass=scores.frames_single_pass
    )
    rows = [item for item in scores.subjects if item.selective is not None]
    title = ''
    if len(rows) > DRAWN_SUBJECTS:
        title = f'The {DRAWN_SUBJECTS} of {len(rows)} people read worst'
        rows = sorted(rows, key=lambda item: item.accuracy or 0.0)[:DRAWN_SUBJECTS]
    figure = new_figure(width=7.0, height=1.6 + 0.3 * len(rows))
    plot_subjects(
        figure.axes[0],
        names=[item.subject for item in rows],
        accuracy=[item.accuracy or 0.0 for item in rows],
        coverage=[item.selective.coverage for item in rows if item.selective is not None],
        risk=[
            item.selective.risk or 0.0 for item in rows if item.selective is not None
        ],
        title=title,
    )
    share_legend(figure)
    save_figure(figure, folder / 'subjects.png')
    pictures += (folder / 'subjects.png',)
    if scores.false_alarms:
        figure = new_figure(width=7.0, height=1.6 + 0.35 * len(scores.false_alarms))
        plot_false_alarms(
            figure.axes[0],
            names=[f'{item.source}, {item.kind}' for item in scores.false_alarms],
            shares=[item.classes for item in scores.false_alarms],
            classes=scores.classes,
            most=FALSE_ALARMS,
        )
        save_figure(figure, folder / 'false_alarms.png')
        pictures += (folder / 'false_alarms.png',)
    text_path.write_text(_markdown(scores, title, command, pictures), 'utf-8')
    return (json_path, text_path, *pictures)


COMPARISON_COLUMNS = (
    'lowest clip recall', 'clip macro F1', 'frame macro F1', 'coverage', 'CONFIDENT wrong', 'ECE',
    'NLL samples', 'NLL one pass', 'NLL samples, all frames', 'NLL one pass, all frames', 'AURC',
    'AUROC entropy', 'AUROC mutual information',
)


def compare_streaming(runs: Sequence[tuple[str, StreamingScores]]) -> str:
    """Make a Markdown table with a row for each name: mean ± deviation over its runs (seeds).

    Of a single run there is no deviation. Raises ValueError if there is no run.
    """
    if not runs:
        raise ValueError('there are no runs to compare')
    names = list(dict.fromkeys(name for name, _ in runs))
    sources = list(
        dict.fromkeys(
            item.source for _, scores in runs for item in scores.false_alarms
            if item.kind == 'all'
        )
    )
    columns = (*COMPARISON_COLUMNS, *(f'false alarms, {source}' for source in sources), 'seeds')
    rows = []
    for name in names:
        own = [_comparison_row(scores, sources) for other, scores in runs if other == name]
        cells = [_mean_and_deviation(values) for values in zip(*own, strict=True)]
        rows.append(f'| {name} | ' + ' | '.join([*cells, str(len(own))]) + ' |')
    header = '| network | ' + ' | '.join(columns) + ' |\n|' + '---|' * (len(columns) + 1)
    return '\n'.join([header, *rows]) + '\n'


def _comparison_row(scores: StreamingScores, sources: Sequence[str]) -> list[float | None]:
    recalls = [item.recall for item in scores.clips.per_class if item.recall is not None]
    alarms = {item.source: item.wrong for item in scores.false_alarms if item.kind == 'all'}
    detection = scores.frames.error_detection_auroc
    return [
        min(recalls),
        scores.clips.macro_f1,
        scores.frames.macro_f1,
        scores.selective_frames.coverage,
        scores.selective_frames.risk,
        scores.frames.expected_calibration_error,
        scores.likelihoods.calibrated_monte_carlo,
        scores.likelihoods.calibrated_single_pass,
        scores.likelihoods_of_everything.calibrated_monte_carlo,
        scores.likelihoods_of_everything.calibrated_single_pass,
        scores.frames.area_under_risk_coverage,
        detection.predictive_entropy,
        detection.mutual_information,
        *(alarms.get(source) for source in sources),
    ]


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return '-'
    mean = f'{np.mean(known):.3f}'
    return mean if len(known) == 1 else f'{mean} ± {np.std(known, ddof=1):.3f}'


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
        f'| {line.what} | {_number(line.measured)} | {line.wanted} | {marks[line.is_reached]} |'
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
            _number(item.temperature),
            _number(item.abstention_threshold),
            str(item.frames),
            _number(item.accuracy),
            *(_number(item.clip_recall.get(name)) for name in shown),
            _number(None if selective is None else selective.coverage),
            _number(None if selective is None else selective.risk),
            _number(item.expected_calibration_error),
            _number(item.false_alarms),
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
        f'| {item.lower:.2f} to {item.upper:.2f} | {_number(item.count / scores.frames.count)} '
        f'| {_number(item.confidence)} | {_number(item.accuracy)} |'
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
            f'| {alarm.source} | {alarm.kind} | {alarm.seconds:.1f} | {_number(alarm.confident)} '
            f'| {_number(alarm.wrong)} | {named} |'
        )
    lines += ['', '## Pictures', '']
    lines += [f'![{path.stem.replace("_", " ")}]({path.name})' for path in pictures]
    return '\n'.join(lines) + '\n'


def _number(value: float | None) -> str:
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


def _recalls(right: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    return {
        classes[label]: float(right[labels == label].mean()) for label in np.unique(labels)
    }
