# SPDX-License-Identifier: Apache-2.0
"""The head: its pose, its movement, deliberate gestures, and the camera that sees it."""

import numpy as np
from scipy.spatial.transform import Rotation

from fer_perception.graph.normalization import face_size
from fer_training.synthesis.config import NEAREST_CM, SynthesisConfig
from fer_training.synthesis.contours import slide_jaw
from fer_training.synthesis.courses import Courses, smooth_step

PITCH, YAW, ROLL = 0, 1, 2  # about x, y, z: down, to the model's left, to the model's right

# Head gestures: which angle, how far in degrees.
SWINGS = ((PITCH, (4.0, 18.0)), (YAW, (5.0, 25.0)), (ROLL, (4.0, 15.0)))  # nod, shake, wiggle
TURNS = ((PITCH, (-30.0, 25.0)), (YAW, (-30.0, 30.0)), (ROLL, (-22.0, 22.0)))
HIGHEST_PITCH_DEGREES = 30.0  # beyond it detectors lose faces
LEAN = (0.6, 1.3)  # distance after leaning forward or back against before


class Head:
    """Draws how one head moves, and projects it."""

    def __init__(self, config: SynthesisConfig, courses: Courses) -> None:
        """Draw mean pose and movement."""
        self._config = config
        self._courses = courses
        movement = courses.uniform(config.movement_degrees)
        spreads = (config.pitch_degrees, config.yaw_degrees, config.roll_degrees)
        self._angles = np.stack(
            [
                courses.random.normal(0.0, spread)
                + courses.drift(movement, smooth_s=courses.uniform((0.2, 0.6)))
                for spread in spreads
            ],
            axis=-1,
        )  # (F, 3) degrees
        # Distances are about as often near as far.
        near, far = np.log(config.distance_cm)
        self._distance = np.full(courses.frames, np.exp(courses.uniform((near, far))))
        self.gestures = courses.happens(config.gesture_share)
        if self.gestures:
            self._gesture()

    @property
    def yaw_degrees(self) -> np.ndarray:
        """Turn about the vertical, (F,), positive to the right of the image."""
        return self.angles_degrees[:, YAW]

    @property
    def angles_degrees(self) -> np.ndarray:
        """Pitch, yaw and roll, (F, 3), within what the configuration allows."""
        highest = self._config.highest_turn_degrees
        limits = np.array([min(highest, HIGHEST_PITCH_DEGREES), highest, highest])
        return np.clip(self._angles, -limits, limits)

    def lower(self, course: np.ndarray) -> None:
        """Bow the head along a course (F,) from 0 to 1."""
        self._angles[:, PITCH] += self._courses.uniform((3.0, 16.0)) * course

    def project(self, heads: np.ndarray) -> np.ndarray:
        """Turn heads and see them through a pinhole camera: (F, 68, 3) -> (F, 68, 2) pixels."""
        config, courses = self._config, self._courses
        share = courses.uniform(config.jaw_slide)
        heads = slide_jaw(heads, np.deg2rad(self.yaw_degrees), share=share)
        rotations = Rotation.from_euler('xyz', self.angles_degrees, degrees=True).as_matrix()
        turned = heads @ rotations.swapaxes(1, 2)  # (F, 68, 3)
        distance = np.maximum(self._distance, NEAREST_CM)
        depth = distance[:, None, None] - turned[..., 2:]  # (F, 68, 1)
        image = turned[..., :2] * [1.0, -1.0] / depth  # y down
        image *= courses.uniform(config.face_size_pixels) / np.median(face_size(image))
        sway = np.stack([courses.drift(3.0, smooth_s=0.4) for _ in range(2)], axis=-1)  # (F, 2)
        return np.asarray(image + sway[:, None] + courses.random.uniform(100.0, 400.0, 2))

    def _gesture(self) -> None:
        """Nod, shake the head, tilt, turn, bow, or lean forward or back."""
        courses = self._courses
        start_s = courses.uniform((-0.3, 0.6 * courses.duration_s))
        kind = courses.random.integers(3)
        if kind == 0:  # to and fro
            axis, bounds = SWINGS[courses.random.integers(len(SWINGS))]
            cycles = courses.random.integers(1, 5)
            rate = courses.uniform((0.8, 2.5))  # cycles per second
            since_s = courses.times_s - start_s
            going = (since_s >= 0.0) & (since_s <= cycles / rate)
            way = np.sin(2.0 * np.pi * rate * since_s) * going
            self._angles[:, axis] += courses.random.choice([-1, 1]) * courses.uniform(bounds) * way
            return
        rise = smooth_step((courses.times_s - start_s) / courses.uniform((0.2, 0.8)))
        if courses.happens(0.5):  # and back
            back_s = start_s + courses.uniform((0.6, 1.5))
            rise = rise * (1.0 - smooth_step((courses.times_s - back_s) / 0.5))
        if kind == 1:
            axis, bounds = TURNS[courses.random.integers(len(TURNS))]
            self._angles[:, axis] += courses.uniform(bounds) * rise
        else:
            self._distance = self._distance * (1.0 + (courses.uniform(LEAN) - 1.0) * rise)
