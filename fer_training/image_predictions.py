# SPDX-License-Identifier: Apache-2.0
"""What an image recogniser says of items: its members, under Monte Carlo masks, in both views.

Shapes: N answers, S samples (views times masks times members), M members, C classes.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor
from tqdm import tqdm

from fer_perception.evaluation.metrics import (
    RecognitionMetrics,
    SampleMetrics,
    measure_recognition,
)
from fer_perception.inference.image_samples import draw_logits, sample_weights
from fer_perception.models.dropout import seeded_generator
from fer_perception.models.image_network import ImageNetwork
from fer_perception.uncertainty.measures import measure_uncertainty
from fer_training.calibration import Calibration, calibrate_logits
from fer_training.image_dataset import FaceImages, ImageItems
from fer_training.results import Predictions

ABAW_F1_SHARE, ABAW_ACCURACY_SHARE = 0.67, 0.33  # ABAW, equation 3


@dataclass(frozen=True, kw_only=True)
class VotedPredictions(Predictions):
    """Predictions whose samples do not all count alike: members have weights."""

    weights: np.ndarray  # (S,) of the samples, summing to 1

    @property
    def ensemble(self) -> np.ndarray:
        """Let the samples vote on each answer: (N, C) float64."""
        return np.asarray(np.tensordot(self.weights, self.monte_carlo.astype(np.float64), 1))

    def subset(self, chosen: np.ndarray) -> 'VotedPredictions':
        """Keep the answers of a mask (N,) bool."""
        return self.of(super().subset(chosen), self.weights)

    def measure(
        self, classes: tuple[str, ...]
    ) -> tuple[RecognitionMetrics, RecognitionMetrics]:
        """Measure the vote of all samples and that of the members in a single plain pass."""
        samples = self.monte_carlo.astype(np.float64)
        samples /= samples.sum(-1, keepdims=True)  # exactly 1, which half precision loses
        vote = measure_recognition(
            self.ensemble,
            self.labels,
            classes=classes,
            uncertainty=measure_uncertainty(samples, weights=self.weights),
        )
        accuracies = (samples.argmax(-1) == self.labels).mean(-1)  # (S,)
        compared = SampleMetrics(
            accuracies=tuple(accuracies.tolist()),
            mean=float(accuracies.mean()),
            standard_deviation=float(accuracies.std()),
            ensemble_accuracy=vote.accuracy,
        )
        single_pass = measure_recognition(self.single_pass, self.labels, classes=classes)
        return replace(vote, samples=compared), single_pass

    @classmethod
    def of(cls, predictions: Predictions, weights: np.ndarray) -> 'VotedPredictions':
        """Give predictions the weights of their samples."""
        return cls(
            labels=predictions.labels,
            names=predictions.names,
            monte_carlo=predictions.monte_carlo,
            single_pass=predictions.single_pass,
            weights=weights,
        )


@dataclass(frozen=True, kw_only=True)
class MemberLogits:
    """Hold what the members say of N items, at temperature 1."""

    members: tuple[str, ...]  # M
    member_weights: tuple[float, ...]  # M
    targets: np.ndarray  # (N,) class indices
    names: tuple[str, ...]  # (N,)
    sequences: tuple[str, ...]  # (N,) name of the sequence that each is of
    logits: np.ndarray  # (S, N, C): view by view, mask by mask, member by member
    weights: np.ndarray  # (S,) summing to 1
    single_pass: np.ndarray  # (M, N, C) of the plain view, without dropout

    def answers(self, temperature: float) -> VotedPredictions:
        """Return the probabilities of all items at a temperature."""
        members = softmax(self.single_pass / np.float32(temperature), axis=-1)  # (M, N, C)
        return VotedPredictions(
            labels=self.targets,
            names=self.names,
            monte_carlo=softmax(self.logits / np.float32(temperature), axis=-1),
            single_pass=np.tensordot(np.array(self.member_weights, np.float32), members, 1),
            weights=self.weights,
        )

    def calibrate(self) -> Calibration:
        """Choose temperature and abstention threshold for the weighted vote, as for PST-BLN."""
        return calibrate_logits(self.logits, self.targets, sample_weights=self.weights)

    def member_accuracies(self) -> dict[str, float]:
        """Measure the share that each member alone gets right, without dropout."""
        right = (self.single_pass.argmax(-1) == self.targets).mean(-1)  # (M,)
        return dict(zip(self.members, right.tolist(), strict=True))


@torch.inference_mode()
def predict_images(
    network: ImageNetwork,
    images: FaceImages,
    items: ImageItems,
    *,
    samples: int = 20,
    views: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    mixed_precision: bool = False,
    progress: bool = False,
) -> MemberLogits:
    """Read items on the network's device, a batch in memory at a time; same seed, same answers.

    samples: Monte Carlo masks, of a network with dropout; views: 2 reads every frame mirrored as
    well. Features of a frame that several items of a batch share are computed once. Raises
    ValueError for a network in training mode, or samples or views that there are not.
    """
    if any(module.training for module in network.modules()):
        raise ValueError('the network to evaluate must be in evaluation mode')
    if views not in (1, 2):
        raise ValueError(f'views must be 1 or 2, not {views}')
    device = next(network.parameters()).device
    generator = seeded_generator(seed, device=device)
    drawn, plain = [], []
    with tqdm(total=len(items), desc='evaluate', unit='item', disable=not progress) as bar:
        for start in range(0, len(items), batch_size):
            frames = items.frames[start : start + batch_size]  # (n, T)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                by_view = _features(network, images, frames, views, device)
                many = [
                    draw_logits(network, features, samples=samples, generator=generator)
                    for features in by_view
                ]
                single = network.random_part(by_view[0]).float()  # (n, M, C)
            # V of (S', n, M, C) -> (V, S', M, n, C) -> (S, n, C)
            drawn.append(torch.stack(many).transpose(2, 3).flatten(0, 2).cpu().numpy())
            plain.append(single.transpose(0, 1).cpu().numpy())  # (M, n, C)
            bar.update(len(frames))
    logits = np.concatenate(drawn, axis=1)
    masks = len(logits) // (views * len(network.members))
    weights = sample_weights(network, masks).repeat(views).double() / views
    return MemberLogits(
        members=network.members,
        member_weights=network.member_weights,
        targets=items.targets,
        names=items.names,
        sequences=items.sequences,
        logits=logits,
        weights=weights.numpy(),
        single_pass=np.concatenate(plain, axis=1),
    )


def _features(
    network: ImageNetwork, images: FaceImages, frames: np.ndarray, views: int, device: torch.device
) -> list[Tensor]:
    """Compute the features (n, T, F) of items (n, T) in each view."""
    unique, places = np.unique(frames, return_inverse=True)
    index = torch.from_numpy(places.reshape(frames.shape)).to(device)  # (n, T)
    pixels = images.read(unique[:, None]).images[:, 0].to(device)  # (U, 3, H, W)
    return [
        network.frame_features(view)[index] for view in (pixels, pixels.flip(-1))[:views]
    ]


def pool_sequences(predictions: VotedPredictions, logits: MemberLogits) -> VotedPredictions:
    """Average the answers of the frames of each sequence, sample by sample.

    predictions: those of `logits` at some temperature. Sequences of several classes are left out;
    ValueError if none is of one.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(logits.sequences))}
    of_item = np.array([numbers[name] for name in logits.sequences])  # (N,)
    chosen = [np.flatnonzero(of_item == number) for number in range(len(numbers))]
    whole = [own for own in chosen if len(set(logits.targets[own].tolist())) == 1]
    if not whole:
        raise ValueError('no sequence has one class for all of its frames')
    return VotedPredictions(
        labels=np.array([logits.targets[own[0]] for own in whole]),
        names=tuple(logits.sequences[own[0]] for own in whole),
        monte_carlo=np.stack([predictions.monte_carlo[:, own].mean(1) for own in whole], 1),
        single_pass=np.stack([predictions.single_pass[own].mean(0) for own in whole]),
        weights=predictions.weights,
    )


def abaw_score(metrics: RecognitionMetrics) -> float:
    """Combine macro F1 and accuracy as ABAW's challenge does (equation 3), 0 to 1."""
    return ABAW_F1_SHARE * metrics.macro_f1 + ABAW_ACCURACY_SHARE * metrics.accuracy
