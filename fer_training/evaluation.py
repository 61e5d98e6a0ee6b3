# SPDX-License-Identifier: Apache-2.0
"""Evaluation: an ensemble of Monte Carlo dropout samples against a single plain pass."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fer_perception.inference.monte_carlo import (
    FRAMES_PER_PASS,
    MonteCarloDropout,
    MonteCarloNetwork,
    only_dropout_active,
)
from fer_perception.models.dropout import seeded_generator
from fer_perception.models.model_file import LoadedModel
from fer_training.clips import ClipPreparation, Clips, clips_from_tracks
from fer_training.dataset import IGNORED, training_set_of_tracks
from fer_training.inputs import NetworkInput
from fer_training.results import Predictions, join_predictions
from fer_training.tracks import Track

UNITS = ('clip', 'frame')
TRACKS_PER_BATCH = 4  # larger ones fall out of the processor's cache


def evaluate(
    model: LoadedModel,
    data: Clips | Sequence[Track],
    *,
    unit: str = UNITS[0],
    samples: int = 100,
    lead_errors: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Predictions:
    """Predict clips or tracks with a model as its description says; same seed, same answers.

    A model that reads whole clips gives one answer for each. Clips must have been prepared as
    the description says; only edge vectors are computed of their landmarks here. A model that
    streams needs tracks; it answers at every frame after its warm-up that has a target, and
    `unit` says what counts: 'frame' each of these answers, 'clip' the mean probabilities over
    those frames of a track that show its expression (sample by sample: masks are fresh in every
    frame, so that single samples of a whole track differ little). For `lead_errors` see
    `predict_clips`. Raises ValueError if the data, the unit or `lead_errors` do not fit the model.
    """
    description = model.description
    if unit not in UNITS:
        raise ValueError(f'unknown unit {unit!r}; use {" or ".join(UNITS)}')
    if description.clip_frames and unit != 'clip':
        raise ValueError(f'the model reads whole clips, it has no answer for each {unit}')
    if lead_errors is not None and not description.clip_frames:
        raise ValueError('the model streams: only models of whole clips are sampled adaptively')
    if isinstance(data, Clips):
        clips = data
        if not description.clip_frames:
            raise ValueError('the model streams: it needs tracks, which know their frame rate')
        if clips.classes != description.classes:
            raise ValueError(
                f'the clips are of the classes {", ".join(clips.classes)}, the model of '
                f'{", ".join(description.classes)}'
            )
        if (frames := clips.features.shape[2]) != description.clip_frames:
            raise ValueError(
                f'the clips have {frames} frames, the model reads {description.clip_frames}'
            )
    elif description.clip_frames:
        clips = clips_from_tracks(
            data,
            classes=description.classes,
            preparation=ClipPreparation.of(description),
            progress=progress,
        )
    else:
        return predict_tracks(
            model, data, unit=unit, samples=samples, seed=seed, progress=progress
        )
    return predict_clips(
        model.network,
        clips,
        network_input=NetworkInput(edges=torch.from_numpy(description.edges)),
        temperature=description.temperature,
        samples=samples,
        lead_errors=lead_errors,
        seed=seed,
        progress=progress,
    )


@torch.inference_mode()
def predict_clips(
    network: MonteCarloNetwork,
    clips: Clips,
    *,
    network_input: NetworkInput,
    temperature: float = 1.0,
    samples: int = 100,
    lead_errors: float | None = None,
    seed: int = 0,
    mixed_precision: bool = False,
    progress: bool = False,
) -> Predictions:
    """Predict every clip by the ensemble and by one plain pass, on the network's device.

    Only the clips of a batch are read into memory. With `mixed_precision` products are computed
    in bfloat16 where it is safe. With `lead_errors` a clip is sampled only until the lead of its
    most probable class exceeds so many standard errors, see `MonteCarloDropout.adaptive`;
    `samples` is the most. Raises ValueError for a network in training mode, or without dropout.
    """
    _check_mode(network)
    monte_carlo = MonteCarloDropout(network, samples=samples, temperature=temperature, seed=seed)
    device = next(network.parameters()).device
    size = max(1, FRAMES_PER_PASS // clips.features.shape[2])
    drawn, plain = [], []
    with tqdm(total=len(clips), desc='evaluate', unit='clip', disable=not progress) as bar:
        for start in range(0, len(clips), size):
            batch = np.array(clips.features[start : start + size], np.float32)  # (n, 2, T, V)
            features = network_input(torch.from_numpy(batch)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                samples_of_batch = (  # (S, n, C)
                    monte_carlo(features) if lead_errors is None else _padded(
                        monte_carlo.adaptive(features, lead_errors=lead_errors), samples
                    )
                )
                logits = network.random_part(network.deterministic_part(features)).float()
            drawn.append(samples_of_batch.float().cpu())
            plain.append((logits / temperature).softmax(-1).cpu())  # (n, C)
            bar.update(len(batch))
    return Predictions(
        labels=clips.labels,
        names=clips.names,
        monte_carlo=torch.cat(drawn, dim=1).numpy(),
        single_pass=torch.cat(plain).numpy(),
    )


def predict_tracks(
    model: LoadedModel,
    tracks: Sequence[Track],
    *,
    unit: str = UNITS[0],
    samples: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> Predictions:
    """Predict tracks with a streaming model; see `evaluate` for what one answer is.

    Raises ValueError for an empty list, unknown labels, a track that never shows its expression,
    or if no frame comes after the warm-up.
    """
    if not tracks:
        raise ValueError('there are no tracks')
    _check_mode(model.network)
    if samples < 1:
        raise ValueError(f'samples must be at least 1, not {samples}')
    generator = seeded_generator(seed, device=next(model.network.parameters()).device)
    parts: list[Predictions] = []
    with tqdm(total=len(tracks), desc='evaluate', unit='track', disable=not progress) as bar:
        for start in range(0, len(tracks), TRACKS_PER_BATCH):
            batch = tracks[start : start + TRACKS_PER_BATCH]
            parts.extend(_predict_batch(model, batch, start, unit, samples, generator))
            bar.update(len(batch))
    joined = join_predictions(parts)
    if not len(joined):
        raise ValueError(
            f'no frame with a target comes after the warm-up of {model.description.warm_up_s} s'
        )
    return joined


@torch.inference_mode()
def _predict_batch(
    model: LoadedModel,
    tracks: Sequence[Track],
    first: int,
    unit: str,
    samples: int,
    generator: torch.Generator,
) -> Iterator[Predictions]:
    network, description = model.network, model.description
    data = training_set_of_tracks(
        tracks,
        classes=description.classes,
        frame_rate=description.frame_rate,
        normalization=description.normalization,
    )
    features = NetworkInput(edges=torch.from_numpy(description.edges))(
        torch.from_numpy(data.features)
    )  # (n, 2, T, E)
    shared = network.deterministic_part(features.to(generator.device))
    plain = _probabilities(network.random_logits_over_time(shared), description.temperature)
    with only_dropout_active(network, generator):
        drawn = np.stack(
            [
                _probabilities(network.random_logits_over_time(shared), description.temperature)
                for _ in range(samples)
            ]
        )  # (S, n, T', C)
    stride = description.network.total_stride
    targets = data.targets.numpy()[:, ::stride]  # (n, T')
    warm = np.arange(targets.shape[1]) * stride / description.frame_rate
    is_warm = warm + 1e-6 >= description.warm_up_s  # as the decision rule has it
    for index, track in enumerate(tracks):
        name = f'{track.label}_{track.subject}_{first + index}'
        if unit == 'frame':
            frames = np.flatnonzero(is_warm & (targets[index] != IGNORED))
            yield Predictions(
                labels=targets[index, frames],
                names=tuple(f'{name}@{frame * stride}' for frame in frames),
                monte_carlo=drawn[:, index, frames],
                single_pass=plain[index, frames],
            )
        else:
            label = description.classes.index(track.label)
            frames = _frames_that_show(targets[index] == label, is_warm, name)
            yield Predictions(
                labels=np.array([label]),
                names=(name,),
                monte_carlo=drawn[:, index, frames].mean(1, keepdims=True),
                single_pass=plain[index, frames].mean(0, keepdims=True),
            )


def _frames_that_show(shown: np.ndarray, is_warm: np.ndarray, name: str) -> np.ndarray:
    """Choose frames after the warm-up, or the last one of a track that is over before."""
    frames = np.flatnonzero(shown & is_warm)
    if len(frames):
        return frames
    if not shown.any():
        raise ValueError(f'track {name} never shows its expression')
    return np.flatnonzero(shown)[-1:]


def _probabilities(logits: Tensor, temperature: float) -> np.ndarray:
    return np.asarray((logits / temperature).softmax(-1).cpu().numpy())


def _padded(drawn: Sequence[Tensor], samples: int) -> Tensor:
    """Put samples of different numbers together, NaN where there are fewer: (S, n, C)."""
    padded = drawn[0].new_full((samples, len(drawn), drawn[0].shape[-1]), torch.nan)
    for index, own in enumerate(drawn):
        padded[: len(own), index] = own
    return padded


def _check_mode(network: MonteCarloNetwork) -> None:
    if any(module.training for module in network.modules()):
        raise ValueError('the network to evaluate must be in evaluation mode')
