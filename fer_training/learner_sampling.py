# SPDX-License-Identifier: Apache-2.0
"""Class probabilities of clips for the learner, by torch or ONNX Runtime, and what they are worth.

Shapes: S samples (1 of a plain pass), N clips, C classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from fer_perception.evaluation.metrics import RecognitionMetrics, measure_recognition
from fer_perception.inference.monte_carlo import MonteCarloDropout
from fer_perception.inference.onnx_clips import OnnxMonteCarlo
from fer_perception.models.pst_bln import PstBln
from fer_training.clips import Clips
from fer_training.inputs import NetworkInput

# Draws the class probabilities of clips: (n, 2, T, V) float32 -> (S, n, C).
Sampler: TypeAlias = Callable[[np.ndarray], np.ndarray]


def torch_sampler(
    network: PstBln, *, network_input: NetworkInput, repeats: int, seed: int
) -> Sampler:
    """Sample a network by Monte Carlo dropout, or pass through it once if `repeats` is 0."""
    network.eval()
    device = next(network.parameters()).device
    monte_carlo = MonteCarloDropout(network, samples=repeats, seed=seed) if repeats else None

    @torch.inference_mode()
    def sample(features: np.ndarray) -> np.ndarray:
        inputs = network_input(torch.from_numpy(features)).to(device)
        drawn = monte_carlo(inputs) if monte_carlo else network(inputs).softmax(-1)[None]
        return np.asarray(drawn.cpu().numpy())

    return sample


class OnnxSampler:
    """Samples an exported network; ONNX Runtime loads it once for each number of repeats."""

    def __init__(self, path: Path, *, seed: int) -> None:
        """Load an export. Raises ModelFileError naming the file and what is wrong with it."""
        self.path = path
        self._seed = seed
        self._plain = self._latest = OnnxMonteCarlo(path, samples=1, seed=seed)
        self._repeats = 1
        self.description = self._plain.description

    def sampler(self, *, network_input: NetworkInput, repeats: int) -> Sampler:
        """Sample by Monte Carlo dropout, or pass once if `repeats` is 0."""
        if repeats and repeats != self._repeats:
            self._latest = OnnxMonteCarlo(self.path, samples=repeats, seed=self._seed)
            self._repeats = repeats
        monte_carlo = self._latest if repeats else None

        def sample(features: np.ndarray) -> np.ndarray:
            inputs = network_input(torch.from_numpy(features)).numpy()
            return monte_carlo(inputs) if monte_carlo else self._plain.single_pass(inputs)[None]

        return sample


def sample_in_batches(
    features: np.ndarray, sampler: Sampler, *, batch_size: int, progress: bool
) -> np.ndarray:
    """Sample clips (N, 2, T, V), of which only a batch is copied: -> (S, N, C)."""
    drawn = []
    with tqdm(total=len(features), desc='evaluate', unit='clip', disable=not progress) as bar:
        for start in range(0, len(features), batch_size):
            batch = np.array(features[start : start + batch_size], np.float32)
            drawn.append(sampler(batch))
            bar.update(len(batch))
    return np.concatenate(drawn, axis=1)


def measure_samples(
    samples: np.ndarray, clips: Clips, *, epoch: int, show_topk: Sequence[int]
) -> dict[str, Any]:
    """Measure the mean of the samples (S, N, C) as the learner's eval returns it."""
    probabilities = samples.mean(0, dtype=np.float64)
    metrics: RecognitionMetrics = measure_recognition(
        probabilities,
        clips.labels,
        classes=clips.classes,
        samples=samples if len(samples) > 1 else None,
    )
    ranks = (-probabilities).argsort(-1, kind='stable')  # (N, C)
    return {
        'epoch': epoch,
        'accuracy': metrics.accuracy,
        'loss': metrics.negative_log_likelihood,
        'score': probabilities,
        'top_k': {
            k: float((ranks[:, :k] == clips.labels[:, None]).any(-1).mean()) for k in show_topk
        },
        'metrics': metrics.as_dict(),
    }
