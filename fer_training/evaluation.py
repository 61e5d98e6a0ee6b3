# SPDX-License-Identifier: Apache-2.0
"""Evaluation: an ensemble of Monte Carlo dropout samples against a single plain pass."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fer_perception.inference.monte_carlo import (
    FRAMES_PER_PASS,
    MonteCarloDropout,
    MonteCarloNetwork,
)
from fer_perception.models.model_file import LoadedModel, ModelDescription
from fer_training.clips import ClipPreparation, Clips, clips_from_tracks
from fer_training.frame_predictions import (
    FramePredictions,
    pool_clips,
    predict_frames,
    scored_frames,
)
from fer_training.inputs import NetworkInput
from fer_training.results import Predictions
from fer_training.track_sources import PreparedTrack, prepare_tracks
from fer_training.tracks import Track

UNITS = ('clip', 'frame')


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
    prepared = prepare_tracks(
        tracks,
        kinds=[track.label for track in tracks],
        source='tracks',
        classes=model.description.classes,
        frame_rate=model.description.frame_rate,
        normalization=model.description.normalization,
    )
    frames = predict_frames_of(model, prepared, samples=samples, seed=seed, progress=progress)
    return answers_of_frames(frames, model.description, unit=unit)


def predict_frames_of(
    model: LoadedModel,
    tracks: Sequence[PreparedTrack],
    *,
    samples: int,
    seed: int,
    progress: bool = False,
) -> FramePredictions:
    """Predict every frame of prepared tracks with a streaming model, at temperature 1.

    Raises ValueError for what `predict_frames` refuses.
    """
    description = model.description
    return predict_frames(
        model.network,
        tracks,
        network_input=NetworkInput(
            edges=torch.from_numpy(description.edges),
            baseline_frames=description.baseline_frames,
        ),
        frame_rate=description.frame_rate,
        warm_up_s=description.warm_up_s,
        samples=samples,
        seed=seed,
        progress=progress,
    )


def answers_of_frames(
    frames: FramePredictions, description: ModelDescription, *, unit: str
) -> Predictions:
    """Return a model's answer for each scored frame, or for each track.

    Raises ValueError if no frame with a target comes after the warm-up, or, by clips, a track
    never shows its expression.
    """
    answers = frames.answers(description.temperature)
    if unit == 'clip':
        return pool_clips(frames, answers)
    scored = scored_frames(frames)
    if not scored.any():
        raise ValueError(
            f'no frame with a target comes after the warm-up of {description.warm_up_s} s'
        )
    return answers.subset(scored)


def _padded(drawn: Sequence[Tensor], samples: int) -> Tensor:
    """Put samples of different numbers together, NaN where there are fewer: (S, n, C)."""
    padded = drawn[0].new_full((samples, len(drawn), drawn[0].shape[-1]), torch.nan)
    for index, own in enumerate(drawn):
        padded[: len(own), index] = own
    return padded


def _check_mode(network: MonteCarloNetwork) -> None:
    if any(module.training for module in network.modules()):
        raise ValueError('the network to evaluate must be in evaluation mode')
