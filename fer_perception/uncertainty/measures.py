# SPDX-License-Identifier: Apache-2.0
"""Measures of uncertainty over Monte Carlo samples of class probabilities."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Hold the moments and information measures of S samples over C classes.

    N may be any leading batch shape, none included.
    """

    probabilities: np.ndarray  # (..., C) mean of the samples' softmax outputs, sums to 1
    standard_deviations: np.ndarray  # (..., C) spread over the samples, 0 to 0.5
    predictive_entropy: np.ndarray  # (...) nats, entropy of the mean, 0 to ln C
    expected_entropy: np.ndarray  # (...) nats, mean entropy of the samples
    mutual_information: np.ndarray  # (...) nats, predictive minus expected entropy, >= 0
    mc_samples: int  # S


def measure_uncertainty(
    samples: np.ndarray, *, weights: np.ndarray | None = None
) -> Uncertainty:
    """Measure what Monte Carlo samples agree on and how far they spread.

    samples: (S, ..., C) class probabilities, each row summing to 1; weights: (S,) of the samples,
    summing to 1, where they do not count alike (members of an ensemble). The mean is that of the
    softmax outputs (not the softmax of mean logits); standard deviations are those of the S
    samples (divisor S). Mutual information is the part of the predictive entropy that comes from
    disagreement between the samples (Gal, "Uncertainty in Deep Learning", 2016, section 3.3).
    Raises ValueError if the samples are no probabilities, or the weights none of a mean.
    """
    if samples.ndim < 2 or not len(samples):
        raise ValueError(f'samples must have the shape (S, ..., C), not {samples.shape}')
    samples = samples.astype(np.float64)
    if not np.isfinite(samples).all() or (samples < 0).any():
        raise ValueError('samples must be probabilities, but some are negative or not finite')
    if not np.allclose(samples.sum(-1), 1.0, atol=1e-4):
        raise ValueError('samples must be probabilities, but some rows do not sum to 1')
    if weights is None:
        weights = np.full(len(samples), 1.0 / len(samples))
    elif weights.shape != (len(samples),) or not (weights >= 0).all():
        raise ValueError(f'weights must be {len(samples)} numbers of 0 or more, not {weights}')
    elif not np.isclose(weights.sum(), 1.0, atol=1e-4):
        raise ValueError(f'weights must sum to 1, not {weights.sum()}')
    weights = weights.astype(np.float64)
    mean = np.tensordot(weights, samples, 1)  # (..., C)
    predictive_entropy = entropy(mean)
    expected_entropy = np.tensordot(weights, entropy(samples), 1)
    return Uncertainty(
        probabilities=mean,
        standard_deviations=np.sqrt(np.tensordot(weights, (samples - mean) ** 2, 1)),
        predictive_entropy=predictive_entropy,
        expected_entropy=expected_entropy,
        mutual_information=np.maximum(predictive_entropy - expected_entropy, 0.0),
        mc_samples=len(samples),
    )


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Compute the entropy in nats over the last axis: (..., C) -> (...)."""
    logarithms = np.log(np.where(probabilities > 0, probabilities, 1.0))
    return np.asarray(-(probabilities * logarithms).sum(-1))
