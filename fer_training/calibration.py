# SPDX-License-Identifier: Apache-2.0
"""Calibration of a fitted network on validation tracks: temperature, threshold, scores."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import f1_score
from tqdm import tqdm

from fer_perception.evaluation.metrics import measure_selective
from fer_perception.inference.monte_carlo import only_dropout_active
from fer_perception.models.dropout import seeded_generator
from fer_perception.models.pst_bln import PstBln
from fer_training.dataset import IGNORED, TrainingSet
from fer_training.inputs import NetworkInput

BATCH = 64  # sequences


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Hold what validation chose and measured, all with Monte Carlo dropout."""

    temperature: float  # lowest negative log-likelihood
    abstention_threshold: float  # lowest confidence that keeps the risk
    accuracy: float  # share of frames right
    macro_f1: float
    negative_log_likelihood: float  # nats, after temperature scaling
    coverage: float  # share of frames that are CONFIDENT
    risk: float  # share of CONFIDENT frames that are wrong
    frames: int
    mc_samples: int


def calibrate(
    network: PstBln,
    data: TrainingSet,
    *,
    network_input: NetworkInput,
    max_risk: float = 0.05,
    lowest_threshold: float = 0.5,
    mc_samples: int = 20,
    every: int = 6,
    seed: int = 1,
) -> Calibration:
    """Choose temperature and abstention threshold on validation data.

    Clips with a target each count once; of tracks with a target for every frame, every sixth
    frame does.

    The temperature minimises the negative log-likelihood of the mean of the samples' softmax;
    the threshold is the lowest, not below `lowest_threshold`, at which at most `max_risk` of the
    CONFIDENT frames are wrong. Raises ValueError if no frame has a target.
    """
    logits, targets = _sample_logits(network, data, network_input, mc_samples, every, seed)
    return calibrate_logits(
        logits, targets, max_risk=max_risk, lowest_threshold=lowest_threshold
    )


def calibrate_logits(
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    sample_weights: np.ndarray | None = None,
    max_risk: float = 0.05,
    lowest_threshold: float = 0.5,
) -> Calibration:
    """Choose temperature and abstention threshold, as `calibrate` does, by drawn logits.

    logits: (S, M, C); targets: (M,) class indices; sample_weights: (S,) of the samples, summing
    to 1, where they do not count alike.
    """
    temperature = fit_temperature(logits, targets, sample_weights=sample_weights)
    mean = _mean_softmax(logits / temperature, sample_weights)  # (M, C)
    confidence, right = mean.max(-1), mean.argmax(-1) == targets
    threshold = threshold_for_risk(confidence, right, max_risk, lowest=lowest_threshold)
    selective = measure_selective(confidence >= threshold, right)
    return Calibration(
        temperature=temperature,
        abstention_threshold=threshold,
        accuracy=float(right.mean()),
        macro_f1=float(f1_score(targets, mean.argmax(-1), average='macro')),
        negative_log_likelihood=_negative_log_likelihood(mean, targets),
        coverage=selective.coverage,
        risk=selective.risk or 0.0,
        frames=len(targets),
        mc_samples=len(logits),
    )


def fit_temperature(
    logits: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    sample_weights: np.ndarray | None = None,
) -> float:
    """Find the temperature of the lowest negative log-likelihood, from e^-2 to e^2.

    logits: (S, M, C) of S samples, whose mean softmax is judged; targets: (M,) class indices;
    weights: (M,) of the answers, alike if None (Guo et al., "On Calibration of Modern Neural
    Networks", 2017, 4.2); sample_weights: (S,) of the samples, alike if None.
    """
    answers = np.arange(len(targets))

    def loss(log_temperature: float) -> float:
        mean = _mean_softmax(logits / np.exp(log_temperature), sample_weights)  # (M, C)
        return float(np.average(-np.log(mean[answers, targets] + 1e-12), weights=weights))

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method='bounded').x))


def threshold_for_risk(
    confidence: np.ndarray, right: np.ndarray, max_risk: float, *, lowest: float
) -> float:
    """Find the lowest threshold, not below `lowest`, that keeps a risk.

    At most `max_risk` of the answers whose confidence reaches it are wrong. confidence: (M,) 0 to
    1; right: (M,) bool. The threshold lies in the middle between two confidences, so that
    rounding does not matter. Returns 1 where no threshold keeps the risk.
    """
    order = np.argsort(-confidence, kind='stable')
    falling = confidence[order]
    risk = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    below = np.append(falling[1:], 0.0)  # the next confidence that would have to count as well
    allowed = np.flatnonzero((below < falling) & (falling >= lowest) & (risk <= max_risk))
    if not len(allowed):
        return 1.0 if (confidence >= lowest).any() else lowest
    last = allowed[-1]
    return max(lowest, float(falling[last] + below[last]) / 2)


def measure_accuracy(
    network: PstBln,
    data: TrainingSet,
    *,
    network_input: NetworkInput,
    mc_samples: int = 100,
    every: int = 6,
    seed: int = 1,
) -> float:
    """Measure the share that the mean of Monte Carlo dropout samples gets right, 0 to 1.

    Counts what `calibrate` counts. Raises ValueError if no frame has a target.
    """
    logits, targets = _sample_logits(network, data, network_input, mc_samples, every, seed)
    mean = softmax(logits, axis=-1).mean(0)  # (M, C)
    return float((mean.argmax(-1) == targets).mean())


@torch.inference_mode()
def _sample_logits(
    network: PstBln,
    data: TrainingSet,
    network_input: NetworkInput,
    samples: int,
    every: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits of clips or single frames: (S, M, C) and their targets (M,)."""
    stride = network.config.total_stride
    device = next(network.parameters()).device
    generator = seeded_generator(seed, device=device)
    frames = slice(network.config.window - 1, None, every)
    logits, targets = [], []
    with only_dropout_active(network, generator):
        for start in tqdm(range(0, len(data), BATCH), desc='calibrate', unit='batch'):
            chosen = range(start, min(start + BATCH, len(data)))
            features, expected = data.__getitems__(chosen)
            shared = network.deterministic_part(network_input(features).to(device))
            if data.has_frame_targets:
                expected = expected[:, ::stride][:, frames].flatten()
                drawn = torch.stack(
                    [network.random_logits_over_time(shared)[:, frames] for _ in range(samples)]
                ).flatten(1, 2)  # (S, n * t, C)
            else:
                drawn = torch.stack([network.random_part(shared) for _ in range(samples)])
            logits.append(drawn.cpu().numpy())
            targets.append(expected.numpy())
    known = np.concatenate(targets) != IGNORED
    if not known.any():
        raise ValueError('no frame of the validation data has a target')
    return np.concatenate(logits, axis=1)[:, known], np.concatenate(targets)[known]


def _mean_softmax(logits: np.ndarray, sample_weights: np.ndarray | None) -> np.ndarray:
    """Average the samples' softmax: (S, M, C) to (M, C)."""
    if sample_weights is None:
        return np.asarray(softmax(logits, axis=-1).mean(0))
    return np.asarray(np.tensordot(sample_weights, softmax(logits, axis=-1), 1))


def _negative_log_likelihood(probabilities: np.ndarray, targets: np.ndarray) -> float:
    likelihoods = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(likelihoods + 1e-12).mean())
