# SPDX-License-Identifier: Apache-2.0
"""Metrics equal direct computations, hold in known cases and do not depend on the order."""

import json
import math
import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_perception.evaluation.metrics import (
    RecognitionMetrics,
    expected_calibration_error,
    measure_recognition,
    pool_reliability,
    reliability_bins,
    selective_risks,
)
from fer_perception.uncertainty.measures import measure_uncertainty

CLASSES = ('neutral', 'anger', 'fear', 'happiness')


def drawn_samples(*, seed: int = 1, samples: int = 12, answers: int = 60) -> np.ndarray:
    """Draw Dirichlet samples about a distribution of each answer: (S, M, 4)."""
    random = np.random.default_rng(seed)
    centres = random.dirichlet(np.full(4, 0.5), answers) + 0.02  # (M, 4)
    drawn = random.gamma(np.broadcast_to(20 * centres, (samples, answers, 4))) + 1e-9
    return np.asarray(drawn / drawn.sum(-1, keepdims=True))


def drawn_labels(*, seed: int = 2, answers: int = 60, highest: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, highest, answers)


def measured(*, highest: int = 4) -> tuple[np.ndarray, np.ndarray, RecognitionMetrics]:
    samples, labels = drawn_samples(), drawn_labels(highest=highest)
    return samples, labels, measure_recognition(
        samples.mean(0), labels, classes=CLASSES, samples=samples
    )


def slow_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    total = 0.0
    for number in range(15):
        inside = [
            index
            for index, value in enumerate(confidence)
            if number / 15 < value <= (number + 1) / 15
        ]
        if inside:
            accuracy = sum(bool(right[index]) for index in inside) / len(inside)
            mean = sum(float(confidence[index]) for index in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


def slow_risks(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Average over all orders of the answers that go from confident to less so."""
    orders = [
        order
        for order in permutations(range(len(right)))
        if all(confidence[a] >= confidence[b] for a, b in zip(order, order[1:], strict=False))
    ]
    risks = [
        [sum(not right[index] for index in order[:given_]) / given_
         for given_ in range(1, len(right) + 1)]
        for order in orders
    ]
    return np.mean(risks, axis=0)


def pairwise_auroc(score: np.ndarray, wrong: np.ndarray) -> float:
    pairs = [(a > b) + 0.5 * (a == b) for a in score[wrong] for b in score[~wrong]]
    return float(np.mean(pairs))


def test_each_metric_equals_its_direct_computation() -> None:
    samples, labels, metrics = measured()
    mean = samples.mean(0)
    answers, confidence = mean.argmax(-1), mean.max(-1)
    right = answers == labels
    rows = range(len(labels))
    assert metrics.count == 60
    assert metrics.accuracy == pytest.approx(sum(right) / 60)
    assert metrics.negative_log_likelihood == pytest.approx(
        -sum(math.log(mean[row, labels[row]]) for row in rows) / 60
    )
    assert metrics.brier_score == pytest.approx(
        sum((mean[row, k] - (labels[row] == k)) ** 2 for row in rows for k in range(4)) / 60
    )
    recalls, scores = [], []
    for k, item in enumerate(metrics.per_class):
        both = sum((labels == k) & (answers == k))
        assert item.label == CLASSES[k]
        assert item.support == sum(labels == k)
        assert item.recall == pytest.approx(both / sum(labels == k))
        assert item.precision == pytest.approx(both / sum(answers == k))
        assert item.f1 == pytest.approx(2 * both / (sum(labels == k) + sum(answers == k)))
        assert item.recall is not None and item.f1 is not None
        recalls.append(item.recall)
        scores.append(item.f1)
        for other in range(4):
            assert metrics.confusion_matrix[k][other] == sum((labels == k) & (answers == other))
    assert metrics.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert metrics.macro_f1 == pytest.approx(np.mean(scores))
    assert metrics.expected_calibration_error == pytest.approx(
        slow_calibration_error(confidence, right)
    )
    order = np.argsort(-confidence)
    risks = [sum(~right[order[:given_]]) / given_ for given_ in range(1, 61)]
    assert metrics.area_under_risk_coverage == pytest.approx(sum(risks) / 60)
    assert metrics.accuracy_at_coverage['0.7'] == pytest.approx(right[order[:42]].mean())
    assert metrics.accuracy_at_coverage['1.0'] == pytest.approx(metrics.accuracy)
    assert metrics.risk_coverage[49].coverage == 0.5
    assert metrics.risk_coverage[49].risk == pytest.approx(risks[29])


def test_errors_are_detected_by_each_measure_of_uncertainty() -> None:
    samples, labels, metrics = measured()
    mean = samples.mean(0)
    wrong = mean.argmax(-1) != labels
    entropy = -(mean * np.log(mean)).sum(-1)
    information = entropy + (samples * np.log(samples)).sum(-1).mean(0)
    deviation = samples.std(0)[np.arange(60), mean.argmax(-1)]
    auroc = metrics.error_detection_auroc
    assert auroc.one_minus_confidence == pytest.approx(pairwise_auroc(1 - mean.max(-1), wrong))
    assert auroc.predictive_entropy == pytest.approx(pairwise_auroc(entropy, wrong))
    assert auroc.mutual_information == pytest.approx(pairwise_auroc(information, wrong))
    assert auroc.standard_deviation == pytest.approx(pairwise_auroc(deviation, wrong))


def test_single_samples_are_compared_with_their_ensemble() -> None:
    samples, labels, metrics = measured()
    single = metrics.samples
    assert single is not None
    expected = [sum(sample.argmax(-1) == labels) / 60 for sample in samples]
    assert single.accuracies == pytest.approx(expected)
    assert single.mean == pytest.approx(np.mean(expected))
    assert single.standard_deviation == pytest.approx(np.std(expected))
    assert single.ensemble_accuracy == metrics.accuracy


def test_without_samples_their_metrics_are_none() -> None:
    samples, labels, _ = measured()
    metrics = measure_recognition(samples[0], labels, classes=CLASSES)
    assert metrics.samples is None
    assert metrics.error_detection_auroc.mutual_information is None
    assert metrics.error_detection_auroc.standard_deviation is None
    assert metrics.error_detection_auroc.predictive_entropy is not None


def test_a_perfect_predictor() -> None:
    labels = drawn_labels()
    metrics = measure_recognition(np.eye(4)[labels], labels, classes=CLASSES)
    assert metrics.accuracy == metrics.macro_f1 == metrics.balanced_accuracy == 1.0
    assert metrics.expected_calibration_error == metrics.brier_score == 0.0
    assert metrics.area_under_risk_coverage == 0.0
    assert metrics.negative_log_likelihood == pytest.approx(0.0, abs=1e-12)
    assert set(metrics.accuracy_at_coverage.values()) == {1.0}
    assert metrics.error_detection_auroc.one_minus_confidence is None  # there is no error


def test_a_predictor_that_is_surely_wrong() -> None:
    labels = drawn_labels()
    metrics = measure_recognition(np.eye(4)[(labels + 1) % 4], labels, classes=CLASSES)
    assert metrics.accuracy == metrics.macro_f1 == 0.0
    assert metrics.expected_calibration_error == metrics.area_under_risk_coverage == 1.0
    assert metrics.brier_score == 2.0
    assert 30 < metrics.negative_log_likelihood < 40  # finite
    assert metrics.error_detection_auroc.predictive_entropy is None


def test_a_uniform_predictor() -> None:
    labels = np.array([0, 1, 2, 3] * 10)
    metrics = measure_recognition(np.full((40, 4), 0.25), labels, classes=CLASSES)
    assert metrics.accuracy == 0.25  # it answers the first class
    assert metrics.expected_calibration_error == pytest.approx(0.0)
    assert metrics.negative_log_likelihood == pytest.approx(math.log(4))
    assert metrics.brier_score == pytest.approx(0.75)
    # All are equally confident: whichever are given, three of four are wrong.
    assert all(point.risk == pytest.approx(0.75) for point in metrics.risk_coverage)
    assert metrics.error_detection_auroc.one_minus_confidence == pytest.approx(0.5)


def test_two_classes_are_enough() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    metrics = measure_recognition(probabilities, np.array([0, 0, 1]), classes=('no', 'yes'))
    assert metrics.brier_score == pytest.approx((0.02 + 0.72 + 0.18) / 3)
    assert metrics.accuracy == pytest.approx(2 / 3)


def test_labels_may_be_some_of_the_classes() -> None:
    samples, labels, metrics = measured(highest=2)
    absent = metrics.per_class[3]
    assert (absent.support, absent.precision, absent.recall, absent.f1) == (0, None, None, None)
    assert samples.mean(0).argmax(-1).max() == 3  # though the model answers with it
    present = [item.f1 for item in metrics.per_class[:2] if item.f1 is not None]
    assert metrics.macro_f1 == pytest.approx(np.mean(present))
    assert metrics.confusion_matrix[3] == (0, 0, 0, 0)
    one = measure_recognition(samples.mean(0), np.zeros(60, np.int64), classes=CLASSES)
    assert one.balanced_accuracy == pytest.approx(one.accuracy)


def test_a_confidence_on_an_edge_is_in_the_lower_bin() -> None:
    bins = reliability_bins(np.array([0.2, 0.2 + 1e-9, 1.0]), np.array([True, False, True]))
    assert [item.count for item in bins if item.count] == [1, 1, 1]
    assert bins[2].accuracy == 1.0
    assert bins[3].accuracy == 0.0
    assert bins[14].confidence == 1.0
    assert bins[0].confidence is None


def test_pooled_bins_are_those_of_all_answers() -> None:
    random = np.random.default_rng(1)
    confidence, right = random.random(50), random.random(50) < 0.5
    pooled = pool_reliability(
        [reliability_bins(confidence[part], right[part]) for part in (slice(20), slice(20, 50))]
    )
    for mine, direct in zip(pooled, reliability_bins(confidence, right), strict=True):
        assert (mine.lower, mine.upper, mine.count) == (direct.lower, direct.upper, direct.count)
        assert mine.accuracy == pytest.approx(direct.accuracy)
        assert mine.confidence == pytest.approx(direct.confidence)


# Few different values, so that ties are many.
CONFIDENCES = st.lists(
    st.tuples(st.sampled_from([0.2, 0.3, 0.5, 0.8, 1.0]), st.booleans()), min_size=1, max_size=6
)


@settings(max_examples=30, deadline=None)
@given(CONFIDENCES)
def test_ties_cost_what_they_cost_in_a_random_order(drawn: list[tuple[float, bool]]) -> None:
    confidence, right = (np.array(values) for values in zip(*drawn, strict=True))
    assert selective_risks(confidence, right) == pytest.approx(slow_risks(confidence, right))
    bins = reliability_bins(confidence, right)
    assert expected_calibration_error(bins) == pytest.approx(
        slow_calibration_error(confidence, right)
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 6))
def test_metrics_are_within_their_bounds_in_any_order(seed: int, count: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    samples = random.dirichlet(np.full(classes, 0.7), (3, count))
    labels = random.integers(0, classes, count)
    names = [f'class {index}' for index in range(classes)]

    def measure(order: np.ndarray) -> RecognitionMetrics:
        mean = samples.mean(0)[order]
        return measure_recognition(mean, labels[order], classes=names, samples=samples[:, order])

    metrics = measure(np.arange(count))
    assert 0.0 <= metrics.expected_calibration_error <= 1.0
    assert 0.0 <= metrics.brier_score <= 2.0
    assert metrics.negative_log_likelihood >= 0.0
    # At best all right answers come first, at worst all wrong ones: the risk then is known.
    wrong = round((1.0 - metrics.accuracy) * count)
    ranks = np.arange(1, count + 1)
    best = (np.maximum(0, ranks - (count - wrong)) / ranks).mean()
    worst = (np.minimum(ranks, wrong) / ranks).mean()
    assert best - 1e-9 <= metrics.area_under_risk_coverage <= worst + 1e-9
    json.dumps(metrics.as_dict(), allow_nan=False)

    shuffled = measure(random.permutation(count))
    assert _numbers(shuffled.as_dict()) == pytest.approx(_numbers(metrics.as_dict()))


def _numbers(value: object) -> list[float]:
    """Flatten a JSON value to its numbers, None as -1."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    if value is None:
        return [-1.0]
    return [float(value)] if isinstance(value, int | float) else []


def test_half_precision_passes_and_logits_do_not() -> None:
    samples, labels, metrics = measured()
    half = samples.astype(np.float16)
    rounded = measure_recognition(
        half.mean(0, dtype=np.float64), labels, classes=CLASSES, samples=half
    )
    assert rounded.accuracy == metrics.accuracy
    assert rounded.negative_log_likelihood == pytest.approx(
        metrics.negative_log_likelihood, abs=1e-3
    )
    with pytest.raises(ValueError, match='sum to 1'):
        measure_recognition(np.full((60, 4), 2.0), labels, classes=CLASSES)


@pytest.mark.parametrize(
    ('probabilities', 'labels', 'message'),
    [
        (np.full((3, 5), 0.2), np.zeros(3, int), 'shape'),
        (np.full((3, 4), 0.25), np.zeros(2, int), 'shape'),
        (np.zeros((0, 4)), np.zeros(0, int), 'not be empty'),
        (np.array([[1.5, -0.5, 0.0, 0.0]]), np.zeros(1, int), 'at least 0'),
        (np.full((1, 4), np.nan), np.zeros(1, int), 'finite'),
        (np.full((1, 4), 0.25), np.array([4]), '0 to 3'),
        (np.full((1, 4), 0.25), np.array([-1]), '0 to 3'),
        (np.full((1, 4), 0.25), np.array([1.0]), 'whole numbers'),
    ],
)
def test_what_are_no_answers_is_refused(
    probabilities: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure_recognition(probabilities, labels, classes=CLASSES)


def test_samples_of_other_answers_and_a_single_class_are_refused() -> None:
    samples, labels, _ = measured()
    with pytest.raises(ValueError, match='samples'):
        measure_recognition(samples[0], labels, classes=CLASSES, samples=samples[:, :5])
    with pytest.raises(ValueError, match='two classes'):
        measure_recognition(np.ones((2, 1)), np.zeros(2, int), classes=('all',))


def test_the_uncertainty_of_samples_finds_errors_as_well_as_they_do() -> None:
    samples, labels, metrics = measured()
    uncertainty = measure_uncertainty(samples)
    without = measure_recognition(
        samples.mean(0), labels, classes=CLASSES, uncertainty=uncertainty
    )
    assert without.error_detection_auroc == metrics.error_detection_auroc
    assert without.error_detection_auroc.mutual_information is not None
    assert without.samples is None
    with pytest.raises(ValueError, match='not both'):
        measure_recognition(
            samples.mean(0), labels, classes=CLASSES, samples=samples, uncertainty=uncertainty
        )


def test_importing_the_metrics_needs_neither_torch_nor_ros() -> None:
    code = (
        'import sys, fer_perception.evaluation.metrics\n'
        'print([name for name in ("torch", "rclpy", "cv2", "dlib") if name in sys.modules])'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip() == '[]', result.stderr
