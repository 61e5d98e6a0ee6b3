# SPDX-License-Identifier: Apache-2.0
"""Scores of a streaming model on tracks: frames, clips, people and what shows no expression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fer_perception.evaluation.metrics import (
    RecognitionMetrics,
    SelectiveScores,
    measure_recognition,
    measure_selective,
)
from fer_training.frame_calibration import FrameCalibration
from fer_training.frame_predictions import FramePredictions, pool_clips, scored_frames


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


def _recalls(right: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    return {
        classes[label]: float(right[labels == label].mean()) for label in np.unique(labels)
    }
