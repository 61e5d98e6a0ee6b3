# SPDX-License-Identifier: Apache-2.0
"""The baseline of a face is the slowly followed mean of its first frames, however they arrive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.graph.baseline import FIRST_FRAMES, Baseline


def frames_of(count: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, count, 5)).astype(np.float32)


@given(count=st.integers(1, 40), span=st.integers(1, 60))
def test_difference_is_from_the_first_frames_slowly_followed(count: int, span: int) -> None:
    vectors = frames_of(count)
    result = Baseline(frames=span).push(vectors)
    assert result.shape == (4, count, 5) and result.dtype == np.float32
    np.testing.assert_array_equal(result[:2], vectors)
    mean = np.zeros((2, 5))
    for index in range(count):
        seen = vectors[:, : index + 1].astype(float)
        is_mean = index < min(FIRST_FRAMES, span)
        mean = seen.mean(1) if is_mean else mean + (seen[:, -1] - mean) / span
        np.testing.assert_allclose(result[2:, index], seen[:, -1] - mean, atol=1e-6)


@given(cuts=st.lists(st.integers(0, 30), max_size=5), span=st.integers(1, 40))
def test_any_splitting_of_the_frames_gives_the_same(cuts: list[int], span: int) -> None:
    vectors = frames_of(30)
    whole = Baseline(frames=span).push(vectors)
    baseline = Baseline(frames=span)
    parts = np.split(vectors, sorted(cuts), axis=1)
    np.testing.assert_array_equal(np.concatenate([baseline.push(p) for p in parts], 1), whole)


def test_streams_side_by_side_do_not_touch_one_another() -> None:
    streams = np.stack([frames_of(20, seed=seed) for seed in range(3)])
    together = Baseline(frames=8).push(streams)
    for stream, result in zip(streams, together, strict=True):
        np.testing.assert_array_equal(Baseline(frames=8).push(stream), result)


def test_a_fixed_offset_of_a_face_cancels_out() -> None:
    vectors = frames_of(20)
    moved = Baseline(frames=50).push(vectors + np.float32(3.0))
    np.testing.assert_allclose(moved[2:], Baseline(frames=50).push(vectors)[2:], atol=1e-5)


def test_a_held_change_fades_with_the_span() -> None:
    step = np.concatenate([np.zeros((2, 100, 1)), np.ones((2, 400, 1))], axis=1)
    difference = Baseline(frames=100).push(step)[2, :, 0]
    assert difference[100] == pytest.approx(0.99)
    assert difference[199] == pytest.approx(0.99**100, rel=1e-6)


def test_an_expression_that_begins_early_is_not_hidden() -> None:
    step = np.concatenate([np.zeros((2, FIRST_FRAMES, 1)), np.ones((2, 30, 1))], axis=1)
    difference = Baseline(frames=150).push(step)[2, :, 0]
    assert difference[:FIRST_FRAMES].tolist() == [0.0] * FIRST_FRAMES
    assert (difference[FIRST_FRAMES:] > 0.8).all()


def test_reset_starts_anew() -> None:
    baseline = Baseline(frames=10)
    first = baseline.push(frames_of(15))
    baseline.push(frames_of(7, seed=2))
    baseline.reset()
    np.testing.assert_array_equal(baseline.push(frames_of(15)), first)


def test_a_span_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match='at least 1 frame, not 0'):
        Baseline(frames=0)
