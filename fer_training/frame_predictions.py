# SPDX-License-Identifier: Apache-2.0
"""What a streaming network says at every frame of tracks, kept so that it is computed once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor
from tqdm import tqdm

from fer_perception.inference.monte_carlo import only_dropout_active
from fer_perception.models.dropout import seeded_generator
from fer_perception.models.pst_bln import PstBln
from fer_training.array_archive import read_arrays
from fer_training.dataset import IGNORED, stack_frames
from fer_training.inputs import NetworkInput
from fer_training.results import Predictions, ResultFileError
from fer_training.track_sources import NEUTRAL, PreparedTrack

TRACKS_PER_BATCH = 4  # larger ones fall out of the processor's cache


@dataclass(frozen=True, kw_only=True)
class PredictedTracks:
    """Say of N tracks what they are."""

    names: tuple[str, ...]
    sources: tuple[str, ...]  # name of the data
    kinds: tuple[str, ...]  # label in the file
    subjects: tuple[str, ...]  # unlike those of other sources
    labels: tuple[int, ...]  # class at the apex

    @classmethod
    def of(cls, tracks: Sequence[PreparedTrack]) -> 'PredictedTracks':
        """Say what prepared tracks are."""
        return cls(
            names=tuple(track.name for track in tracks),
            sources=tuple(track.source for track in tracks),
            kinds=tuple(track.kind for track in tracks),
            subjects=tuple(track.subject for track in tracks),
            labels=tuple(track.label for track in tracks),
        )

    def show_expression(self, classes: Sequence[str]) -> np.ndarray:
        """Tell which tracks are labelled by a class, or mapped to another than neutral: (N,) bool.

        The others, mapped to neutral from a label that is no class, are not-an-expression
        material: head movements, people talking.
        """
        return np.array(
            [
                kind in classes or classes[label] != NEUTRAL
                for kind, label in zip(self.kinds, self.labels, strict=True)
            ],
            bool,
        )


@dataclass(frozen=True, kw_only=True)
class FramePredictions:
    """Hold what S Monte Carlo samples and one pass say at M frames, at temperature 1.

    Logarithms of probabilities are kept, from which any temperature can be computed.
    """

    tracks: PredictedTracks  # N
    track: np.ndarray  # (M,) int64 index of the track, ascending
    frame: np.ndarray  # (M,) int64 index of the frame in its track at the network's frame rate
    targets: np.ndarray  # (M,) int64 class index, or IGNORED
    is_warm: np.ndarray  # (M,) bool: after the warm-up
    monte_carlo: np.ndarray  # (S, M, C) nats
    single_pass: np.ndarray  # (M, C) nats

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        count = len(self.track)
        for name in ('frame', 'targets', 'is_warm', 'single_pass'):
            if len(getattr(self, name)) != count:
                raise ValueError(f'{name} is of {len(getattr(self, name))} frames, not {count}')
        if self.monte_carlo.ndim != 3 or self.monte_carlo.shape[1:] != self.single_pass.shape:
            raise ValueError(
                f'samples {self.monte_carlo.shape} and a single pass {self.single_pass.shape} '
                'do not belong together'
            )
        if len({len(getattr(self.tracks, item.name)) for item in fields(PredictedTracks)}) != 1:
            raise ValueError('the parts of the tracks disagree on their number')
        if count and (self.track.min() < 0 or self.track.max() >= len(self.tracks.names)):
            raise ValueError(f'frames are of track {self.track.max()}, which there is not')

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.track)

    @property
    def subjects(self) -> np.ndarray:
        """Name the subject of each frame: (M,)."""
        return np.array(self.tracks.subjects)[self.track]

    def subset(self, frames: np.ndarray) -> 'FramePredictions':
        """Keep the frames of a mask (M,) bool or of ascending indices; all tracks stay."""
        return FramePredictions(
            tracks=self.tracks,
            track=self.track[frames],
            frame=self.frame[frames],
            targets=self.targets[frames],
            is_warm=self.is_warm[frames],
            monte_carlo=self.monte_carlo[:, frames],
            single_pass=self.single_pass[frames],
        )

    def answers(self, temperature: float | np.ndarray) -> Predictions:
        """Return the probabilities of all frames; temperature: one, or (M,) of each frame."""
        divisor = np.broadcast_to(np.asarray(temperature, np.float32), len(self))[:, None]
        return Predictions(
            labels=self.targets,
            names=tuple(
                f'{self.tracks.names[track]}@{frame}'
                for track, frame in zip(self.track, self.frame, strict=True)
            ),
            monte_carlo=softmax(self.monte_carlo / divisor, axis=-1),
            single_pass=softmax(self.single_pass / divisor, axis=-1),
        )

    def clip_frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each track that has frames and those frames by which it is judged as a clip.

        They are those after the warm-up that show its expression, or the last one that shows it
        if the track is over before. Raises ValueError for a track that never shows it.
        """
        ends = np.flatnonzero(np.diff(self.track, append=-1)) + 1
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            index = int(self.track[start])
            shown = start + np.flatnonzero(
                self.targets[start:end] == self.tracks.labels[index]
            )
            if not len(shown):
                raise ValueError(f'track {self.tracks.names[index]} never shows its expression')
            warm = shown[self.is_warm[shown]]
            yield index, warm if len(warm) else shown[-1:]


def pool_clips(frames: FramePredictions, answers: Predictions) -> Predictions:
    """Average the answers of the frames by which each track is judged, sample by sample.

    answers: of the same frames. Raises ValueError for a track that never shows its expression.
    """
    chosen = list(frames.clip_frames())
    return Predictions(
        labels=np.array([frames.tracks.labels[index] for index, _ in chosen]),
        names=tuple(frames.tracks.names[index] for index, _ in chosen),
        monte_carlo=np.stack([answers.monte_carlo[:, own].mean(1) for _, own in chosen], 1),
        single_pass=np.stack([answers.single_pass[own].mean(0) for _, own in chosen]),
    )


@torch.inference_mode()
def predict_frames(
    network: PstBln,
    tracks: Sequence[PreparedTrack],
    *,
    network_input: NetworkInput,
    frame_rate: float,
    warm_up_s: float,
    samples: int,
    seed: int,
    progress: bool = False,
) -> FramePredictions:
    """Predict every frame of tracks with a streaming network by samples and by one pass.

    Raises ValueError for an empty list, fewer than one sample, or a network in training mode or
    without dropout.
    """
    if not tracks:
        raise ValueError('there are no tracks')
    if samples < 1:
        raise ValueError(f'samples must be at least 1, not {samples}')
    if any(module.training for module in network.modules()):
        raise ValueError('the network to evaluate must be in evaluation mode')
    device = next(network.parameters()).device
    generator = seeded_generator(seed, device=device)
    stride = network.config.total_stride
    drawn: dict[int, np.ndarray] = {}
    plain: dict[int, np.ndarray] = {}
    # Tracks of like lengths go together: little is filled up.
    order = sorted(range(len(tracks)), key=lambda index: len(tracks[index].targets))
    bar = tqdm(total=len(tracks), desc='evaluate', unit='track', disable=not progress)
    for start in range(0, len(tracks), TRACKS_PER_BATCH):
        batch = order[start : start + TRACKS_PER_BATCH]
        data = stack_frames([(tracks[index].features, tracks[index].targets) for index in batch])
        inputs = network_input(torch.from_numpy(data.features)).to(device)
        shared = network.deterministic_part(inputs)
        single = _log_probabilities(network.random_logits_over_time(shared))  # (n, T', C)
        with only_dropout_active(network, generator):
            many = np.stack(
                [
                    _log_probabilities(network.random_logits_over_time(shared))
                    for _ in range(samples)
                ]
            )  # (S, n, T', C)
        for place, index in enumerate(batch):
            frames = -(-len(tracks[index].targets) // stride)
            drawn[index] = many[:, place, :frames]
            plain[index] = single[place, :frames]
        bar.update(len(batch))
    bar.close()
    counts = [len(plain[index]) for index in range(len(tracks))]
    frame = np.concatenate([np.arange(count) * stride for count in counts])
    return FramePredictions(
        tracks=PredictedTracks.of(tracks),
        track=np.repeat(np.arange(len(tracks)), counts),
        frame=frame,
        targets=np.concatenate([track.targets[::stride] for track in tracks]),
        is_warm=frame / frame_rate + 1e-6 >= warm_up_s,  # as the decision rule has it
        monte_carlo=np.concatenate([drawn[index] for index in range(len(tracks))], axis=1),
        single_pass=np.concatenate([plain[index] for index in range(len(tracks))]),
    )


def join_frames(parts: Sequence[FramePredictions]) -> FramePredictions:
    """Pool the frames of several folds, in their order."""
    starts = np.cumsum([0, *(len(part.tracks.names) for part in parts)])
    return FramePredictions(
        tracks=PredictedTracks(
            **{
                item.name: tuple(
                    value for part in parts for value in getattr(part.tracks, item.name)
                )
                for item in fields(PredictedTracks)
            }
        ),
        track=np.concatenate(
            [part.track + start for part, start in zip(parts, starts, strict=False)]
        ),
        frame=np.concatenate([part.frame for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        is_warm=np.concatenate([part.is_warm for part in parts]),
        monte_carlo=np.concatenate([part.monte_carlo for part in parts], axis=1),
        single_pass=np.concatenate([part.single_pass for part in parts]),
    )


def scored_frames(frames: FramePredictions) -> np.ndarray:
    """Tell which frames are scored one by one: those after the warm-up with a target, (M,)."""
    return np.asarray(frames.is_warm & (frames.targets != IGNORED))


def write_frame_predictions(path: Path, frames: FramePredictions) -> None:
    """Write predictions as .npz, logarithms in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        **{
            f'track_{item.name}': np.array(getattr(frames.tracks, item.name))
            for item in fields(PredictedTracks)
        },
        'track': frames.track,
        'frame': frames.frame,
        'targets': frames.targets,
        'is_warm': frames.is_warm,
        'monte_carlo': frames.monte_carlo.astype(np.float16),
        'single_pass': frames.single_pass.astype(np.float32),
    }
    temporary = path.with_suffix('.part')
    with temporary.open('wb') as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)


def read_frame_predictions(path: Path) -> FramePredictions:
    """Read predictions, in single precision.

    Raises ResultFileError naming the file and the first thing wrong with it.
    """
    try:
        arrays = read_arrays(path)
        return FramePredictions(
            tracks=PredictedTracks(
                **{
                    item.name: tuple(arrays[f'track_{item.name}'].tolist())
                    for item in fields(PredictedTracks)
                }
            ),
            track=arrays['track'],
            frame=arrays['frame'],
            targets=arrays['targets'],
            is_warm=arrays['is_warm'],
            monte_carlo=arrays['monte_carlo'].astype(np.float32),
            single_pass=arrays['single_pass'].astype(np.float32),
        )
    except (ValueError, TypeError, KeyError) as error:  # arrays of other kinds, or none
        raise ResultFileError(f'{path} holds no predictions of frames: {error}') from error


def _log_probabilities(logits: Tensor) -> np.ndarray:
    return np.asarray(logits.float().log_softmax(-1).cpu().numpy())
