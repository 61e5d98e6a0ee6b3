# SPDX-License-Identifier: Apache-2.0
"""All scores of one recording, or of several pooled: every scored answer counts the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fer_perception.evaluation.flips import Flips, measure_flips, pool_flips
from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.metrics import (
    RecognitionMetrics,
    SelectiveScores,
    measure_recognition,
    measure_selective,
)
from fer_perception.evaluation.played_images import LiveScores, measure_live
from fer_perception.evaluation.time_to_detect import (
    DetectionTimes,
    SegmentDetection,
    detect_segments,
    summarize_detections,
)
from fer_perception.uncertainty.estimate import ExpressionState
from fer_perception.uncertainty.measures import Uncertainty


@dataclass(frozen=True, kw_only=True)
class FaceCoverage:
    """Say in how many of the labelled images the labelled face was found."""

    labelled: int  # images with a label, once for each face that has a label of its own
    without_face: int  # those of them in which it was not found
    coverage: float | None  # share in which it was found, None without labelled images


@dataclass(frozen=True, kw_only=True)
class StateCount:
    """Say how many of the answers with a label were in one state."""

    count: int
    share: float | None  # of the answers with a label in any state


@dataclass(frozen=True, kw_only=True)
class FalseAlarms:
    """Say how much of the time a wrong class was CONFIDENT; an image stands for its time."""

    share: float  # of the scored answers
    classes: dict[str, float]  # share in which each of the classes was it wrongly


@dataclass(frozen=True, kw_only=True)
class StreamScores:
    """Hold every score; those of which nothing could be measured are None."""

    scored: int  # answers after the warm-up with a label
    faces: FaceCoverage
    states: dict[str, StateCount]  # of the answers with a label, by the state's name
    abstention_rate: float | None  # share of the scored answers that are not CONFIDENT
    selective: SelectiveScores | None
    false_alarms: FalseAlarms | None
    recognition: RecognitionMetrics | None
    flips: Flips
    detection: DetectionTimes
    live: LiveScores | None  # None offline


def score(recordings: Sequence[LabelledRecording]) -> StreamScores:
    """Score recordings together.

    Raises ValueError if they were answered by models of different classes.
    """
    every_classes = {item.observations.classes for item in recordings} - {()}
    if len(every_classes) > 1:
        raise ValueError(f'the recordings were answered with different classes: {every_classes}')
    classes = next(iter(every_classes), ())
    counts = [item.count_faces() for item in recordings]
    labelled, without = (sum(item[place] for item in counts) for place in (0, 1))
    played = [item.played for item in recordings if item.played is not None]
    scored = [item for item in recordings if item.is_scored.any()]
    selective = alarms = recognition = None
    if scored:
        answer = _pool(scored, lambda item: item.answer)
        is_right = answer == _pool(scored, lambda item: item.target)
        is_confident = _pool(scored, lambda item: item.is_confident)
        selective = measure_selective(is_confident, is_right)
        alarms = _false_alarms(answer, is_confident & ~is_right, classes)
        recognition = _recognition(scored, classes)
    return StreamScores(
        scored=recognition.count if recognition else 0,
        faces=FaceCoverage(
            labelled=labelled,
            without_face=without,
            coverage=1 - without / labelled if labelled else None,
        ),
        states=_count_states(recordings),
        abstention_rate=1 - selective.coverage if selective else None,
        selective=selective,
        false_alarms=alarms,
        recognition=recognition,
        flips=pool_flips([_flips(item) for item in recordings]),
        detection=summarize_detections(
            [detection for item in recordings for detection in detections(item)]
        ),
        live=measure_live(played) if played else None,
    )


def detections(recording: LabelledRecording) -> tuple[SegmentDetection, ...]:
    """Find when each labelled segment of a recording was detected."""
    return detect_segments(
        recording.labels,
        segment=recording.segment,
        face=recording.observations.face,
        time_s=recording.observations.time_s,
        is_detection=recording.is_confident & (recording.answer == recording.target),
    )


def _flips(recording: LabelledRecording) -> Flips:
    warm = recording.observations.is_warm
    return measure_flips(
        face=recording.observations.face[warm],
        time_s=recording.observations.time_s[warm],
        answer=recording.answer[warm],
        is_confident=recording.is_confident[warm],
        label=recording.target[warm],
    )


def _count_states(recordings: Sequence[LabelledRecording]) -> dict[str, StateCount]:
    counts = np.zeros(len(ExpressionState), np.int64)
    for item in recordings:
        labelled = item.observations.state[item.segment >= 0]
        counts += np.bincount(labelled, minlength=len(ExpressionState))
    total = int(counts.sum())
    return {
        state.name: StateCount(
            count=int(counts[state]), share=float(counts[state] / total) if total else None
        )
        for state in ExpressionState
    }


def _false_alarms(
    answer: np.ndarray, is_alarm: np.ndarray, classes: tuple[str, ...]
) -> FalseAlarms:
    counts = np.bincount(answer[is_alarm], minlength=len(classes))
    return FalseAlarms(
        share=float(is_alarm.mean()),
        classes={
            name: float(count / len(answer))
            for name, count in zip(classes, counts, strict=True)
            if count
        },
    )


def _recognition(
    recordings: Sequence[LabelledRecording], classes: tuple[str, ...]
) -> RecognitionMetrics:
    probabilities = _pool(recordings, lambda item: item.observations.probabilities)
    return measure_recognition(
        probabilities,
        _pool(recordings, lambda item: item.target),
        classes=classes,
        uncertainty=Uncertainty(
            probabilities=probabilities,
            standard_deviations=_pool(
                recordings, lambda item: item.observations.standard_deviations
            ),
            predictive_entropy=_pool(
                recordings, lambda item: item.observations.predictive_entropy
            ),
            expected_entropy=_pool(recordings, lambda item: item.observations.expected_entropy),
            mutual_information=_pool(
                recordings, lambda item: item.observations.mutual_information
            ),
            mc_samples=max(int(item.observations.mc_samples.max()) for item in recordings),
        ),
    )


def _pool(
    recordings: Sequence[LabelledRecording], values: Callable[[LabelledRecording], np.ndarray]
) -> np.ndarray:
    """Put the values (M, ...) of all scored answers together."""
    return np.concatenate([values(item)[item.is_scored] for item in recordings])
