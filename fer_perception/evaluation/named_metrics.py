# SPDX-License-Identifier: Apache-2.0
"""Every metric by a name: what reports show first, and what thresholds may be set for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fer_perception.evaluation.metrics import ErrorDetection, RecognitionMetrics
from fer_perception.evaluation.played_images import LiveScores
from fer_perception.evaluation.scoring import StreamScores


@dataclass(frozen=True)
class NamedMetric:
    """Say what a metric is and where it lies among the scores."""

    name: str
    meaning: str  # with unit or range
    value: Callable[[StreamScores], float | None]
    live_only: bool = False


def _of_recognition(
    value: Callable[[RecognitionMetrics], float],
) -> Callable[[StreamScores], float | None]:
    return lambda scores: None if scores.recognition is None else value(scores.recognition)


def _of_errors(
    value: Callable[[ErrorDetection], float | None],
) -> Callable[[StreamScores], float | None]:
    return lambda scores: (
        None if scores.recognition is None else value(scores.recognition.error_detection_auroc)
    )


def _of_live(
    value: Callable[[LiveScores], float | None],
) -> Callable[[StreamScores], float | None]:
    return lambda scores: None if scores.live is None else value(scores.live)


METRICS = (
    NamedMetric('scored', 'scored answers', lambda s: s.scored),
    NamedMetric(
        'accuracy', 'share of the scored answers that are right',
        _of_recognition(lambda r: r.accuracy),
    ),
    NamedMetric(
        'balanced_accuracy', 'mean recall over the labelled classes',
        _of_recognition(lambda r: r.balanced_accuracy),
    ),
    NamedMetric(
        'macro_f1', 'mean F1 over the labelled classes', _of_recognition(lambda r: r.macro_f1)
    ),
    NamedMetric(
        'expected_calibration_error', 'mean gap of confidence and accuracy, 15 bins',
        _of_recognition(lambda r: r.expected_calibration_error),
    ),
    NamedMetric(
        'negative_log_likelihood', 'of the label, nats',
        _of_recognition(lambda r: r.negative_log_likelihood),
    ),
    NamedMetric('brier_score', '0 to 2', _of_recognition(lambda r: r.brier_score)),
    NamedMetric(
        'area_under_risk_coverage', '0 to 1',
        _of_recognition(lambda r: r.area_under_risk_coverage),
    ),
    NamedMetric(
        'auroc_one_minus_confidence', 'finding the wrong answers by it, 0.5 is chance',
        _of_errors(lambda e: e.one_minus_confidence),
    ),
    NamedMetric(
        'auroc_predictive_entropy', 'the same', _of_errors(lambda e: e.predictive_entropy)
    ),
    NamedMetric(
        'auroc_mutual_information', 'the same', _of_errors(lambda e: e.mutual_information)
    ),
    NamedMetric(
        'auroc_standard_deviation', 'the same', _of_errors(lambda e: e.standard_deviation)
    ),
    NamedMetric(
        'coverage', 'share of the scored answers that are CONFIDENT',
        lambda s: None if s.selective is None else s.selective.coverage,
    ),
    NamedMetric(
        'abstention_rate', 'share of the scored answers that are not', lambda s: s.abstention_rate
    ),
    NamedMetric(
        'risk', 'share of the CONFIDENT answers that are wrong',
        lambda s: None if s.selective is None else s.selective.risk,
    ),
    NamedMetric(
        'false_alarm_rate', 'share of the scored time CONFIDENT in a wrong class',
        lambda s: None if s.false_alarms is None else s.false_alarms.share,
    ),
    NamedMetric(
        'warming_up_rate', 'share of the labelled answers that are WARMING_UP',
        lambda s: s.states['WARMING_UP'].share,
    ),
    NamedMetric(
        'face_coverage', 'share of the labelled images in which the labelled face was found',
        lambda s: s.faces.coverage,
    ),
    NamedMetric(
        'flips_per_minute', 'changes from one answer to the next of a face',
        lambda s: s.flips.answers_per_minute,
    ),
    NamedMetric(
        'confident_flips_per_minute', 'changes from one CONFIDENT answer to the next of a face',
        lambda s: s.flips.confident_per_minute,
    ),
    NamedMetric(
        'label_changes_per_minute', 'changes of the label: flips that are right',
        lambda s: s.flips.labels_per_minute,
    ),
    NamedMetric(
        'time_to_detect_median_s',
        'from the start of a labelled segment to its first CONFIDENT right answer',
        lambda s: s.detection.median_s,
    ),
    NamedMetric('time_to_detect_p95_s', 'the same', lambda s: s.detection.p95_s),
    NamedMetric('time_to_detect_longest_s', 'the same', lambda s: s.detection.longest_s),
    NamedMetric(
        'missed_segments', 'labelled segments without a CONFIDENT right answer',
        lambda s: s.detection.missed,
    ),
    NamedMetric(
        'missed_segment_rate', 'share of the labelled segments', lambda s: s.detection.missed_rate
    ),
    NamedMetric(
        'drop_rate', 'share of the sent images that were not answered',
        _of_live(lambda p: p.drop_rate), live_only=True,
    ),
    NamedMetric(
        'latency_p50_ms', 'receipt of the answer minus sending of the image',
        _of_live(lambda p: p.latency_p50_ms), live_only=True,
    ),
    NamedMetric(
        'latency_p95_ms', 'the same', _of_live(lambda p: p.latency_p95_ms), live_only=True
    ),
    NamedMetric(
        'latency_p99_ms', 'the same', _of_live(lambda p: p.latency_p99_ms), live_only=True
    ),
    NamedMetric(
        'latency_longest_ms', 'the same',
        _of_live(lambda p: p.latency_longest_ms), live_only=True,
    ),
)


CLASS_FIELDS = ('recall', 'precision', 'f1')


def class_metrics(label: str) -> tuple[NamedMetric, ...]:
    """Make the metrics of one class, recall.LABEL and so on; None where nothing is labelled so."""

    def value(field: str) -> Callable[[StreamScores], float | None]:
        def of(scores: StreamScores) -> float | None:
            for item in scores.recognition.per_class if scores.recognition else ():
                if item.label == label:
                    found: float | None = getattr(item, field)
                    return found
            return None

        return of

    return tuple(
        NamedMetric(f'{field}.{label}', f'of {label}', value(field)) for field in CLASS_FIELDS
    )


def metrics_of(*, classes: Sequence[str], live: bool) -> tuple[NamedMetric, ...]:
    """List every metric of a model with these classes, in the order of a report."""
    general = tuple(item for item in METRICS if live or not item.live_only)
    return general + tuple(item for label in classes for item in class_metrics(label))


def find_metric(name: str) -> NamedMetric | None:
    """Find a metric by its name, recall.LABEL and so on for any label; None if there is none."""
    field, _, label = name.partition('.')
    known = class_metrics(label) if label and field in CLASS_FIELDS else METRICS
    return next((item for item in known if item.name == name), None)
