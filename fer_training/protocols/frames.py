# SPDX-License-Identifier: Apache-2.0
"""Which frames of a track make a clip. Frames without a face are never chosen."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fer_perception.graph.resampling import resample_track
from fer_training.clips import sampled_frames
from fer_training.tracks import Track


class FrameChoice(Protocol):
    """Turns a track into the landmarks of a fixed number of frames."""

    @property
    def frames(self) -> int:
        """Frames of a clip."""

    @property
    def description(self) -> str:
        """How they are chosen, in words."""

    def choose(self, track: Track) -> np.ndarray:
        """Return the landmarks of the chosen frames, (frames, 68, 2) pixels."""


@dataclass(frozen=True, kw_only=True)
class FirstAndLast:
    """Choose the first and the last few frames, as for CK+ and Oulu-CASIA.

    Their sequences go from neutral to the apex. In one that is too short frames come twice.
    """

    last: int = 3  # frames from the end; the reference takes 4

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return 1 + self.last

    @property
    def description(self) -> str:
        """How they are chosen, in words."""
        return f'the first and the last {self.last}'

    def choose(self, track: Track) -> np.ndarray:
        """Return the landmarks of the chosen frames, (frames, 68, 2) pixels."""
        landmarks = track.found_landmarks
        ends = np.arange(len(landmarks) - self.last, len(landmarks))
        return landmarks[np.concatenate([[0], np.maximum(ends, 0)])]


@dataclass(frozen=True, kw_only=True)
class EqualIntervals:
    """Choose frames at equal intervals over the whole track; repeat a short one by tiling."""

    frames: int = 150  # as for AFEW

    @property
    def description(self) -> str:
        """How they are chosen, in words."""
        return f'{self.frames} at equal intervals, tiled if there are fewer'

    def choose(self, track: Track) -> np.ndarray:
        """Return the landmarks of the chosen frames, (frames, 68, 2) pixels."""
        landmarks = track.found_landmarks
        return landmarks[sampled_frames(len(landmarks), self.frames)]


@dataclass(frozen=True, kw_only=True)
class ConstantRate:
    """Choose frames at a constant rate, interpolated in time.

    A track that is too short is repeated by tiling, the end of one that is too long is left out.
    """

    rate: float  # frames per second
    frames: int

    @property
    def description(self) -> str:
        """How they are chosen, in words."""
        return f'the first {self.frames} at {self.rate:g} per second, tiled if there are fewer'

    def choose(self, track: Track) -> np.ndarray:
        """Return the landmarks of the chosen frames, (frames, 68, 2) pixels."""
        landmarks = resample_track(
            track.found_landmarks, track.found_times_s, frame_rate=self.rate
        )
        return landmarks[np.arange(self.frames) % len(landmarks)]
