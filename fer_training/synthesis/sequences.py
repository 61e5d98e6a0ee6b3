# SPDX-License-Identifier: Apache-2.0
"""Synthetic sequences: a person, a face that moves, a head, a camera, and a detector's errors."""

from collections.abc import Iterator

import numpy as np

from fer_perception.graph.landmarks import LANDMARK_COUNT
from fer_perception.graph.normalization import face_size
from fer_training.face_basis import FaceBasis
from fer_training.recipes import CLASSES, VARIANTS, recipes_of
from fer_training.synthesis.config import SynthesisConfig
from fer_training.synthesis.contours import part_contours, slide_contours
from fer_training.synthesis.courses import Courses
from fer_training.synthesis.head import Head
from fer_training.synthesis.landmark_noise import PARTS, LandmarkNoise, measured_noise
from fer_training.synthesis.performance import Performance
from fer_training.tracks import Track

USUAL_FRAME_RATES = (5.0, 10.0, 12.5, 15.0, 20.0, 24.0, 25.0, 30.0, 30.0, 30.0, 50.0, 60.0)
FAR_SIDES = (  # landmarks of the image's left and right
    np.array([*range(8), *range(17, 22), 31, 32, *range(36, 42), 48, 49, 50, 58, 59, 60, 61, 67]),
    np.array([*range(9, 17), *range(22, 27), 34, 35, *range(42, 48), 52, 53, 54, 55, 56, 63, 64,
              65]),
)
OFTEN_SUBTLE = frozenset({'happiness', 'sadness'})
FEWEST_FOUND = 2


def synthesize_tracks(
    basis: FaceBasis,
    *,
    count: int,
    seed: int,
    variants: str = 'training',
    config: SynthesisConfig | None = None,
    noise: LandmarkNoise | None = None,
) -> Iterator[Track]:
    """Draw `count` tracks, the classes in turn; the same arguments give the same tracks.

    Every track is of another random identity, its subject '<variants>-<seed>-<number>'. Recipes
    of `variants` 'test' are never among those of 'training', nor are its people, whatever the
    seeds; 'all' draws from both. The noise is by default the one measured of dlib. Raises
    ValueError for unknown variants or a negative seed.
    """
    if variants not in VARIANTS:
        raise ValueError(f'unknown variants {variants!r}: use {", ".join(VARIANTS)}')
    if seed < 0:
        raise ValueError(f'the seed must be 0 or more, not {seed}')
    config = config or SynthesisConfig()
    noise = noise or measured_noise()
    seeds = np.random.SeedSequence([seed, VARIANTS.index(variants)])
    for number, child in enumerate(seeds.spawn(count)):
        sequence = _Sequence(basis, config, noise, np.random.Generator(np.random.PCG64(child)))
        yield sequence.draw(
            CLASSES[number % len(CLASSES)],
            variants=variants,
            subject=f'{variants}-{seed}-{number}',
        )


class _Sequence:
    """Draws one track."""

    def __init__(
        self,
        basis: FaceBasis,
        config: SynthesisConfig,
        noise: LandmarkNoise,
        generator: np.random.Generator,
    ) -> None:
        self._basis = basis
        self._config = config
        self._noise = noise
        self._random = generator
        self._courses = Courses(
            generator,
            frame_rate=_draw_frame_rate(config, generator),
            duration_s=config.duration_s,
        )

    def draw(self, label: str, *, variants: str, subject: str) -> Track:
        """Draw the track of an expression."""
        config, courses = self._config, self._courses
        performance = Performance(self._basis, config, courses)
        head = Head(config, courses)
        weights = performance.resting_face()
        intensity = np.zeros(courses.frames)
        neutral = label == 'neutral'
        if not neutral:
            recipes = recipes_of(label, variants)
            recipe = recipes[self._random.integers(len(recipes))]
            often = label in OFTEN_SUBTLE
            expression, intensity = performance.expression(
                recipe,
                subtle_share=config.subtle_share if often else config.other_subtle_share,
            )
            weights = weights + expression
        if label == 'sadness' and courses.happens(config.lowered_head_share):
            weights = weights + performance.lowered_eyes(intensity)
            head.lower(intensity)
        if courses.happens(config.neutral_speech_share if neutral else config.speech_share):
            weights = weights + performance.speech()
        if courses.happens(config.neutral_act_share if neutral else config.act_share):
            weights = weights + performance.act()
            if neutral and courses.happens(config.second_act_share):
                weights = weights + performance.act()
        if neutral and head.gestures and courses.happens(config.gesture_brows_share):
            weights = weights + performance.brows()
        weights = np.clip(weights + performance.blinks(), 0.0, config.highest_weight)
        landmarks = head.project(part_contours(self._person() + self._offsets(weights)))
        landmarks = slide_contours(landmarks, config, courses)
        landmarks = self._add_noise(landmarks, head.yaw_degrees)
        found = self._found()
        if found is not None:
            landmarks[~found] = 0.0
        return Track(landmarks, label, subject, courses.frame_rate, intensity, found)

    def _person(self) -> np.ndarray:
        """Draw a neutral face: (68, 3)."""
        config, basis = self._config, self._basis
        modes = self._random.normal(0.0, config.identity_spread, len(basis.identity))
        person = basis.neutral + np.tensordot(modes, basis.identity, axes=1)
        for points in PARTS.values():
            middle = person[points].mean(0)
            scale = self._random.normal(1.0, config.part_scale, 3)
            person[points] = middle + scale * (person[points] - middle)
        return np.asarray(person)

    def _offsets(self, weights: np.ndarray) -> np.ndarray:
        """Move the landmarks of this person's face by weights (F, X): (F, 68, 3)."""
        mobility = np.array([
            self._courses.uniform(
                self._config.brow_mobility if 'brow' in name else self._config.mobility
            )
            for name in PARTS
        ])
        mobility[[1, 2]] = mobility[[1, 1]]  # both brows
        mobility[[4, 5]] = mobility[[4, 4]]  # both eyes
        gains = np.empty(LANDMARK_COUNT)
        for gain, points in zip(mobility, PARTS.values(), strict=True):
            gains[points] = gain
        gains[PARTS['jaw']] = gains[48]  # jaw and mouth open together
        active = weights.any(0)  # most shapes rest: (X,)
        shapes = self._basis.expression[active] * gains[:, None]  # (A, 68, 3)
        return np.tensordot(weights[:, active], shapes, axes=1)

    def _add_noise(self, landmarks: np.ndarray, yaw_degrees: np.ndarray) -> np.ndarray:
        """Misplace landmarks (F, 68, 2) as a detector does; the far side of a head more."""
        config, courses = self._config, self._courses
        unit = float(np.median(face_size(landmarks)))
        smooth = courses.happens(config.smooth_share)
        low, high = config.smooth_noise_level if smooth else config.noise_level
        level = low if low == high else float(np.exp(courses.uniform((np.log(low), np.log(high)))))
        noise = level * self._noise.draw(
            courses.frames, frame_rate=courses.frame_rate, generator=self._random
        )
        pixels = courses.uniform(config.pixel_noise)
        noise += self._random.normal(0.0, pixels / unit * (0.2 if smooth else 1.0), noise.shape)
        slow = courses.uniform(config.slow_noise)
        noise += slow * self._slow_noise()
        for side, sign in zip(FAR_SIDES, (-1.0, 1.0), strict=True):
            turn = np.maximum(sign * yaw_degrees, 0.0) / 45.0  # (F,)
            noise[:, side] *= 1.0 + config.turned_noise * turn[:, None, None]
        bias = self._random.normal(0.0, config.landmark_bias, noise.shape[1:])
        for points in PARTS.values():
            bias[points] += self._random.normal(0.0, config.part_bias, 2)
        return landmarks + unit * (noise + bias)

    def _slow_noise(self) -> np.ndarray:
        """Draw noise too slow to be measured, with a standard deviation of 1: (F, 68, 2)."""
        times_s = self._courses.times_s
        # Sums of waves of random phase, a few for each coordinate.
        rates = self._random.uniform(0.1, 1.5, (3, LANDMARK_COUNT, 2))  # Hz
        phases = self._random.uniform(0.0, 2.0 * np.pi, rates.shape)
        waves = np.sin(2.0 * np.pi * rates[None] * times_s[:, None, None, None] + phases)
        return np.asarray(waves.sum(1) * np.sqrt(2.0 / 3.0))

    def _found(self) -> np.ndarray | None:
        """Draw the frames that show a face: (F,) bool; None if all do."""
        config, courses = self._config, self._courses
        if not courses.happens(config.lost_share):
            return None
        found = self._random.random(courses.frames) >= courses.uniform(config.lost_frames)
        if courses.happens(0.5):
            start_s = courses.uniform((0.0, courses.duration_s))
            end_s = start_s + courses.uniform(config.lost_gap_s)
            found &= (courses.times_s < start_s) | (courses.times_s >= end_s)
        if found.all() or found.sum() < FEWEST_FOUND:
            return None
        return found


def _draw_frame_rate(config: SynthesisConfig, generator: np.random.Generator) -> float:
    low, high = config.frame_rate
    usual = [rate for rate in USUAL_FRAME_RATES if low <= rate <= high]
    if usual and generator.random() < config.usual_rate_share:
        return float(generator.choice(usual))
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))
