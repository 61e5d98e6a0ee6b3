# SPDX-License-Identifier: Apache-2.0
"""Resampling of landmark tracks in time, so that the camera's rate does not matter."""

import numpy as np

# A frame this close before a tick (share of the period) stands for it: cameras jitter, and
# stamps are often rounded to milliseconds.
TICK_TOLERANCE = 0.4


class TrackResampler:
    """Turns landmarks at any times into landmarks at a fixed rate, frame by frame.

    Ticks lie at first frame + k / frame_rate. A tick between two frames is interpolated linearly.
    After a gap longer than `max_gap_s`, or when time goes backwards, the grid starts anew.
    """

    def __init__(self, *, frame_rate: float, max_gap_s: float = 1.0) -> None:
        if not frame_rate > 0:
            raise ValueError(f'frame_rate must be positive, not {frame_rate}')
        self._period_s = 1.0 / frame_rate
        self._max_gap_s = max_gap_s
        self.reset()

    def reset(self) -> None:
        """Forget all frames; the next one starts a new grid."""
        self._start_s = 0.0
        self._ticks = 0
        self._last_time_s = 0.0
        self._last_landmarks: np.ndarray | None = None

    def breaks_before(self, time_s: float) -> bool:
        """Tell whether a frame at this time cannot continue the track (gap, or time back)."""
        gap_s = time_s - self._last_time_s
        return self._last_landmarks is not None and not 0.0 <= gap_s <= self._max_gap_s

    def push(self, time_s: float, landmarks: np.ndarray) -> np.ndarray:
        """Add a frame and return the landmarks of the ticks that it completes.

        time_s: seconds; landmarks: (68, 2). Returns (n, 68, 2), n >= 0.
        """
        if self.breaks_before(time_s):
            self.reset()
        if self._last_landmarks is None:
            self._start_s, self._ticks = time_s, 0
            self._last_time_s, self._last_landmarks = time_s, landmarks
        completed = []
        span_s = time_s - self._last_time_s
        while (tick_s := self._start_s + self._ticks * self._period_s) <= (
            time_s + TICK_TOLERANCE * self._period_s
        ):
            share = (tick_s - self._last_time_s) / span_s if span_s > 0 else 1.0
            share = min(max(share, 0.0), 1.0)
            completed.append((1.0 - share) * self._last_landmarks + share * landmarks)
            self._ticks += 1
        self._last_time_s, self._last_landmarks = time_s, landmarks
        return np.array(completed).reshape(-1, *landmarks.shape)  # (n, 68, 2)


def resample_track(
    landmarks: np.ndarray, times_s: np.ndarray, *, frame_rate: float
) -> np.ndarray:
    """Resample a whole track as the live resampler does.

    landmarks: (F, 68, 2); times_s: (F,) seconds, ascending. Returns (T, 68, 2) at `frame_rate`.
    Raises ValueError if times and frames do not match or times do not ascend.
    """
    if len(landmarks) != len(times_s):
        raise ValueError(f'{len(landmarks)} frames but {len(times_s)} times')
    if (np.diff(times_s) <= 0).any():
        raise ValueError('the times of a track must ascend')
    resampler = TrackResampler(frame_rate=frame_rate, max_gap_s=float('inf'))
    ticks = [resampler.push(t, frame) for t, frame in zip(times_s, landmarks, strict=True)]
    return np.concatenate(ticks) if ticks else np.empty((0, *landmarks.shape[1:]))
