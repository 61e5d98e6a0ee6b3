# SPDX-License-Identifier: Apache-2.0
"""Tracks of made people who smile, frown or rest, for networks that answer at every frame."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from faces_made import face_landmarks

from fer_training.dataset import TrainingSet, stack_frames
from fer_training.recipes import CLASSES
from fer_training.track_sources import prepare_tracks
from fer_training.tracks import Track, write_tracks

RATE = 30.0
MOUTH = slice(48, 68)


def envelope(frames: int) -> np.ndarray:
    """Return an intensity (F,) that rises after a tenth of the track and falls before its end."""
    time = np.linspace(0, 1, frames)
    return np.clip(np.minimum((time - 0.15) / 0.2, (0.95 - time) / 0.15), 0, 1)


def made_track(
    label: str, subject: str, *, seed: int, frames: int = 24, knows_intensity: bool = True
) -> Track:
    """Make a face whose mouth widens ('happiness'), narrows ('sadness') or rests (any other)."""
    random = np.random.default_rng(seed)
    landmarks = np.repeat(face_landmarks(frames=1, seed=seed), frames, axis=0)
    intensity = envelope(frames) if label in ('happiness', 'sadness') else np.zeros(frames)
    factor = {'happiness': 0.5, 'sadness': -0.4}.get(label, 0.0)
    centre = landmarks[:, MOUTH, :1].mean(1, keepdims=True)
    widths = 1.0 + factor * intensity[:, None, None]
    landmarks[:, MOUTH, :1] = centre + widths * (landmarks[:, MOUTH, :1] - centre)
    landmarks = landmarks + random.normal(0, 0.2, landmarks.shape)
    return Track(
        landmarks.astype(np.float32), label, subject, RATE,
        intensity.astype(np.float32) if knows_intensity else None,
    )


def write_made_tracks(
    path: Path,
    *,
    labels: tuple[str, ...],
    subjects: tuple[str, ...],
    seed: int,
    frames: int = 24,
    knows_intensity: bool = True,
) -> Path:
    """Write a track of each label of each subject; return the path."""
    write_tracks(
        path,
        [
            made_track(label, subject, seed=seed + 31 * index + number, frames=frames,
                       knows_intensity=knows_intensity)
            for index, subject in enumerate(subjects)
            for number, label in enumerate(labels)
        ],
    )
    return path


def whole_tracks(
    tracks: Sequence[Track],
    *,
    classes: Sequence[str] = CLASSES,
    frame_rate: float = RATE,
    normalization: str = 'similarity',
) -> TrainingSet:
    """Prepare tracks as a streaming network reads them, each whole."""
    prepared = prepare_tracks(
        tracks, kinds=[track.label for track in tracks], source='made', classes=classes,
        frame_rate=frame_rate, normalization=normalization,
    )
    return stack_frames([(track.features, track.targets) for track in prepared])
