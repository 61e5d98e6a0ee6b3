# SPDX-License-Identifier: Apache-2.0
"""What a face does over time: expressions, and all that is no expression."""

import numpy as np

from fer_training.face_basis import FaceBasis
from fer_training.recipes import ACTION_UNITS, COMPANIONS, Recipe
from fer_training.synthesis.config import SynthesisConfig
from fer_training.synthesis.courses import Courses, smooth_step
from fer_training.synthesis.muscles import Muscles
from fer_training.synthesis.speech import draw_speech

RESTING_SHAPES = (
    'browInnerUp',
    'browOuterUp',
    'browDown',
    'eyeSquint',
    'eyeWide',
    'mouthFrown',
    'mouthSmile',
    'mouthPress',
    'mouthShrugLower',
    'mouthStretch',
    'mouthUpperUp',
    'mouthLowerDown',
    'jawOpen',
)

# Faces that look like something when they show nothing.
RESTING_MOODS: tuple[dict[str, float], ...] = (
    {'mouthSmile': 1.0},
    {'mouthFrown': 1.0, 'mouthShrugLower': 0.4},
    {'browDown': 1.0},
    {'browInnerUp': 1.0, 'browOuterUp': 1.0},
)

# Movement that is no expression: shapes, and how often a second it may come and go. The brows of
# conversation are those of Ekman, "About brows", 1979: raised (AU1+2) or lowered (AU4).
BROW_ACTS: tuple[tuple[dict[str, float], float], ...] = (
    ({'browInnerUp': 1.0, 'browOuterUp': 1.0}, 1.2),  # brow flash
    ({'browInnerUp': 0.9, 'browOuterUp': 1.0}, 0.4),  # brows raised for longer
    ({'browInnerUp': 0.7, 'browOuterUp': 0.7, 'eyeWide': 0.3}, 0.5),
    ({'browDown': 0.7}, 0.5),
)
ACTS: tuple[tuple[dict[str, float], float], ...] = (
    *BROW_ACTS,
    ({'eyeSquint': 0.8, 'cheekSquint': 0.4}, 0.4),  # against the sun
    ({'mouthPress': 0.9, 'mouthRollLower': 0.3, 'mouthRollUpper': 0.3}, 0.6),  # lips pressed
    ({'mouthRollLower': 0.9, 'mouthRollUpper': 0.5}, 0.7),  # lips wetted or sucked in
    ({'mouthPucker': 0.8}, 0.6),
    ({'mouthLeft': 0.5}, 0.6),
    ({'mouthRight': 0.5}, 0.6),
    ({'cheekPuff': 0.7}, 0.5),
    ({'jawOpen': 0.3, 'mouthLowerDown': 0.2}, 0.5),  # breathing in
    ({'mouthDimple': 0.5, 'mouthPress': 0.3}, 0.5),
    # The shrug of a face: AU1+2 with AU15+17 for a moment.
    ({'mouthShrugLower': 0.6, 'mouthFrown': 0.3, 'browInnerUp': 0.5, 'browOuterUp': 0.5}, 1.2),
)
CHEWING: dict[str, float] = {'jawOpen': 0.3, 'mouthClose': 0.25, 'mouthPress': 0.3}
CHEWING_SHARE = 0.12  # of acts
EYES_DOWN: dict[str, float] = {'eyeLookDown': 1.0}


class Performance:
    """Draws the weights of the shapes of one face over time."""

    def __init__(self, basis: FaceBasis, config: SynthesisConfig, courses: Courses) -> None:
        """Take the ranges and the random generator of a sequence."""
        self._config = config
        self._courses = courses
        self._muscles = Muscles(basis, courses, asymmetry=config.asymmetry)

    def expression(
        self, recipe: Recipe, *, subtle_share: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw an expression: its weights (F, X) and its intensity (F,) from 0 to 1."""
        config, courses = self._config, self._courses
        units = [*recipe.required, *(unit for unit in recipe.optional if courses.happens(0.5))]
        subtle = courses.happens(subtle_share)
        level = courses.uniform(config.subtle_level if subtle else config.full_level)
        onset_s = courses.uniform((0.1, 0.7))
        held = courses.happens(config.held_share)
        start_s = -1.0 if held else courses.uniform((0.0, 0.6 * courses.duration_s))
        end_s = np.inf
        if courses.happens(config.offset_share):
            end_s = max(start_s, 0.0) + onset_s + courses.uniform((0.2, 0.9))
        offset_s = courses.uniform((0.2, 0.7))
        intensity = self._envelope(start_s, onset_s, end_s, offset_s)
        weights = self._muscles.still()
        for unit in units:
            # Each muscle has its own moment, and is never quite still.
            moment_s = 0.0 if held else courses.random.normal(0.0, 0.04)
            course = self._envelope(start_s + moment_s, onset_s, end_s, offset_s)
            course = course * np.clip(1.0 + courses.drift(0.06, smooth_s=0.3), 0.0, None)
            weights += self._muscles.move(
                self._unit_shapes(unit), level * courses.uniform(config.unit_level) * course
            )
        return weights, intensity

    def lowered_eyes(self, course: np.ndarray) -> np.ndarray:
        """Look down, as sad people do, along a course (F,): (F, X)."""
        return self._muscles.move(EYES_DOWN, self._courses.uniform((0.1, 0.8)) * course)

    def resting_face(self) -> np.ndarray:
        """Draw what a face looks like when it does nothing: (F, X)."""
        config, courses = self._config, self._courses
        chosen = courses.random.choice(RESTING_SHAPES, size=3, replace=False)
        weights = self._muscles.move(
            {str(shape): courses.uniform((0.0, config.resting_level)) for shape in chosen}
        )
        if courses.happens(config.resting_mood_share):
            mood = RESTING_MOODS[courses.random.integers(len(RESTING_MOODS))]
            weights = weights + self._muscles.move(
                mood, courses.uniform(config.resting_mood_level)
            )
        return weights

    def speech(self) -> np.ndarray:
        """Draw talking: (F, X)."""
        return draw_speech(self._courses, self._muscles)

    def blinks(self) -> np.ndarray:
        """Draw blinks of 0.15 to 0.4 s: (F, X)."""
        courses = self._courses
        lid = np.zeros(courses.frames)
        for _ in range(courses.random.poisson(
            self._config.blinks_per_second * courses.duration_s
        )):
            start_s = courses.uniform((-0.2, courses.duration_s))
            lid = np.maximum(lid, courses.uniform((0.6, 1.1)) * courses.pulse(
                start_s,
                rise_s=courses.uniform((0.05, 0.1)),
                hold_s=courses.uniform((0.02, 0.1)),
                fall_s=courses.uniform((0.08, 0.2)),
            ))
        return self._muscles.move({'eyeBlink': 1.0}, lid)

    def act(self) -> np.ndarray:
        """Draw movement that is no expression: (F, X)."""
        courses = self._courses
        if courses.happens(CHEWING_SHARE):
            phase = 2.0 * np.pi * (courses.uniform((1.0, 2.0)) * courses.times_s + courses.uniform(
                (0.0, 1.0)
            ))
            side = 'jawLeft' if courses.happens(0.5) else 'jawRight'
            level = courses.uniform((0.4, 1.0))
            return self._muscles.move(CHEWING, level * (0.5 - 0.5 * np.cos(phase))) + (
                self._muscles.move({side: 0.4}, level * (0.5 - 0.5 * np.sin(phase)))
            )
        return self._come_and_go(ACTS)

    def brows(self) -> np.ndarray:
        """Draw brows that go with what a head does: (F, X)."""
        return self._come_and_go(BROW_ACTS)

    def _come_and_go(self, acts: tuple[tuple[dict[str, float], float], ...]) -> np.ndarray:
        """Draw one of some acts, once or more often: (F, X)."""
        courses = self._courses
        shapes, per_second = acts[courses.random.integers(len(acts))]
        course = np.zeros(courses.frames)
        for _ in range(1 + courses.random.poisson(0.5 * per_second * courses.duration_s)):
            course = np.maximum(course, courses.uniform((0.3, 1.0)) * courses.pulse(
                courses.uniform((-0.3, 0.9 * courses.duration_s)),
                rise_s=courses.uniform((0.08, 0.3)),
                hold_s=courses.uniform((0.05, 0.6 / per_second)),
                fall_s=courses.uniform((0.1, 0.4)),
            ))
        return self._muscles.move(shapes, course)

    def _envelope(
        self, start_s: float, onset_s: float, end_s: float, offset_s: float
    ) -> np.ndarray:
        """Rise at the onset, fall at the offset: (F,) from 0 to 1."""
        times_s = self._courses.times_s
        rise = smooth_step((times_s - start_s) / onset_s)
        return rise * (1.0 - smooth_step((times_s - end_s) / offset_s))

    def _unit_shapes(self, unit: str) -> dict[str, float]:
        """Draw how a person shows a unit: weights of shapes at full strength."""
        config, courses = self._config, self._courses
        shapes = {
            shape: weight * max(0.3, courses.random.normal(1.0, config.shape_spread))
            for shape, weight in ACTION_UNITS[unit].items()
        }
        for shape, highest in COMPANIONS.get(unit, {}).items():
            if courses.happens(config.companion_share):
                shapes[shape] = shapes.get(shape, 0.0) + courses.uniform((0.0, highest))
        return shapes
