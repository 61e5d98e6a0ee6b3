# SPDX-License-Identifier: Apache-2.0
"""The camera's rate does not change what a window of time means."""

import numpy as np
import pytest
from faces_made import face_landmarks
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.graph.resampling import TICK_TOLERANCE, TrackResampler, resample_track


def moving(times_s: np.ndarray) -> np.ndarray:
    """Make a track whose landmarks all move at 10 pixels a second."""
    return face_landmarks(frames=1, movement=0.0) + 10.0 * times_s[:, None, None]


@pytest.mark.parametrize('camera_rate', [12.5, 15.0, 25.0, 30.0, 59.94, 200.0])
def test_linear_movement_survives_any_camera_rate(camera_rate: float) -> None:
    times = np.arange(0.0, 2.0, 1.0 / camera_rate)
    ticks = resample_track(moving(times), times, frame_rate=30.0)
    assert abs(len(ticks) - 30.0 * times[-1]) <= 1.5
    expected = moving(np.arange(len(ticks)) / 30.0)
    assert np.abs(ticks - expected).max() <= 10.0 * TICK_TOLERANCE / 30.0 + 1e-9


def test_a_camera_at_the_models_rate_passes_unchanged() -> None:
    landmarks = face_landmarks(frames=90)
    times = np.round(np.arange(90) / 30.0, 3)  # stamps in whole milliseconds
    assert np.allclose(resample_track(landmarks, times, frame_rate=30.0), landmarks, atol=0.2)
    exact = np.arange(90) / 30.0
    ticks = resample_track(landmarks, exact, frame_rate=30.0)
    assert ticks.shape == landmarks.shape and np.allclose(ticks, landmarks, atol=1e-6)


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=60))
def test_ticks_stay_between_their_neighbours(gaps: list[float]) -> None:
    times = np.cumsum([0.0, *gaps])
    landmarks = face_landmarks(frames=len(times))
    resampler = TrackResampler(frame_rate=30.0)
    total = 0
    for index, time_s in enumerate(times):
        ticks = resampler.push(float(time_s), landmarks[index])
        total += len(ticks)
        pair = landmarks[max(0, index - 1) : index + 1]
        assert (ticks >= pair.min(0) - 1e-9).all() and (ticks <= pair.max(0) + 1e-9).all()
    assert abs(total - (1 + 30.0 * times[-1])) <= 1.0


@pytest.mark.parametrize('later_s', [1.5, -0.1])
def test_after_a_gap_or_back_in_time_the_grid_starts_anew(later_s: float) -> None:
    landmarks = face_landmarks(frames=2)
    resampler = TrackResampler(frame_rate=30.0, max_gap_s=1.0)
    resampler.push(10.0, landmarks[0])
    assert resampler.breaks_before(10.0 + later_s)
    ticks = resampler.push(10.0 + later_s, landmarks[1])
    assert np.array_equal(ticks, landmarks[1:])


def test_bad_tracks_are_refused() -> None:
    with pytest.raises(ValueError, match='ascend'):
        resample_track(face_landmarks(frames=2), np.array([1.0, 1.0]), frame_rate=30.0)
    with pytest.raises(ValueError, match='2 frames but 3 times'):
        resample_track(face_landmarks(frames=2), np.arange(3.0), frame_rate=30.0)
    with pytest.raises(ValueError, match='frame_rate'):
        TrackResampler(frame_rate=0.0)
