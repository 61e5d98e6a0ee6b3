# SPDX-License-Identifier: Apache-2.0
"""The metrics of recognition and of its uncertainty: the one place where they are computed.

Needs numpy and scikit-learn, neither ROS nor torch. What scikit-learn has is taken from there;
the calibration error and the risk-coverage curve are computed here.

Shapes: M answers, C classes, S Monte Carlo samples.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.metrics import (
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from fer_perception.uncertainty.measures import Uncertainty, entropy, measure_uncertainty

RELIABILITY_BINS = 15
COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of accuracy at coverage
CURVE_POINTS = 100  # of the risk-coverage curve: 1 % to 100 % of the answers

# Each row's sum may be this far from 1: half-precision probabilities pass, logits do not.
SUM_TOLERANCE = 2e-3


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """Hold the scores of one class; they are None where no label is of that class."""

    label: str
    support: int  # labels of this class
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Hold one bin of the reliability diagram: confidences above `lower`, up to `upper`."""

    lower: float
    upper: float
    count: int  # answers in the bin
    confidence: float | None  # mean confidence, None for an empty bin
    accuracy: float | None  # share of right answers, None for an empty bin


@dataclass(frozen=True, kw_only=True)
class CoveragePoint:
    """Hold the risk when only the most confident answers are given."""

    coverage: float  # share of the answers that are given, above 0 to 1
    risk: float  # share of the given answers that are wrong


@dataclass(frozen=True, kw_only=True)
class ErrorDetection:
    """Hold the AUROC of telling wrong from right answers, 0.5 being chance.

    None where every answer is right, or every one wrong; the last two also where neither samples
    nor their uncertainty are given.
    """

    one_minus_confidence: float | None
    predictive_entropy: float | None
    mutual_information: float | None
    standard_deviation: float | None  # of the most probable class over the samples


@dataclass(frozen=True, kw_only=True)
class SampleMetrics:
    """Compare single Monte Carlo samples with the ensemble of all of them."""

    accuracies: tuple[float, ...]  # (S,) of each sample on its own
    mean: float
    standard_deviation: float  # of the S accuracies, divisor S
    ensemble_accuracy: float  # of the mean of the samples' probabilities


@dataclass(frozen=True, kw_only=True)
class RecognitionMetrics:
    """Hold every metric of M answers; see `measure_recognition` for their definitions."""

    classes: tuple[str, ...]
    count: int  # M
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    per_class: tuple[ClassMetrics, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]  # rows: labels, columns: answers
    expected_calibration_error: float  # 0 to 1
    reliability: tuple[ReliabilityBin, ...]
    negative_log_likelihood: float  # nats
    brier_score: float  # 0 to 2
    area_under_risk_coverage: float  # 0 to 1
    risk_coverage: tuple[CoveragePoint, ...]
    accuracy_at_coverage: dict[str, float]  # '0.5' to '1.0'
    error_detection_auroc: ErrorDetection
    samples: SampleMetrics | None  # None for a single pass

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON takes it: None for what is not defined, never NaN."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SelectiveScores:
    """Say what becomes of answers when only CONFIDENT ones count."""

    coverage: float  # share of the answers that are CONFIDENT
    risk: float | None  # share of the CONFIDENT ones that are wrong, None where there is none


def measure_selective(is_confident: np.ndarray, is_right: np.ndarray) -> SelectiveScores:
    """Measure what only the CONFIDENT answers are worth; both (M,) bool, M > 0."""
    return SelectiveScores(
        coverage=float(is_confident.mean()),
        risk=float((~is_right[is_confident]).mean()) if is_confident.any() else None,
    )


def measure_recognition(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    samples: np.ndarray | None = None,
    uncertainty: Uncertainty | None = None,
) -> RecognitionMetrics:
    """Measure answers against labels.

    probabilities: (M, C), each row summing to 1; labels: (M,) whole numbers, indices into
    `classes`; samples: (S, M, C), what the probabilities are the mean of, for the metrics that
    need single samples; uncertainty: what was measured of such samples, batch shape (M,), where
    they themselves were not kept. The answer is the most probable class, its probability the
    confidence.

    - Labels may be only some of the classes. Balanced accuracy (mean recall) and macro F1 are
      means over the classes that occur in the labels; the scores of the others are None.
    - Expected calibration error: 15 bins of equal width, sum of M_b / M |accuracy_b -
      confidence_b| (Guo et al., "On Calibration of Modern Neural Networks", 2017).
    - Brier score: mean over the answers of the sum over the classes of (p_k - y_k)^2.
    - Negative log-likelihood: of the label; scikit-learn takes no probability for less than
      the smallest step of float64, so one hopeless answer costs 36 nats, not infinity.
    - Area under the risk-coverage curve: mean over i = 1..M of the risk of the i most confident
      answers (Geifman et al., "Bias-Reduced Uncertainty Estimation", 2019). Of equally
      confident answers each is as likely to come first, so the order of the input is of no
      account.

    Raises ValueError if shapes do not match, there are no answers, fewer than two classes,
    a label is out of range, a row is no distribution, or both samples and their uncertainty are
    given.
    """
    if samples is not None and uncertainty is not None:
        raise ValueError('give the samples or their uncertainty, not both')
    classes = tuple(classes)
    probabilities = _distributions('probabilities', probabilities, (len(labels), len(classes)))
    labels = _checked_labels(labels, len(classes))
    predicted = probabilities.argmax(-1)
    confidence = probabilities.max(-1)
    right = predicted == labels
    present = np.unique(labels)
    every_class = np.arange(len(classes))
    reliability = reliability_bins(confidence, right)
    risks = selective_risks(confidence, right)
    if samples is not None:
        shape = (len(samples), *probabilities.shape)
        uncertainty = measure_uncertainty(_distributions('samples', samples, shape))
    return RecognitionMetrics(
        classes=classes,
        count=len(labels),
        accuracy=float(right.mean()),
        balanced_accuracy=float(
            recall_score(labels, predicted, labels=present, average='macro', zero_division=0)
        ),
        macro_f1=float(
            f1_score(labels, predicted, labels=present, average='macro', zero_division=0)
        ),
        per_class=_class_metrics(labels, predicted, classes),
        confusion_matrix=tuple(
            tuple(row)
            for row in confusion_matrix(labels, predicted, labels=every_class).tolist()
        ),
        expected_calibration_error=expected_calibration_error(reliability),
        reliability=reliability,
        negative_log_likelihood=float(log_loss(labels, probabilities, labels=every_class)),
        brier_score=float(
            brier_score_loss(labels, probabilities, labels=every_class, scale_by_half=False)
        ),
        area_under_risk_coverage=float(risks.mean()),
        risk_coverage=_risk_coverage(risks),
        accuracy_at_coverage={
            str(coverage): 1.0 - _risk_at(risks, coverage) for coverage in COVERAGES
        },
        error_detection_auroc=_error_detection(probabilities, right, uncertainty),
        samples=None if samples is None else _sample_metrics(samples, labels),
    )


def reliability_bins(confidence: np.ndarray, right: np.ndarray) -> tuple[ReliabilityBin, ...]:
    """Sort answers into 15 bins of equal width by their confidence.

    confidence: (M,) 0 to 1; right: (M,) bool. A confidence on an edge is in the lower bin.
    """
    edges = np.linspace(0.0, 1.0, RELIABILITY_BINS + 1)
    index = np.digitize(confidence, edges[1:-1], right=True)  # (M,) 0 to 14
    bins = []
    for number in range(RELIABILITY_BINS):
        inside = index == number
        count = int(inside.sum())
        bins.append(
            ReliabilityBin(
                lower=float(edges[number]),
                upper=float(edges[number + 1]),
                count=count,
                confidence=float(confidence[inside].mean()) if count else None,
                accuracy=float(right[inside].mean()) if count else None,
            )
        )
    return tuple(bins)


def pool_reliability(runs: Sequence[Sequence[ReliabilityBin]]) -> tuple[ReliabilityBin, ...]:
    """Pool the bins of several runs into those of all their answers together."""

    def mean(bins: Sequence[ReliabilityBin], values: Sequence[float | None]) -> float | None:
        count = sum(item.count for item in bins)
        terms = zip(bins, values, strict=True)
        return sum(item.count * (value or 0.0) for item, value in terms) / count if count else None

    return tuple(
        ReliabilityBin(
            lower=bins[0].lower,
            upper=bins[0].upper,
            count=sum(item.count for item in bins),
            confidence=mean(bins, [item.confidence for item in bins]),
            accuracy=mean(bins, [item.accuracy for item in bins]),
        )
        for bins in zip(*runs, strict=True)
    )


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Compute the mean gap between accuracy and confidence, each bin weighted by its count."""
    gaps = [
        item.count * abs(item.accuracy - item.confidence)
        for item in bins
        if item.accuracy is not None and item.confidence is not None
    ]
    return sum(gaps) / sum(item.count for item in bins)


def selective_risks(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute the risk of the i most confident answers for i = 1..M.

    confidence: (M,); right: (M,) bool. Returns (M,), 0 to 1. Among equally confident answers it
    is the expected risk over their orders: errors grow linearly through such a group.
    """
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = np.bincount(group, weights=~right, minlength=len(sizes))
    answers_at_ends = np.concatenate([[0], sizes.cumsum()])
    errors_at_ends = np.concatenate([[0], errors.cumsum()])
    answers = np.arange(1, len(confidence) + 1)
    return np.asarray(np.interp(answers, answers_at_ends, errors_at_ends) / answers)


def _risk_at(risks: np.ndarray, coverage: float) -> float:
    """Return the risk of the most confident answers that make up at least this share."""
    given = max(1, int(np.ceil(coverage * len(risks) - 1e-9)))
    return float(risks[given - 1])


def _risk_coverage(risks: np.ndarray) -> tuple[CoveragePoint, ...]:
    coverages = np.arange(1, CURVE_POINTS + 1) / CURVE_POINTS
    return tuple(
        CoveragePoint(coverage=float(coverage), risk=_risk_at(risks, coverage))
        for coverage in coverages
    )


def _class_metrics(
    labels: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]
) -> tuple[ClassMetrics, ...]:
    scores = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(classes)), zero_division=0
    )
    return tuple(
        ClassMetrics(
            label=label,
            support=int(support),
            precision=float(precision) if support else None,
            recall=float(recall) if support else None,
            f1=float(f1) if support else None,
        )
        for label, precision, recall, f1, support in zip(classes, *scores, strict=True)
    )


def _error_detection(
    probabilities: np.ndarray, right: np.ndarray, uncertainty: Uncertainty | None
) -> ErrorDetection:
    def auroc(score: np.ndarray) -> float | None:
        return None if right.all() or not right.any() else float(roc_auc_score(~right, score))

    information = deviation = None
    if uncertainty is not None:
        top = probabilities.argmax(-1)
        information = auroc(uncertainty.mutual_information)
        deviation = auroc(uncertainty.standard_deviations[np.arange(len(top)), top])
    return ErrorDetection(
        one_minus_confidence=auroc(1.0 - probabilities.max(-1)),
        predictive_entropy=auroc(entropy(probabilities)),
        mutual_information=information,
        standard_deviation=deviation,
    )


def _sample_metrics(samples: np.ndarray, labels: np.ndarray) -> SampleMetrics:
    accuracies = (samples.argmax(-1) == labels).mean(-1)  # (S, M) -> (S,)
    ensemble = samples.mean(0, dtype=np.float64).argmax(-1)  # (M,)
    return SampleMetrics(
        accuracies=tuple(accuracies.tolist()),
        mean=float(accuracies.mean()),
        standard_deviation=float(accuracies.std()),
        ensemble_accuracy=float((ensemble == labels).mean()),
    )


def _distributions(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Check probabilities and return them in float64, rows summing to 1 exactly."""
    if values.shape != shape or not values.size:
        raise ValueError(f'{name} must have the shape {shape} and not be empty: {values.shape}')
    values = values.astype(np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f'{name} must be at least 0 and finite, but some are not')
    sums = values.sum(-1, keepdims=True)
    if (np.abs(sums - 1.0) > SUM_TOLERANCE).any():
        raise ValueError(f'every row of {name} must sum to 1, but one sums to {_worst(sums)}')
    return np.asarray(values / sums)


def _worst(sums: np.ndarray) -> float:
    return float(sums.flat[np.abs(sums - 1.0).argmax()])


def _checked_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    if classes < 2:
        raise ValueError(f'there must be at least two classes, not {classes}')
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f'labels must be (M,) whole numbers, not {labels.shape} {labels.dtype}')
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f'labels must be 0 to {classes - 1}, not {labels.min()} to {labels.max()}'
        )
    return labels
