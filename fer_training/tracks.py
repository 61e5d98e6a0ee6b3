# SPDX-License-Identifier: Apache-2.0
"""The track file: labelled landmark tracks of many sequences in one .npz."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_perception.graph.landmarks import check_landmarks
from fer_training.array_archive import read_arrays


class TrackFileError(ValueError):
    """Say which track file cannot be read, and what in it is wrong."""


@dataclass(frozen=True)
class Track:
    """Hold the landmarks of one face over time."""

    landmarks: np.ndarray  # (F, 68, 2) pixels, origin top left
    label: str  # expression at its apex
    subject: str  # who it is
    frame_rate: float  # frames per second
    intensity: np.ndarray | None = None  # (F,) 0 to 1: how much of the expression is there
    found: np.ndarray | None = None  # (F,) bool: frames with a face; None: all of them

    @property
    def times_s(self) -> np.ndarray:
        """Seconds of each frame since the first, (F,)."""
        return np.arange(len(self.landmarks)) / self.frame_rate

    @property
    def found_landmarks(self) -> np.ndarray:
        """Landmarks of the frames with a face, (G, 68, 2)."""
        return self.landmarks if self.found is None else self.landmarks[self.found]

    @property
    def found_intensity(self) -> np.ndarray | None:
        """Intensity of the frames with a face, (G,), if the track has it."""
        if self.intensity is None or self.found is None:
            return self.intensity
        return self.intensity[self.found]

    @property
    def found_times_s(self) -> np.ndarray:
        """Seconds of the frames with a face since the first frame, (G,)."""
        return self.times_s if self.found is None else self.times_s[self.found]


def write_tracks(path: Path, tracks: list[Track]) -> None:
    """Write a track file.

    Arrays: landmarks (F, 68, 2) of all sequences one after another; length, label, subject and
    fps (N,); intensity (F,) if every track has it; found (F,) bool if any track has it. The
    landmarks of frames without a face are stored as 0. Raises ValueError for an empty list.
    """
    if not tracks:
        raise ValueError(f'there are no tracks to write to {path}')
    arrays = {
        'landmarks': np.concatenate([track.landmarks for track in tracks]).astype(np.float32),
        'length': np.array([len(track.landmarks) for track in tracks], np.int32),
        'label': np.array([track.label for track in tracks]),
        'subject': np.array([track.subject for track in tracks]),
        'fps': np.array([track.frame_rate for track in tracks], np.float32),
    }
    intensities = [track.intensity for track in tracks if track.intensity is not None]
    if len(intensities) == len(tracks):
        arrays['intensity'] = np.concatenate(intensities).astype(np.float32)
    if any(track.found is not None for track in tracks):
        found = np.concatenate([_found_frames(track) for track in tracks])  # (F,)
        arrays['landmarks'][~found] = 0.0
        arrays['found'] = found
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('wb') as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_tracks(path: Path) -> list[Track]:
    """Read a track file, checking that its arrays belong together.

    `found` of a track is None if all of its frames show a face. Raises TrackFileError naming the
    file and what is wrong with it.
    """
    if not path.is_file():
        raise TrackFileError(f'track file {path} does not exist')
    try:
        return _split(read_arrays(path))
    except ValueError as error:
        raise TrackFileError(f'{path} is no track file: {error}') from error


def _found_frames(track: Track) -> np.ndarray:
    return np.ones(len(track.landmarks), bool) if track.found is None else track.found


def _split(arrays: dict[str, np.ndarray]) -> list[Track]:
    needed = ('landmarks', 'length', 'label', 'subject', 'fps')
    if missing := [name for name in needed if name not in arrays]:
        raise ValueError(f'it lacks the arrays {", ".join(missing)}')
    intensity = arrays.get('intensity')
    for name in ('landmarks', 'fps', 'intensity'):
        if name in arrays and arrays[name].dtype.kind not in 'fiu':
            raise ValueError(f'{name} must be real numbers, not {arrays[name].dtype}')
    landmarks, length = arrays['landmarks'], arrays['length']
    check_landmarks(landmarks)
    if landmarks.ndim != 3 or not np.issubdtype(length.dtype, np.integer):
        raise ValueError('landmarks must be (F, 68, 2) and length whole numbers')
    shapes = {name: arrays[name].shape for name in needed[1:]}
    if len(set(shapes.values())) != 1 or length.ndim != 1:
        raise ValueError(f'its arrays disagree on the number of sequences: {shapes}')
    if (length < 1).any() or (length > len(landmarks)).any():
        raise ValueError(f'the lengths must be 1 to {len(landmarks)} frames')
    length = length.astype(np.int64)
    if length.sum() != len(landmarks):
        raise ValueError(
            f'the lengths sum to {length.sum()} frames, but there are {len(landmarks)}'
        )
    if not ((arrays['fps'] > 0) & np.isfinite(arrays['fps'])).all():
        raise ValueError('fps must be positive and finite')
    if intensity is not None:
        if intensity.shape != (len(landmarks),):
            raise ValueError(f'intensity must be ({len(landmarks)},), not {intensity.shape}')
        if not np.isfinite(intensity).all():
            raise ValueError('intensity must be finite, but some is NaN or infinite')
    found = arrays.get('found', np.ones(len(landmarks), bool))
    if found.shape != (len(landmarks),) or found.dtype != bool:
        raise ValueError(
            f'found must be ({len(landmarks)},) bool, not {found.shape} of {found.dtype}'
        )
    ends = np.cumsum(length)
    return [
        Track(
            landmarks=landmarks[end - frames : end],
            label=str(label),
            subject=str(subject),
            frame_rate=float(fps),
            intensity=None if intensity is None else intensity[end - frames : end],
            found=None if found[end - frames : end].all() else found[end - frames : end],
        )
        for end, frames, label, subject, fps in zip(
            ends, length, arrays['label'], arrays['subject'], arrays['fps'], strict=True
        )
    ]
