# SPDX-License-Identifier: Apache-2.0
"""Measures of uncertainty keep their bounds and their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fer_perception.uncertainty.measures import entropy, measure_uncertainty

raw_samples = st.tuples(st.integers(1, 30), st.integers(2, 9)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(0.0, 1.0)).filter(
        lambda raw: bool((raw.sum(-1) > 1e-3).all())
    )
)


@given(raw_samples)
def test_bounds_hold_for_any_samples(raw: np.ndarray) -> None:
    samples = raw / raw.sum(-1, keepdims=True)
    measured = measure_uncertainty(samples)
    highest = np.log(samples.shape[1])
    assert np.isclose(measured.probabilities.sum(), 1.0)
    assert (measured.standard_deviations <= 0.5 + 1e-9).all()
    assert -1e-9 <= measured.expected_entropy <= measured.predictive_entropy + 1e-9
    assert measured.predictive_entropy <= highest + 1e-9
    assert 0.0 <= measured.mutual_information <= highest + 1e-9
    assert measured.mc_samples == len(samples)


def test_values_agree_with_the_definitions() -> None:
    samples = np.array([[0.9, 0.1], [0.5, 0.5]])
    measured = measure_uncertainty(samples)
    assert np.allclose(measured.probabilities, [0.7, 0.3])
    assert np.allclose(measured.standard_deviations, [0.2, 0.2])
    predictive = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3))
    expected = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1) + np.log(0.5)) / 2
    assert np.isclose(measured.predictive_entropy, predictive)
    assert np.isclose(measured.expected_entropy, expected)
    assert np.isclose(measured.mutual_information, predictive - expected)


def test_agreement_has_no_mutual_information_and_contradiction_has_all() -> None:
    agreeing = measure_uncertainty(np.tile([0.2, 0.3, 0.5], (10, 1)))
    assert agreeing.mutual_information == pytest.approx(0.0, abs=1e-12)
    contradicting = measure_uncertainty(np.eye(4))
    assert contradicting.expected_entropy == 0.0
    assert np.isclose(contradicting.mutual_information, np.log(4))


def test_batches_are_measured_one_by_one() -> None:
    raw = np.random.default_rng(1).random((8, 5, 3))
    samples = raw / raw.sum(-1, keepdims=True)
    batch = measure_uncertainty(samples)
    for index in range(5):
        single = measure_uncertainty(samples[:, index])
        assert np.allclose(batch.probabilities[index], single.probabilities)
        assert np.isclose(batch.mutual_information[index], single.mutual_information)


def test_entropy_of_certainty_is_zero() -> None:
    assert entropy(np.array([0.0, 1.0, 0.0])) == 0.0


@pytest.mark.parametrize(
    ('samples', 'message'),
    [
        (np.array([[0.5, 0.6]]), 'sum to 1'),
        (np.array([[1.5, -0.5]]), 'negative'),
        (np.array([[np.nan, 1.0]]), 'not finite'),
        (np.zeros((0, 3)), 'shape'),
        (np.array([1.0]), 'shape'),
    ],
)
def test_what_are_no_probabilities_is_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_uncertainty(samples)


@given(raw_samples, st.integers(0, 2**32 - 1))
def test_weights_count_like_repeated_samples(raw: np.ndarray, seed: int) -> None:
    samples = raw / raw.sum(-1, keepdims=True)
    counts = np.random.default_rng(seed).integers(1, 5, len(samples))
    weighted = measure_uncertainty(samples, weights=counts / counts.sum())
    repeated = measure_uncertainty(np.repeat(samples, counts, 0))
    for name in ('probabilities', 'standard_deviations', 'predictive_entropy',
                 'expected_entropy', 'mutual_information'):
        np.testing.assert_allclose(
            getattr(weighted, name), getattr(repeated, name), atol=1e-6, err_msg=name
        )
    assert weighted.mc_samples == len(samples)


@pytest.mark.parametrize('weights', [[1.0], [0.7, 0.7], [1.5, -0.5], [np.nan, 1.0]])
def test_weights_of_no_mean_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match='weights must'):
        measure_uncertainty(np.full((2, 3), 1 / 3), weights=np.array(weights))
