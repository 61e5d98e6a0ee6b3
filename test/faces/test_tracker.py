# SPDX-License-Identifier: Apache-2.0
"""The tracker: on real clips with the real models, and its rules on faces made of numbers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_perception.faces import (
    Box,
    Face,
    FaceDetector,
    FaceTracker,
    FaceTrackerConfig,
    LandmarkPredictor,
)
from fer_perception.faces.identifiers import Identifiers
from fer_perception.faces.landmarks import FittedLandmarks
from fer_perception.faces.place import FacePlace

COUPLE = 'head-pose-face-detection-female-and-male.gif'
MAN = 'head-pose-face-detection-male.gif'


class CountingDetector(FaceDetector):
    """The real detector, counting the images it searched."""

    def __init__(self) -> None:
        super().__init__()
        self.searches = 0

    def detect(self, grey: np.ndarray, *, min_score: float = 0.0) -> list[tuple[Box, float]]:
        self.searches += 1
        return super().detect(grey, min_score=min_score)


def read(path: Path) -> tuple[list[np.ndarray], float]:
    """Return a clip's grey images and its frame rate."""
    capture = cv2.VideoCapture(str(path))
    frames: list[np.ndarray] = []
    while True:
        ok, image = capture.read()
        if not ok:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))


def real_tracker(
    predictor: LandmarkPredictor,
    detector: FaceDetector | None = None,
    *,
    detection_interval: int = 5,
) -> FaceTracker:
    return FaceTracker(
        config=FaceTrackerConfig(detection_interval=detection_interval),
        detector=detector or FaceDetector(),
        predictor=predictor,
        identifiers=Identifiers(deterministic=True),
    )


def follow(tracker: FaceTracker, frames: list[np.ndarray], rate: float) -> list[list[Face]]:
    return [tracker.update(frame, index / rate) for index, frame in enumerate(frames)]


def ids_of(results: list[list[Face]]) -> list[list[str]]:
    return [[face.face_id for face in faces] for faces in results]


# Real clips


def test_the_sample_clip_is_one_face_from_the_first_frame(
    predictor: LandmarkPredictor, sample_clip: Path
) -> None:
    frames, rate = read(sample_clip)
    detector = CountingDetector()
    tracker = real_tracker(predictor, detector)
    results = follow(tracker, frames, rate)
    assert ids_of(results) == [['a0000']] * 72
    assert tracker.tracked_ids == {'a0000'}
    # One search on the first frame, then one every five frames.
    assert detector.searches == 1 + 71 // 5
    boxes = [faces[0].box for faces in results]
    for before, after in zip(boxes, boxes[1:], strict=False):
        assert before.intersection_over_union(after) > 0.9
    for faces in results:
        assert faces[0].landmarks.shape == (68, 2)
        assert faces[0].landmarks.dtype == np.float32


def test_a_clip_without_a_face_stays_empty(
    predictor: LandmarkPredictor, no_face_clip: Path
) -> None:
    frames, rate = read(no_face_clip)
    tracker = real_tracker(predictor)
    assert follow(tracker, frames, rate) == [[]] * len(frames)
    assert tracker.tracked_ids == frozenset()


def test_two_tilting_faces_keep_their_ids(
    predictor: LandmarkPredictor, shared_data: Path
) -> None:
    frames, rate = read(shared_data / COUPLE)
    results = follow(real_tracker(predictor), frames, rate)
    assert {face_id for ids in ids_of(results) for face_id in ids} == {'a0000', 'a0001'}
    left = min(results[0], key=lambda face: face.box.left).face_id
    for faces in results:
        assert len(faces) == 2
        assert min(faces, key=lambda face: face.box.left).face_id == left


def test_a_laughing_man_is_one_face(predictor: LandmarkPredictor, shared_data: Path) -> None:
    frames, rate = read(shared_data / MAN)
    assert ids_of(follow(real_tracker(predictor), frames, rate)) == [['a0000']] * len(frames)


@pytest.mark.parametrize(('blank_s', 'face_id'), [(0.5, 'a0000'), (0.9, 'a0000'), (1.5, 'a0001')])
def test_a_face_that_vanishes_keeps_its_id_for_a_second(
    predictor: LandmarkPredictor, sample_clip: Path, blank_s: float, face_id: str
) -> None:
    frames, rate = read(sample_clip)
    first, last = 12, 12 + round(blank_s * rate)
    frames[first:last] = [np.full_like(frames[0], 90)] * (last - first)
    tracker = real_tracker(predictor)
    results = follow(tracker, frames, rate)
    assert ids_of(results[:first]) == [['a0000']] * first
    # Garbage is not shown for long: until the next search and one more.
    assert all(faces == [] for faces in results[first + 6:last])
    assert ids_of(results[last:]) == [[face_id]] * (len(frames) - last)
    assert tracker.tracked_ids == {face_id}


# A search takes parts of the bent head for faces on some frames: with 1 it meets them all.
@pytest.mark.parametrize('detection_interval', [1, 5])
def test_a_moving_and_turning_face_is_followed(
    predictor: LandmarkPredictor, sample_clip: Path, detection_interval: int
) -> None:
    face = read(sample_clip)[0][0]
    place = FacePlace.from_box(FaceDetector().detect(face)[0][0])
    tracker = real_tracker(predictor, detection_interval=detection_interval)
    for index in range(90):
        turn = cv2.getRotationMatrix2D((place.x, place.y), -60 * math.sin(index / 15), 1.0)
        turn[:, 2] += np.array([100 * math.sin(index / 12), 40 * math.cos(index / 9)])
        image = cv2.warpAffine(face, turn, face.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        faces = tracker.update(image, index / 30)
        assert ids_of([faces]) == [['a0000']]
        centre = turn @ (place.x, place.y, 1)
        box = faces[0].box
        shift = np.subtract(((box.left + box.right) / 2, (box.top + box.bottom) / 2), centre)
        assert np.linalg.norm(shift) < 0.15 * place.side


def test_any_number_of_faces_have_one_id_each(
    predictor: LandmarkPredictor, sample_clip: Path
) -> None:
    frames, rate = read(sample_clip)
    wall = [np.tile(frame, (2, 2)) for frame in frames[:12]]
    results = follow(real_tracker(predictor, FaceDetector(max_side=1280)), wall, rate)
    assert [len(faces) for faces in results] == [4] * 12
    assert {tuple(ids) for ids in ids_of(results)} == {('a0000', 'a0001', 'a0002', 'a0003')}


def test_a_face_may_leave_through_the_border(
    predictor: LandmarkPredictor, sample_clip: Path
) -> None:
    face = read(sample_clip)[0][0]
    tracker = real_tracker(predictor)
    for index in range(60):
        image = np.full_like(face, 90)
        shift = 12 * index
        if shift < face.shape[1]:
            image[:, : face.shape[1] - shift] = face[:, shift:]
        for found in tracker.update(image, index / 30):
            assert np.isfinite(found.landmarks).all()
    assert tracker.update(np.full_like(face, 90), 2.0) == []


def test_a_change_of_the_image_size_keeps_the_face(
    predictor: LandmarkPredictor, sample_clip: Path
) -> None:
    frames, rate = read(sample_clip)
    frames = frames[:8] + [cv2.resize(frame, (960, 540)) for frame in frames[8:16]]
    results = follow(real_tracker(predictor), frames, rate)
    assert ids_of(results) == [['a0000']] * 16
    assert results[8][0].box.width == pytest.approx(1.5 * results[7][0].box.width, rel=0.05)


# Rules, on faces made of numbers: where a detector and a predictor would see them

GREY = np.zeros((480, 640), np.uint8)


class World:
    """Faces at known places, seen by a detector and a predictor that make no errors."""

    def __init__(self, drawn_face: np.ndarray) -> None:
        self.drawn_face = drawn_face
        self.faces: list[FacePlace] = []
        self.scores: dict[FacePlace, float] = {}
        self.searches = 0
        self.looks = 0

    def detect(self, grey: np.ndarray, *, min_score: float = 0.0) -> list[tuple[Box, float]]:
        self.searches += 1
        found = [(face.box, self.scores.get(face, 2.0)) for face in self.faces]
        return [(box, score) for box, score in found if score >= min_score]

    def look(
        self, grey: np.ndarray, place: FacePlace, *, min_score: float = 0.0
    ) -> tuple[Box, float] | None:
        self.looks += 1
        nearest = self.nearest(place)
        score = self.scores.get(nearest, 2.0) if nearest is not None else -9.0
        return None if nearest is None or score < min_score else (nearest.box, score)

    def predict(
        self, grey: np.ndarray, box: Box, *, roll: float = 0.0, fits: int = 1
    ) -> np.ndarray:
        """Return the landmarks of a face that the box is on, else those of an average face."""
        place = FacePlace.from_box(box)
        place = self.nearest(place) or place
        landmarks = self.drawn_face * place.side + [place.x, place.y]
        return landmarks.astype(np.float32)

    def predict_all(
        self, grey: np.ndarray, heads: list[tuple[Box, float]], *, fits: int = 1
    ) -> FittedLandmarks:
        return FittedLandmarks(
            points=np.stack(
                [self.predict(grey, box, roll=roll, fits=fits) for box, roll in heads]
            ),
            spreads=np.array([self.spread(box) for box, _ in heads]),
        )

    def spread(self, box: Box) -> float:
        """Return how far apart fits from a box are: as far as they started where no face is."""
        return 0.003 if self.nearest(FacePlace.from_box(box)) else 0.035

    def nearest(self, place: FacePlace) -> FacePlace | None:
        near = [face for face in self.faces
                if math.hypot(face.x - place.x, face.y - place.y) < 0.4 * place.side]
        return min(near, key=lambda face: abs(face.x - place.x), default=None)


@pytest.fixture
def world(drawn_face: np.ndarray) -> World:
    return World(drawn_face)


@pytest.fixture
def make_tracker(world: World) -> Callable[..., FaceTracker]:
    def make(**settings: float) -> FaceTracker:
        return FaceTracker(
            config=FaceTrackerConfig(**settings),  # type: ignore[arg-type]
            detector=world,  # type: ignore[arg-type]
            predictor=world,  # type: ignore[arg-type]
            identifiers=Identifiers(deterministic=True),
        )
    return make


def test_every_frame_is_searched_while_nobody_is_there(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    tracker = make_tracker(detection_interval=5)
    for index in range(4):
        assert tracker.update(GREY, index / 30) == []
    assert world.searches == 4
    world.faces = [FacePlace(200, 200, 100)]
    for index in range(4, 14):
        assert len(tracker.update(GREY, index / 30)) == 1
    assert world.searches == 6  # frames 4 and 9


def test_a_slow_camera_is_searched_by_time(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_tracker(detection_interval_s=0.5)
    for index in range(5):
        tracker.update(GREY, index * 0.25)
    assert world.searches == 3


@pytest.mark.parametrize('rate', [5, 12.5, 30, 60])
def test_a_new_face_waits_less_than_a_second(
    world: World, make_tracker: Callable[..., FaceTracker], rate: float
) -> None:
    for moment in range(1, 40):
        world.faces = [FacePlace(200, 200, 100)]
        tracker = make_tracker()
        for index in range(round(moment + 2 * rate)):
            if index >= moment:
                world.faces = [FacePlace(200, 200, 100), FacePlace(400, 200, 100)]
            if len(tracker.update(GREY, index / rate)) == 2:
                break
        assert (index - moment) / rate < 0.9


def test_a_weak_score_keeps_a_face_but_starts_none(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    place = FacePlace(200, 200, 100)
    world.faces = [place]
    world.scores = {place: -0.2}
    tracker = make_tracker()
    assert tracker.update(GREY, 0.0) == []
    world.scores = {place: 0.2}
    assert len(tracker.update(GREY, 0.1)) == 1
    world.scores = {place: -0.2}
    for index in range(2, 20):
        assert ids_of([tracker.update(GREY, index / 10)]) == [['a0000']]


def test_one_miss_is_forgiven_and_the_count_starts_again(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    tracker = make_tracker(detection_interval=1)
    for index in range(20):
        world.faces = [] if index % 2 else [FacePlace(200, 200, 100)]
        assert ids_of([tracker.update(GREY, index / 30)]) == [['a0000']]


def test_a_second_miss_hides_the_face_and_time_forgets_it(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_tracker(detection_interval=1)
    tracker.update(GREY, 0.0)
    world.faces = []
    assert len(tracker.update(GREY, 0.1)) == 1
    assert tracker.update(GREY, 0.2) == []
    assert tracker.tracked_ids == {'a0000'}
    assert tracker.update(GREY, 1.0) == []
    assert tracker.tracked_ids == {'a0000'}
    assert tracker.update(GREY, 1.3) == []
    assert tracker.tracked_ids == frozenset()


@pytest.mark.parametrize(('shift', 'face_id'), [(80, 'a0000'), (300, 'a0001')])
def test_a_lost_face_is_found_again_near_its_last_place(
    world: World, make_tracker: Callable[..., FaceTracker], shift: float, face_id: str
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_tracker(detection_interval=1)
    tracker.update(GREY, 0.0)
    world.faces = []
    for index in range(1, 8):
        tracker.update(GREY, index / 10)
    world.faces = [FacePlace(200 + shift, 210, 110)]
    assert ids_of([tracker.update(GREY, 0.8)]) == [[face_id]]


def test_landmarks_drifting_off_a_vanished_face_do_not_cost_its_id(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    face = FacePlace(200, 200, 100)
    world.faces = [face]
    tracker = make_tracker()
    tracker.update(GREY, 0.0)
    world.faces = []
    drawn_face = world.drawn_face
    world.drawn_face = drawn_face + [0.3, 0.1]
    for index in range(1, 10):
        tracker.update(GREY, index / 30)
    world.drawn_face = drawn_face
    world.faces = [face]
    assert ids_of([tracker.update(GREY, 0.4)]) == [['a0000']]


def test_two_faces_vanishing_together_get_their_own_ids_back(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    world.faces = [FacePlace(200, 200, 100), FacePlace(320, 200, 100)]
    tracker = make_tracker(detection_interval=1)
    before = tracker.update(GREY, 0.0)
    world.faces = []
    for index in range(1, 5):
        tracker.update(GREY, index / 10)
    world.faces = [FacePlace(350, 190, 100), FacePlace(230, 210, 100)]
    after = tracker.update(GREY, 0.5)
    assert [face.face_id for face in after] == [face.face_id for face in before]
    assert after[0].box.left < after[1].box.left


def test_a_face_that_jumps_between_searches_is_caught_again(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_tracker()
    tracker.update(GREY, 0.0)
    world.faces = [FacePlace(270, 200, 100)]
    for index in range(1, 7):
        faces = tracker.update(GREY, index / 30)
    assert ids_of([faces]) == [['a0000']]
    assert faces[0].box.left == pytest.approx(220, abs=1)


def test_faces_whose_fits_agree_need_no_look_and_others_one_now_and_then(
    world: World, make_tracker: Callable[..., FaceTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.faces = [FacePlace(200, 200, 100), FacePlace(400, 200, 100)]
    tracker = make_tracker(detection_interval=1000, detection_interval_s=1000.0)
    for index in range(21):
        tracker.update(GREY, index / 30)
    assert world.looks == 0
    monkeypatch.setattr(world, 'spread', lambda box: 0.02 if box.left < 250 else 0.01)
    for index in range(21, 41):
        faces = tracker.update(GREY, index / 30)
    assert world.looks == 7  # at once, then every three frames, at one face
    assert len(faces) == 2
    assert world.searches == 1


def test_a_face_whose_fits_disagree_and_that_a_look_does_not_see_is_searched_for(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_tracker(detection_interval=1000, detection_interval_s=1000.0)
    for index in range(10):
        tracker.update(GREY, index / 30)
    world.faces = []
    results = [tracker.update(GREY, index / 30) for index in range(10, 14)]
    # A look at the first, a search of the second.
    assert [len(faces) for faces in results] == [1, 0, 0, 0]


def test_landmarks_are_not_fitted_anew_while_they_agree_with_the_detection(
    world: World, make_tracker: Callable[..., FaceTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_tracker(detection_interval=1)
    tracker.update(GREY, 0.0)
    boxes = []

    def predict(
        grey: np.ndarray, box: Box, *, roll: float = 0.0, fits: int = 1
    ) -> np.ndarray:
        boxes.append(box)
        return World.predict(world, grey, box, roll=roll, fits=fits)

    monkeypatch.setattr(world, 'predict', predict)
    # A detection off by a tenth of the face, as the detector's coarse steps make them.
    monkeypatch.setattr(
        world, 'detect', lambda grey, *, min_score: [(FacePlace(208, 195, 92).box, 2.0)]
    )
    for index in range(1, 5):
        tracker.update(GREY, index / 30)
    assert len(boxes) == 4
    assert all(box.left == pytest.approx(150, abs=0.1) for box in boxes)


@pytest.mark.parametrize(('score', 'left'), [(-0.2, 150), (2.5, 187)])
def test_of_a_detection_and_a_look_the_clearer_face_is_shown(
    world: World,
    make_tracker: Callable[..., FaceTracker],
    monkeypatch: pytest.MonkeyPatch,
    score: float,
    left: float,
) -> None:
    face, other = FacePlace(200, 200, 100), FacePlace(242, 182, 110)
    assert 0.3 < face.box.intersection_over_union(other.box) < 0.5
    world.faces = [face]
    tracker = make_tracker(detection_interval=1)
    tracker.update(GREY, 0.0)
    # The landmarks stay on the face, and a look at it scores 2.
    world.faces = [face, other]
    monkeypatch.setattr(world, 'detect', lambda grey, *, min_score: [(other.box, score)])
    for index in range(1, 5):
        faces = tracker.update(GREY, index / 30)
        assert ids_of([faces]) == [['a0000']]
        assert faces[0].box.left == pytest.approx(left, abs=0.1)


def test_two_tracks_on_one_face_become_the_older_one(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    world.faces = [FacePlace(200, 200, 100), FacePlace(350, 200, 100)]
    tracker = make_tracker()
    assert len(tracker.update(GREY, 0.0)) == 2
    # The second face walks behind the first one.
    for index in range(1, 60):
        world.faces = [FacePlace(200, 200, 100), FacePlace(max(350 - 5 * index, 205), 200, 100)]
        faces = tracker.update(GREY, index / 30)
    assert ids_of([faces]) == [['a0000']]


def test_time_going_backwards_forgets_all_faces(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_tracker()
    tracker.update(GREY, 10.0)
    assert ids_of([tracker.update(GREY, 10.0)]) == [['a0000']]
    assert ids_of([tracker.update(GREY, 9.9)]) == [['a0001']]
    assert tracker.tracked_ids == {'a0001'}


def test_a_long_gap_ends_all_tracks(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_tracker()
    tracker.update(GREY, 0.0)
    assert ids_of([tracker.update(GREY, 0.9)]) == [['a0000']]
    assert ids_of([tracker.update(GREY, 2.0)]) == [['a0001']]


def test_after_a_reset_nobody_is_known(
    world: World, make_tracker: Callable[..., FaceTracker]
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_tracker()
    tracker.update(GREY, 0.0)
    tracker.reset()
    assert tracker.tracked_ids == frozenset()
    assert ids_of([tracker.update(GREY, 0.0)]) == [['a0001']]


@pytest.mark.parametrize('damage', ['not finite', 'a point', 'far away', 'huge'])
def test_implausible_landmarks_lose_the_face(
    world: World,
    make_tracker: Callable[..., FaceTracker],
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_tracker()
    tracker.update(GREY, 0.0)
    fits = {
        'not finite': np.full((68, 2), np.nan),
        'a point': np.full((68, 2), 200.0),
        'far away': world.drawn_face * 100 + [-900, 200],
        'huge': world.drawn_face * 5000 + [200, 200],
    }
    with monkeypatch.context() as patch:
        patch.setattr(world, 'predict', lambda *_, **__: fits[damage].astype(np.float32))
        assert tracker.update(GREY, 0.1) == []
        assert tracker.tracked_ids == {'a0000'}
    assert ids_of([tracker.update(GREY, 0.2)]) == [['a0000']]


@pytest.mark.parametrize(
    'grey',
    [np.zeros((0, 640), np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4))],
    ids=['empty', 'colour', 'float'],
)
def test_arrays_that_are_no_grey_image_are_refused(
    make_tracker: Callable[..., FaceTracker], grey: np.ndarray
) -> None:
    with pytest.raises(ValueError, match='grey image'):
        make_tracker().update(grey, 0.0)


def test_a_time_that_is_no_number_is_refused(make_tracker: Callable[..., FaceTracker]) -> None:
    with pytest.raises(ValueError, match='number of seconds'):
        make_tracker().update(GREY, math.nan)


@pytest.mark.parametrize(
    'settings',
    [
        {'detection_interval': 0},
        {'max_misses': -1},
        {'fits_per_frame': 0},
        {'min_overlap': 0.0},
        {'refit_overlap': 1.5},
        {'duplicate_overlap': -0.5},
        {'loss_tolerance_s': -1.0},
        {'detection_interval_s': math.nan},
        {'search_delay_s': -0.1},
        {'keep_score': 0.5, 'min_score': 0.0},
        {'agreed_spread': -0.1},
        {'agreed_spread': math.nan},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        FaceTrackerConfig(**settings)  # type: ignore[arg-type]


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(TypeError, match='interval'):
        FaceTrackerConfig(interval=3)  # type: ignore[call-arg]


# Searches in a thread


class ThreadedDetector(FaceDetector):
    """The real detector, noting the threads it searched in, at times held up."""

    def __init__(self, *, pauses_s: tuple[float, ...] = (0.0,)) -> None:
        super().__init__()
        self.pauses_s = pauses_s
        self.threads: list[str] = []

    def detect(self, grey: np.ndarray, *, min_score: float = 0.0) -> list[tuple[Box, float]]:
        self.threads.append(threading.current_thread().name)
        time.sleep(self.pauses_s[len(self.threads) % len(self.pauses_s)])
        return super().detect(grey, min_score=min_score)


@pytest.fixture
def delayed(predictor: LandmarkPredictor) -> Iterator[Callable[..., FaceTracker]]:
    """Make trackers of real faces whose searches count 0.1 s later; close them at the end."""
    made: list[FaceTracker] = []

    def make(
        detector: FaceDetector | None = None, *, detection_interval: int = 5
    ) -> FaceTracker:
        tracker = FaceTracker(
            config=FaceTrackerConfig(detection_interval=detection_interval, search_delay_s=0.1),
            detector=detector or FaceDetector(),
            predictor=predictor,
            identifiers=Identifiers(deterministic=True),
        )
        made.append(tracker)
        return tracker

    yield make
    for tracker in made:
        tracker.close()
    assert not [t for t in threading.enumerate() if t.name.startswith('fer_search')]


def test_a_delayed_search_shows_the_face_from_the_first_frame(
    delayed: Callable[..., FaceTracker], sample_clip: Path
) -> None:
    frames, rate = read(sample_clip)
    detector = ThreadedDetector()
    results = follow(delayed(detector), frames, rate)
    assert ids_of(results) == [['a0000']] * 72
    assert len(detector.threads) > 10
    assert all(name.startswith('fer_search') for name in detector.threads)


def test_delayed_searches_find_the_same_however_long_they_take(
    delayed: Callable[..., FaceTracker], shared_data: Path
) -> None:
    frames, rate = read(shared_data / COUPLE)
    frames = frames[:40]
    frames[12:22] = [np.full_like(frames[0], 90)] * 10
    first = follow(delayed(), frames, rate)
    again = follow(delayed(ThreadedDetector(pauses_s=(0.0, 0.15, 0.02))), frames, rate)
    assert ids_of(first) == ids_of(again)
    for here, there in zip(first, again, strict=True):
        for face, other in zip(here, there, strict=True):
            assert np.array_equal(face.landmarks, other.landmarks)


def test_two_faces_keep_their_ids_through_delayed_searches(
    delayed: Callable[..., FaceTracker], shared_data: Path
) -> None:
    frames, rate = read(shared_data / COUPLE)
    results = follow(delayed(), frames, rate)
    assert {face_id for ids in ids_of(results) for face_id in ids} == {'a0000', 'a0001'}
    left = min(results[0], key=lambda face: face.box.left).face_id
    for faces in results:
        assert len(faces) == 2
        assert min(faces, key=lambda face: face.box.left).face_id == left


def test_a_clip_without_a_face_stays_empty_with_delayed_searches(
    delayed: Callable[..., FaceTracker], no_face_clip: Path
) -> None:
    frames, rate = read(no_face_clip)
    detector = ThreadedDetector()
    assert follow(delayed(detector), frames, rate) == [[]] * len(frames)
    # Not every frame, but every 0.1 s.
    assert len(frames) / 5 <= len(detector.threads) <= len(frames) / 2.5


@pytest.mark.parametrize(('blank_s', 'face_id'), [(0.5, 'a0000'), (1.5, 'a0001')])
def test_a_face_that_vanishes_is_lost_and_found_by_delayed_searches(
    delayed: Callable[..., FaceTracker], sample_clip: Path, blank_s: float, face_id: str
) -> None:
    frames, rate = read(sample_clip)
    first, last = 12, 12 + round(blank_s * rate)
    frames[first:last] = [np.full_like(frames[0], 90)] * (last - first)
    results = follow(delayed(), frames, rate)
    assert ids_of(results[:first]) == [['a0000']] * first
    # A search under way and one or two that see nothing, each 0.1 s.
    assert all(faces == [] for faces in results[first + 12 : last])
    assert ids_of(results[last + 4 :]) == [[face_id]] * (len(frames) - last - 4)


@pytest.mark.parametrize('detection_interval', [1, 15])
def test_a_moving_and_turning_face_is_followed_through_delayed_searches(
    delayed: Callable[..., FaceTracker], sample_clip: Path, detection_interval: int
) -> None:
    face = read(sample_clip)[0][0]
    place = FacePlace.from_box(FaceDetector().detect(face)[0][0])
    tracker = delayed(detection_interval=detection_interval)
    for index in range(90):
        turn = cv2.getRotationMatrix2D((place.x, place.y), -60 * math.sin(index / 15), 1.0)
        turn[:, 2] += np.array([100 * math.sin(index / 12), 40 * math.cos(index / 9)])
        image = cv2.warpAffine(face, turn, face.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        faces = tracker.update(image, index / 30)
        assert ids_of([faces]) == [['a0000']]
        centre = turn @ (place.x, place.y, 1)
        box = faces[0].box
        shift = np.subtract(((box.left + box.right) / 2, (box.top + box.bottom) / 2), centre)
        assert np.linalg.norm(shift) < 0.15 * place.side


def test_an_error_in_the_thread_costs_one_image(
    delayed: Callable[..., FaceTracker], sample_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, rate = read(sample_clip)
    detector = FaceDetector()
    tracker = delayed(detector, detection_interval=5)
    follow(tracker, frames[:3], rate)
    with monkeypatch.context() as patch:
        patch.setattr(detector, 'detect', lambda *_, **__: 1 / 0)
        failed = 0
        for index in range(3, 10):
            try:
                tracker.update(frames[index], index / rate)
            except ZeroDivisionError:
                failed += 1
    assert failed == 1
    for index in range(10, 40):
        assert ids_of([tracker.update(frames[index], index / rate)]) == [['a0000']]


@pytest.fixture
def make_delayed(make_tracker: Callable[..., FaceTracker]) -> Iterator[Callable[..., FaceTracker]]:
    made: list[FaceTracker] = []

    def make(**settings: float) -> FaceTracker:
        made.append(make_tracker(search_delay_s=0.1, **settings))
        return made[-1]

    yield make
    for tracker in made:
        tracker.close()


def test_a_new_face_is_shown_where_it_is_by_now(
    world: World, make_delayed: Callable[..., FaceTracker]
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_delayed(detection_interval=5)
    for index in range(5):
        tracker.update(GREY, index / 25)
    world.faces.append(FacePlace(400, 200, 100))
    for index in range(5, 20):
        # It moves by 20 pixels while it is searched for.
        world.faces = [world.faces[0], FacePlace(400 + 6 * (index - 5), 200, 100)]
        faces = tracker.update(GREY, index / 25)
        if len(faces) == 2:
            break
    assert index < 15
    assert faces[1].box.left == pytest.approx(world.faces[1].box.left, abs=0.1)


def test_a_face_that_walks_on_during_a_search_is_not_two(
    world: World, make_delayed: Callable[..., FaceTracker]
) -> None:
    tracker = make_delayed(detection_interval=1)
    for index in range(20):
        world.faces = [FacePlace(100 + 25 * index, 200, 100)]  # three quarters of a face in 0.1 s
        assert ids_of([tracker.update(GREY, index / 30)]) == [['a0000']]


def test_faces_that_pass_where_others_were_keep_their_ids(
    world: World, make_delayed: Callable[..., FaceTracker]
) -> None:
    tracker = make_delayed(detection_interval=1)
    for index in range(15):
        # The second face comes to where the first one was a search ago.
        x = 500 - 28 * index
        world.faces = [FacePlace(x, 200, 100), FacePlace(x + 112, 200, 100)]
        faces = tracker.update(GREY, index / 30)
        assert ids_of([faces]) == [['a0000', 'a0001']]
        assert faces[0].box.left < faces[1].box.left


def test_a_face_gone_during_a_search_is_not_shown_anew(
    world: World, make_delayed: Callable[..., FaceTracker]
) -> None:
    face, other = FacePlace(200, 200, 100), FacePlace(450, 200, 100)
    world.faces = [face]
    tracker = make_delayed(detection_interval=5)
    for index in range(5):
        tracker.update(GREY, index / 30)
    world.faces = [face, other]
    tracker.update(GREY, 5 / 30)
    world.faces = [face]
    for index in range(6, 20):
        assert ids_of([tracker.update(GREY, index / 30)]) == [['a0000']]


@pytest.mark.parametrize('change', ['reset', 'time', 'size'])
def test_a_search_of_a_former_video_does_not_count(
    world: World, make_delayed: Callable[..., FaceTracker], change: str
) -> None:
    world.faces = [FacePlace(200, 200, 100)]
    tracker = make_delayed(detection_interval=2)
    for index in range(3):
        tracker.update(GREY, 1 + index / 30)  # the search of the last one is under way
    searches = world.searches
    grey, start_s = GREY, 1.1
    if change == 'reset':
        tracker.reset()
    elif change == 'time':
        start_s = 0.0
    else:
        grey = np.zeros((240, 320), np.uint8)
    world.faces = [FacePlace(60, 60, 40)]
    faces = [tracker.update(grey, start_s + index / 30) for index in range(5)][-1]
    assert len(faces) == 1
    assert faces[0].box.left == pytest.approx(40, abs=0.1)
    assert world.searches > searches
