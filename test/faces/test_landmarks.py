# SPDX-License-Identifier: Apache-2.0
"""The landmark model: loading it, and what its landmarks do when the image changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from shape_models_made import made_model

from fer_perception.faces import Box, FaceDetector, LandmarkPredictor, landmarks
from fer_perception.faces.place import FacePlace
from fer_perception.faces.shape_predictor import DlibShapePredictor, native_is_available


@pytest.fixture(scope='module', params=['compiled', 'dlib'])
def predictor(
    request: pytest.FixtureRequest, landmark_model_path: Path
) -> Iterator[LandmarkPredictor]:
    """Return the landmark model in the compiled library, and in dlib, its fallback."""
    if request.param == 'compiled' and not native_is_available():
        pytest.skip('the library was not compiled')
    with pytest.MonkeyPatch.context() as patch:
        if request.param == 'dlib':
            patch.setattr(landmarks, 'open_shape_predictor', DlibShapePredictor)
        yield LandmarkPredictor(landmark_model_path)


@pytest.fixture(scope='module')
def grey(sample_clip: Path) -> np.ndarray:
    ok, image = cv2.VideoCapture(str(sample_clip)).read()
    assert ok
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


@pytest.fixture(scope='module')
def box(grey: np.ndarray) -> Box:
    return FaceDetector().detect(grey)[0][0]


def distance(first: np.ndarray, second: np.ndarray, box: Box) -> float:
    """Return the mean distance of landmarks in parts of the face's size."""
    return float(np.linalg.norm(first - second, axis=1).mean() / box.width)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'nothing\.dat'):
        LandmarkPredictor(tmp_path / 'nothing.dat')


@pytest.mark.parametrize('content', [b'', b'no model', b'\x00' * 1000, b'\xff' * 1000])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'bad.dat'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'bad\.dat'):
        LandmarkPredictor(path)


def test_a_truncated_model_is_refused(tmp_path: Path, landmark_model_path: Path) -> None:
    path = tmp_path / 'half.dat'
    with landmark_model_path.open('rb') as model:
        path.write_bytes(model.read(1_000_000))
    with pytest.raises(ValueError, match=r'half\.dat'):
        LandmarkPredictor(path)


def test_landmarks_lie_on_the_face(
    predictor: LandmarkPredictor, grey: np.ndarray, box: Box
) -> None:
    landmarks = predictor.predict(grey, box)
    assert landmarks.shape == (68, 2)
    assert landmarks.dtype == np.float32
    eyes, nose, mouth = landmarks[36:48, 1], landmarks[30, 1], landmarks[48:68, 1]
    assert eyes.mean() < nose < mouth.mean()
    assert landmarks[36:42, 0].mean() < landmarks[42:48, 0].mean()
    place = FacePlace.from_landmarks(landmarks)
    assert place.box.intersection_over_union(box) > 0.6


def test_landmarks_turn_with_the_head(
    predictor: LandmarkPredictor, grey: np.ndarray, box: Box
) -> None:
    place = FacePlace.from_landmarks(predictor.predict(grey, box, fits=5))
    upright = predictor.predict(grey, place.box, roll=place.roll, fits=5)
    for degrees in (30, -75, 170):
        turn = cv2.getRotationMatrix2D((place.x, place.y), -degrees, 1.0)
        bent = cv2.warpAffine(grey, turn, grey.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        landmarks = predictor.predict(
            bent, place.box, roll=place.roll + np.radians(degrees), fits=5
        )
        expected = upright @ turn[:, :2].T + turn[:, 2]
        assert distance(landmarks, expected, box) < 0.02


def test_averaged_fits_agree_with_a_single_one(
    predictor: LandmarkPredictor, grey: np.ndarray, box: Box
) -> None:
    place = FacePlace.from_landmarks(predictor.predict(grey, box))
    single = predictor.predict(grey, place.box, roll=place.roll)
    averaged = predictor.predict(grey, place.box, roll=place.roll, fits=8)
    assert distance(single, averaged, box) < 0.02
    with pytest.raises(ValueError, match='fits'):
        predictor.predict(grey, box, fits=0)


def test_faces_at_once_have_the_landmarks_of_one_at_a_time(
    predictor: LandmarkPredictor, landmark_model_path: Path, grey: np.ndarray, box: Box
) -> None:
    heads = [
        (box, 0.0),
        (Box(box.left + 9, box.top, box.right + 9, box.bottom), -0.3),
        (Box(-300, -300, -150, -150), 0.5),
    ]
    together = predictor.predict_all(grey, heads, fits=3)
    assert together.points.shape == (3, 68, 2)
    assert together.points.dtype == np.float32
    for (one, roll), expected in zip(heads, together.points, strict=True):
        assert np.array_equal(predictor.predict(grey, one, roll=roll, fits=3), expected)
    assert predictor.predict_all(grey, []).points.shape == (0, 68, 2)
    assert predictor.predict_all(grey, []).spreads.shape == (0,)
    threaded = LandmarkPredictor(landmark_model_path, threads=3)
    threaded_together = threaded.predict_all(grey, heads, fits=3)
    assert np.array_equal(threaded_together.points, together.points)
    assert np.array_equal(threaded_together.spreads, together.spreads)
    with pytest.raises(ValueError, match='threads'):
        LandmarkPredictor(landmark_model_path, threads=0)


def test_fits_agree_on_a_face_and_nowhere_else(
    predictor: LandmarkPredictor, grey: np.ndarray, box: Box
) -> None:
    place = FacePlace.from_box(box)
    for _ in range(2):
        fitted = predictor.predict_all(grey, [(place.box, place.roll)], fits=3)
        place = FacePlace.from_landmarks(fitted.points[0])
    for moved in (place, place.moved(0.08 * place.side, 0.05 * place.side)):
        spread = predictor.predict_all(grey, [(moved.box, moved.roll)], fits=3).spreads[0]
        assert 0 < spread < 0.008
    elsewhere = [FacePlace(60, 300, 80), FacePlace(560, 60, 120), FacePlace(300, 330, 60)]
    blank = np.full_like(grey, 90)
    heads = [(place.box, place.roll) for place in elsewhere]
    assert (predictor.predict_all(grey, heads, fits=3).spreads > 0.02).all()
    assert (predictor.predict_all(blank, heads, fits=3).spreads > 0.02).all()


def test_a_single_fit_agrees_with_nothing(
    predictor: LandmarkPredictor, grey: np.ndarray, box: Box
) -> None:
    assert predictor.predict_all(grey, [(box, 0.0)], fits=1).spreads.tolist() == [np.inf]


def test_a_model_of_other_points_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'five.dat'
    path.write_bytes(made_model(points=5).to_bytes())
    with pytest.raises(ValueError, match=r'five\.dat.* 5 landmarks'):
        LandmarkPredictor(path)


@pytest.mark.parametrize('corner', [(-300, -300), (-80, 100), (600, 320), (5000, 5000)])
def test_boxes_at_the_border_and_outside_do_no_harm(
    predictor: LandmarkPredictor, grey: np.ndarray, corner: tuple[int, int]
) -> None:
    left, top = corner
    landmarks = predictor.predict(grey, Box(left, top, left + 150, top + 150))
    assert np.isfinite(landmarks).all()
