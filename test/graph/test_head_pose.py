# SPDX-License-Identifier: Apache-2.0
"""A turned head is found, and its face shown as from the front."""

from pathlib import Path

import numpy as np
from faces_made import face_landmarks, transformed
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fer_perception.graph.head_pose import fit_head_pose, frontal_landmarks, mean_face
from fer_perception.graph.landmarks import INNER_LANDMARKS, mirror_landmarks
from fer_perception.graph.normalization import normalize_landmarks
from fer_training.face_basis import load_face_basis
from fer_training.mean_face import mean_face_points

turns = st.floats(-40.0, 40.0)


def turn(yaw: float, pitch: float) -> np.ndarray:
    """Turn by degrees to the right of the image, then down: (3, 3)."""
    return np.asarray(Rotation.from_euler('yx', [yaw, -pitch], degrees=True).as_matrix())


def seen(points: np.ndarray, *, yaw: float = 0.0, pitch: float = 0.0) -> np.ndarray:
    """Turn 3D points (68, 3) by degrees and look at them: (68, 2)."""
    return np.asarray(points @ turn(yaw, pitch).T)[:, :2]


def smiling() -> np.ndarray:
    """Make the mean face with wider and higher mouth corners: (68, 3)."""
    points = mean_face().copy()
    points[[48, 60]] += [-0.25, -0.2, 0.0]
    points[[54, 64]] += [0.25, -0.2, 0.0]
    return points


def test_mean_face_is_that_of_the_basis(shared_data: Path) -> None:
    basis = load_face_basis(shared_data / 'ict_facekit_68.npz')
    assert (mean_face_points(basis) == mean_face()).all()


@given(yaw=turns, pitch=turns)
def test_a_turned_mean_face_is_found_and_undone(yaw: float, pitch: float) -> None:
    turned = 87.0 * seen(mean_face(), yaw=yaw, pitch=pitch) + (320.0, 200.0)
    pose = fit_head_pose(turned)
    assert np.isclose(pose.scale, 87.0, rtol=0.005)
    assert np.allclose(pose.rotation, turn(yaw, pitch), atol=0.02)
    assert np.allclose(frontal_landmarks(turned), mean_face()[:, :2], atol=0.02)


def test_a_nose_to_the_right_or_down_turns_what_is_near_there() -> None:
    tip = 30
    ahead = seen(mean_face())
    right, down = seen(mean_face(), yaw=20.0), seen(mean_face(), pitch=20.0)
    assert right[tip, 0] > ahead[tip, 0] and down[tip, 1] > ahead[tip, 1]
    assert fit_head_pose(right).rotation[0, 2] > 0.2
    assert fit_head_pose(down).rotation[1, 2] > 0.2


@given(
    scale=st.floats(0.2, 20.0), roll=st.floats(-1.5, 1.5), x=st.floats(-2000.0, 2000.0),
    y=st.floats(-2000.0, 2000.0),
)
def test_place_scale_and_roll_do_not_matter(scale: float, roll: float, x: float, y: float) -> None:
    landmarks = face_landmarks(frames=3)
    moved = transformed(landmarks, scale=scale, roll=roll, shift=(x, y))
    expected = normalize_landmarks(landmarks, 'frontal')
    assert np.allclose(normalize_landmarks(moved, 'frontal'), expected, atol=1e-6)


def test_a_mirrored_face_is_mirrored() -> None:
    landmarks = face_landmarks(frames=5)
    expected = mirror_landmarks(frontal_landmarks(landmarks))
    assert np.allclose(frontal_landmarks(mirror_landmarks(landmarks)), expected, atol=1e-9)


def test_frames_are_read_one_by_one() -> None:
    landmarks = face_landmarks(frames=4)
    alone = np.stack([frontal_landmarks(frame) for frame in landmarks])
    assert np.allclose(frontal_landmarks(landmarks), alone, atol=1e-12)


@given(yaw=turns, pitch=turns)
def test_a_bowed_head_changes_an_expression_less_than_without_it(yaw: float, pitch: float) -> None:
    ahead, turned = (seen(smiling(), yaw=a, pitch=b) for a, b in ((0.0, 0.0), (yaw, pitch)))
    moved = {
        mode: np.abs(
            normalize_landmarks(turned, mode) - normalize_landmarks(ahead, mode)
        )[INNER_LANDMARKS].mean()
        for mode in ('similarity', 'frontal')
    }
    assert moved['frontal'] <= max(0.5 * moved['similarity'], 0.01)


@given(st.lists(st.floats(-100.0, 100.0), min_size=136, max_size=136))
def test_what_is_no_face_gives_finite_points(values: list[float]) -> None:
    landmarks = np.array(values).reshape(68, 2)
    assert np.isfinite(frontal_landmarks(landmarks)).all()


def test_points_on_one_line_give_finite_points() -> None:
    line = np.stack([np.arange(68.0), np.arange(68.0)], axis=1)
    assert np.isfinite(frontal_landmarks(line)).all()
