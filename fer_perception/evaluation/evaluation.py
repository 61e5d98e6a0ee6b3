# SPDX-License-Identifier: Apache-2.0
"""The result of an evaluation: everything that its report says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fer_perception.assets import AssetError
from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.named_metrics import NamedMetric, metrics_of
from fer_perception.evaluation.played_images import NodeError
from fer_perception.evaluation.recording_files import RecordingFile
from fer_perception.evaluation.scoring import StreamScores, score
from fer_perception.evaluation.thresholds import (
    Threshold,
    ThresholdResult,
    apply_thresholds,
    check_thresholds,
)
from fer_perception.evaluation.untrusted_text import one_line
from fer_perception.sources import SourceError

# What says by itself what is wrong; of other errors the kind is told as well.
CLEAR_ERRORS = (AssetError, NodeError, OSError, SourceError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Say why a recording could not be evaluated."""

    name: str
    error: str  # one line


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Hold the recordings that were evaluated, their scores, and those that could not be."""

    live: bool
    settings: Mapping[str, Any]  # what was asked, for JSON
    recordings: tuple[LabelledRecording, ...]
    scores: tuple[StreamScores, ...]  # of each recording
    pooled: StreamScores  # of all of them
    metrics: tuple[NamedMetric, ...]
    thresholds: tuple[ThresholdResult, ...]  # of the pooled scores
    failures: tuple[Failure, ...]


def attempt(
    read: Callable[[RecordingFile], LabelledRecording], file: RecordingFile
) -> LabelledRecording | Failure:
    """Read a recording; whatever is wrong with it is told and ends nothing."""
    try:
        return read(file)
    except CLEAR_ERRORS as error:
        text = str(error)
    except Exception as error:
        text = f'{type(error).__name__}: {error}'
    return Failure(name=file.name, error=one_line(text))


def evaluate(
    outcomes: Sequence[LabelledRecording | Failure],
    *,
    live: bool,
    settings: Mapping[str, Any],
    thresholds: Sequence[Threshold],
) -> Evaluation:
    """Score what was recorded.

    Raises ValueError if the recordings were answered with different classes, ThresholdError for a
    threshold of a class that the model does not know.
    """
    recordings = tuple(item for item in outcomes if isinstance(item, LabelledRecording))
    pooled = score(recordings)
    every_classes = [item.observations.classes for item in recordings]
    classes = next(filter(None, every_classes), ())
    check_thresholds(thresholds, classes=classes or None, live=live)
    return Evaluation(
        live=live,
        settings=settings,
        recordings=recordings,
        scores=tuple(score([item]) for item in recordings),
        pooled=pooled,
        metrics=metrics_of(classes=classes, live=live),
        thresholds=apply_thresholds(thresholds, pooled),
        failures=tuple(item for item in outcomes if isinstance(item, Failure)),
    )
