# SPDX-License-Identifier: Apache-2.0
"""Small clips for tests whose classes are easy to tell apart."""

import numpy as np
from faces_made import face_landmarks

from fer_training.clips import ClipPreparation, Clips, clips_from_tracks
from fer_training.tracks import Track

CLIP_CLASSES = ('neutral', 'happiness')


def easy_tracks(count: int = 24, *, frames: int = 8, seed: int = 0) -> list[Track]:
    """Make faces whose mouth widens over time or not, of four people."""
    tracks = []
    for index in range(count):
        landmarks = face_landmarks(frames=frames, seed=seed + index)
        if index % 2:
            centre = landmarks[:, 48:68, 0].mean()
            widths = np.linspace(1.0, 1.5, frames)[:, None]
            landmarks[:, 48:68, 0] = centre + widths * (landmarks[:, 48:68, 0] - centre)
        label = CLIP_CLASSES[index % 2]
        tracks.append(Track(landmarks, label, f'p{index // 2 % 4}', 30.0))
    return tracks


def easy_clips(count: int = 24, *, frames: int = 6, seed: int = 0) -> Clips:
    """Make clips of such faces."""
    return clips_from_tracks(
        easy_tracks(count, seed=seed), classes=CLIP_CLASSES,
        preparation=ClipPreparation(frames=frames, normalization='similarity'),
    )
