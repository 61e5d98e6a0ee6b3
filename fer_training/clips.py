# SPDX-License-Identifier: Apache-2.0
"""Clips: sequences of one length, one label each, as the papers' protocols use them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from fer_perception.graph.landmarks import INNER_LANDMARKS
from fer_perception.graph.normalization import NORMALIZATIONS, normalize_landmarks
from fer_perception.models.model_file import CLIP_DISPLACEMENTS, CLIP_SAMPLINGS, ModelDescription
from fer_training.tracks import Track


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Hold N clips. The features may be memory-mapped; nothing here copies them whole."""

    features: np.ndarray  # (N, 2, T, V) float: V = 51 inner landmarks, or E edge vectors
    labels: np.ndarray  # (N,) int64, index into `classes`
    classes: tuple[str, ...]
    subjects: tuple[str, ...]  # (N,) who it is, '' where that is unknown
    names: tuple[str, ...]  # (N,) what the clip was made from

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        shape = self.features.shape
        if len(shape) != 4 or shape[1] != 2 or not all(shape):
            raise ValueError(f'features of clips must have the shape (N, 2, T, V), not {shape}')
        counts = {
            name: len(getattr(self, name)) for name in ('features', 'labels', 'subjects', 'names')
        }
        if len(set(counts.values())) != 1:
            raise ValueError(f'the parts of the clips disagree on their number: {counts}')
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise ValueError(
                f'labels must be 0 to {len(self.classes) - 1} for the classes '
                f'{", ".join(self.classes)}, not {self.labels.min()} to {self.labels.max()}'
            )

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.labels)

    @property
    def holds_landmarks(self) -> bool:
        """Whether the features are inner landmarks, not edge vectors already."""
        return self.features.shape[-1] == len(INNER_LANDMARKS)

    def subset(self, indices: np.ndarray) -> 'Clips':
        """Copy some of the clips, in the order of the indices."""
        return replace(
            self,
            features=self.features[indices],
            labels=self.labels[indices],
            subjects=tuple(self.subjects[index] for index in indices),
            names=tuple(self.names[index] for index in indices),
        )


@dataclass(frozen=True, kw_only=True)
class ClipPreparation:
    """Set how a track becomes a clip."""

    frames: int  # of a clip
    sampling: str = CLIP_SAMPLINGS[0]  # which frames: see `sampled_frames`
    normalization: str = NORMALIZATIONS[0]
    displacement: str = CLIP_DISPLACEMENTS[0]  # from the 'first' frame, or the 'mean' of all

    def __post_init__(self) -> None:
        """Refuse what is unknown, naming it and what there is."""
        if self.frames < 1:
            raise ValueError(f'a clip needs at least 1 frame, not {self.frames}')
        for name, allowed in (
            ('sampling', CLIP_SAMPLINGS),
            ('normalization', NORMALIZATIONS),
            ('displacement', CLIP_DISPLACEMENTS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f'unknown {name} {getattr(self, name)!r}; use {" or ".join(allowed)}'
                )

    @classmethod
    def of(cls, description: ModelDescription) -> 'ClipPreparation':
        """Return how a model that reads whole clips wants them."""
        return cls(
            frames=description.clip_frames,
            sampling=description.clip_sampling,
            normalization=description.normalization,
            displacement=description.clip_displacement,
        )

    def landmarks(self, track: Track) -> np.ndarray:
        """Return the landmarks of the clip of a track, (frames, 68, 2).

        Frames without a face are left out first. A displacement leaves the movement alone, so
        that it matters less whose face it is. Raises ValueError for a track without any face.
        """
        found = track.found_landmarks
        if not len(found):
            raise ValueError(f'a track ({track.label}, {track.subject}) shows no face')
        chosen = found[sampled_frames(len(found), self.frames, self.sampling)]
        points = normalize_landmarks(chosen, self.normalization)
        if self.displacement == 'first':
            return points - points[:1]
        if self.displacement == 'mean':
            return points - points.mean(0, keepdims=True)
        return points


def clips_from_tracks(
    tracks: Sequence[Track],
    *,
    classes: Sequence[str],
    preparation: ClipPreparation,
    progress: bool = False,
) -> Clips:
    """Make a clip of every track.

    Raises ValueError for an empty list, a label that is not among the classes, or a track without
    a face.
    """
    if not tracks:
        raise ValueError('there are no tracks')
    check_labels(tracks, classes)
    features = np.empty((len(tracks), 2, preparation.frames, len(INNER_LANDMARKS)), np.float32)
    for index, track in enumerate(tqdm(tracks, desc='prepare', disable=not progress)):
        points = preparation.landmarks(track)[:, INNER_LANDMARKS]  # (T, 51, 2)
        features[index] = np.moveaxis(points, -1, 0)  # (2, T, 51)
    return Clips(
        features=features,
        labels=np.array([list(classes).index(track.label) for track in tracks]),
        classes=tuple(classes),
        subjects=tuple(track.subject for track in tracks),
        names=tuple(
            f'{track.label}_{track.subject}_{index}' for index, track in enumerate(tracks)
        ),
    )


def sampled_frames(available: int, frames: int, sampling: str = CLIP_SAMPLINGS[0]) -> np.ndarray:
    """Choose the frames of a clip, (frames,) indices of the available ones.

    'intervals': at equal intervals from the first to the last; where there are fewer than
    `frames`, repeated by tiling (AFEW in the paper, IV-B). 'first_and_last': the first frame and
    the last `frames` - 1, neutral and apex (CK+ and Oulu-CASIA in the paper, IV-A); where there
    are fewer, the first comes more than once.
    """
    if sampling == 'first_and_last':
        return np.array([0, *range(available - frames + 1, available)]).clip(min=0)
    if available < frames:
        return np.arange(frames) % available
    return np.round(np.linspace(0, available - 1, frames)).astype(np.int64)


def check_labels(tracks: Sequence[Track], classes: Sequence[str]) -> None:
    """Raise ValueError if a track has a label that is not among the classes."""
    if unknown := {track.label for track in tracks} - set(classes):
        raise ValueError(
            f'the tracks have labels that the model lacks: {", ".join(sorted(unknown))}; '
            f'its classes are {", ".join(classes)}'
        )
