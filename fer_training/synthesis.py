# SPDX-License-Identifier: Apache-2.0
"""Synthesis of landmark tracks of expressions from a 3D face basis and FACS recipes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from fer_perception.graph.normalization import face_size
from fer_training.face_basis import FaceBasis
from fer_training.recipes import CLASSES, RECIPES, TWO_SIDED, Recipe, shape_weights
from fer_training.tracks import Track


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Set the ranges that sequences are drawn from; pairs are (lowest, highest)."""

    duration_s: float = 1.6
    frame_rates: tuple[float, ...] = (15.0, 20.0, 25.0, 30.0, 30.0, 30.0, 50.0, 60.0)
    expression_level: tuple[float, float] = (0.5, 1.25)  # strength of the whole expression
    unit_level: tuple[float, float] = (0.6, 1.1)  # strength of each action unit in it
    held_share: float = 0.4  # share of expressions that are there from the first frame on
    offset_share: float = 0.25  # share of expressions that vanish again
    highest_weight: float = 1.3  # of any shape, all causes together
    asymmetry: float = 0.15  # spread of the strength of one side against the other
    identity_spread: float = 1.0  # standard deviations of the identity modes
    part_scale: float = 0.08  # spread of the size of mouth, eyes, ... against the face
    resting_level: float = 0.12  # highest weight of the shapes of a resting face
    speech_probability: dict[str, float] | None = None  # by class; None: neutral 0.5, else 0.15
    yaw_degrees: float = 12.0  # standard deviation of the head's mean pose
    pitch_degrees: float = 8.0
    roll_degrees: float = 8.0
    movement_degrees: float = 4.0  # standard deviation of the movement about it
    distance_cm: tuple[float, float] = (45.0, 250.0)  # camera to head
    face_size_pixels: tuple[float, float] = (18.0, 80.0)
    # Landmark noise in face sizes. On a still face the tracker's landmarks jitter by 0.009.
    white_noise: tuple[float, float] = (0.004, 0.025)
    slow_noise: tuple[float, float] = (0.005, 0.03)
    landmark_bias: float = 0.03  # fixed error of one landmark in one sequence
    part_bias: float = 0.07  # fixed shift of brows, eyes, nose or mouth as a whole
    # A basis and a detector put landmarks on different places of one contour. Share of the way
    # from a landmark to its neighbour nearer the middle, drawn once for each part and track.
    contour_slide: tuple[float, float] = (-0.1, 0.4)
    inner_lip_slide: tuple[float, float] = (0.0, 0.6)
    nose_wing_rise: tuple[float, float] = (0.0, 0.2)  # of dlib's against the basis', face sizes


# Landmarks that a detector misplaces together.
PARTS = (
    slice(0, 17),
    slice(17, 22),
    slice(22, 27),
    slice(27, 36),
    slice(36, 42),
    slice(42, 48),
    slice(48, 68),
)

# Where landmarks slide: (landmark, neighbour), first those of the eyelids, brows and outer lips.
CONTOURS = (
    ((37, 38), (41, 40), (44, 43), (46, 47)),
    ((18, 19), (20, 19), (25, 24), (23, 24)),
    ((49, 50), (53, 52)),
    ((50, 51), (52, 51)),
    ((59, 58), (55, 56)),
    ((58, 57), (56, 57)),
)
INNER_LIPS = (((61, 62), (63, 62)), ((67, 66), (65, 66)))
NOSE_WINGS = {31: 1.0, 32: 0.5, 34: 0.5, 35: 1.0}  # landmark -> share of the rise

SPEECH_SHAPES = {
    'jawOpen': 0.45,
    'mouthFunnel': 0.4,
    'mouthPucker': 0.4,
    'mouthClose': 0.15,
    'mouthLowerDown': 0.4,
    'mouthUpperUp': 0.25,
    'mouthStretch': 0.25,
    'mouthRollLower': 0.3,
}

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


def synthesize_tracks(
    basis: FaceBasis, *, count: int, seed: int, config: SynthesisConfig | None = None
) -> Iterator[Track]:
    """Draw `count` tracks, the classes in turn; the same seed gives the same tracks.

    Every track is of another random identity, its subject 's<seed>-<number>'.
    """
    config = config or SynthesisConfig()
    for number, generator in enumerate(
        np.random.Generator(np.random.PCG64(child))
        for child in np.random.SeedSequence(seed).spawn(count)
    ):
        sequence = _Sequence(basis, config, generator)
        yield sequence.draw(CLASSES[number % len(CLASSES)], subject=f's{seed}-{number}')


class _Sequence:
    """Draws one track: a person, an expression in time, a moving head, a camera, noise."""

    def __init__(
        self, basis: FaceBasis, config: SynthesisConfig, generator: np.random.Generator
    ) -> None:
        self._basis = basis
        self._config = config
        self._random = generator
        self._frame_rate = float(generator.choice(config.frame_rates))
        self._frames = max(2, round(config.duration_s * self._frame_rate))

    def draw(self, label: str, *, subject: str) -> Track:
        """Draw the track of an expression."""
        intensity = np.zeros(self._frames)
        weights = self._resting_face()
        if label != 'neutral':
            intensity = self._envelope()
            weights = weights + intensity[:, None] * self._expression(label)
        if self._random.random() < self._speech_probability(label):
            weights = weights + self._speech()
        weights = np.clip(weights + self._blinks(), 0.0, self._config.highest_weight)

        person = self._basis.neutral + np.tensordot(
            self._random.normal(0.0, self._config.identity_spread, len(self._basis.identity)),
            self._basis.identity,
            axes=1,
        )
        for part in PARTS:
            middle = person[part].mean(0)
            scale = self._random.normal(1.0, self._config.part_scale, 3)
            person[part] = middle + scale * (person[part] - middle)
        heads = person + np.tensordot(weights, self._basis.expression, axes=1)  # (F, 68, 3)
        landmarks = self._add_noise(self._slide(self._project(heads)))
        return Track(landmarks, label, subject, self._frame_rate, intensity)

    def _uniform(self, bounds: tuple[float, float]) -> float:
        return float(self._random.uniform(*bounds))

    def _sides(self, weights: dict[str, float]) -> np.ndarray:
        """Lay weights of shapes out over the basis, the two sides a little unlike: (X,)."""
        vector = np.zeros(len(self._basis.expression_names))
        tilt = self._random.normal(0.0, self._config.asymmetry)
        for shape, weight in weights.items():
            if shape in TWO_SIDED:
                vector[self._basis.index(f'{shape}_L')] += weight * (1.0 + tilt)
                vector[self._basis.index(f'{shape}_R')] += weight * (1.0 - tilt)
            else:
                vector[self._basis.index(shape)] += weight
        return vector

    def _expression(self, label: str) -> np.ndarray:
        recipes = RECIPES[label]
        recipe: Recipe = recipes[self._random.integers(len(recipes))]
        units = [*recipe.required, *(u for u in recipe.optional if self._random.random() < 0.5)]
        level = self._uniform(self._config.expression_level)
        return self._sides(
            shape_weights({u: level * self._uniform(self._config.unit_level) for u in units})
        )

    def _envelope(self) -> np.ndarray:
        """Draw onset, apex and offset of an expression: (F,) from 0 to 1."""
        duration = self._frames / self._frame_rate
        times = np.arange(self._frames) / self._frame_rate
        kind = self._random.random()
        onset_s = self._uniform((0.1, 0.6))
        held = kind < self._config.held_share
        start = -onset_s if held else self._uniform((0.0, 0.6 * duration))
        rise = _smooth_step((times - start) / onset_s)
        if kind > 1.0 - self._config.offset_share:
            end = start + onset_s + self._uniform((0.2, 0.8))
            rise = rise * (1.0 - _smooth_step((times - end) / self._uniform((0.2, 0.7))))
        # A held expression is never quite still.
        return rise * np.clip(1.0 + self._drift(0.05, smooth_s=0.3), 0.0, None)

    def _resting_face(self) -> np.ndarray:
        chosen = self._random.choice(RESTING_SHAPES, size=3, replace=False)
        high = self._config.resting_level
        return self._sides({str(shape): self._uniform((0.0, high)) for shape in chosen})

    def _speech_probability(self, label: str) -> float:
        if self._config.speech_probability is not None:
            return self._config.speech_probability.get(label, 0.0)
        return 0.5 if label == 'neutral' else 0.15

    def _speech(self) -> np.ndarray:
        """Draw mouth movements like those of talking: (F, X)."""
        loudness = self._uniform((0.3, 1.0))
        total = np.zeros((self._frames, len(self._basis.expression_names)))
        for shape, high in SPEECH_SHAPES.items():
            course = np.clip(self._drift(0.5, smooth_s=self._uniform((0.04, 0.12))), 0.0, 1.0)
            total += loudness * high * course[:, None] * self._sides({shape: 1.0})
        return total

    def _blinks(self) -> np.ndarray:
        """Draw blinks of about 0.25 s, one every three seconds or so: (F, X)."""
        times = np.arange(self._frames) / self._frame_rate
        lid = np.zeros(self._frames)
        for _ in range(self._random.poisson(self._config.duration_s / 3.0)):
            middle = self._uniform((0.0, self._config.duration_s))
            lid = np.maximum(lid, np.exp(-(((times - middle) / 0.07) ** 2)))
        return lid[:, None] * self._sides({'eyeBlink': 1.0})

    def _project(self, heads: np.ndarray) -> np.ndarray:
        """Turn moving heads and see them through a pinhole camera: (F, 68, 3) -> (F, 68, 2)."""
        config = self._config
        spreads = (config.pitch_degrees, config.yaw_degrees, config.roll_degrees)
        angles = np.stack(
            [
                self._random.normal(0.0, spread) + self._drift(config.movement_degrees, smooth_s=s)
                for spread, s in zip(spreads, (0.3, 0.3, 0.4), strict=True)
            ],
            axis=-1,
        )  # (F, 3) degrees about x, y, z
        rotations = Rotation.from_euler('xyz', angles, degrees=True).as_matrix()  # (F, 3, 3)
        turned = np.einsum('fij,fpj->fpi', rotations, heads)
        depth = self._uniform(config.distance_cm) - turned[..., 2:]  # (F, 68, 1)
        image = turned[..., :2] * [1.0, -1.0] / depth  # y down
        size = np.median(face_size(image))
        image = image * (self._uniform(config.face_size_pixels) / size)
        sway = np.stack([self._drift(3.0, smooth_s=0.4) for _ in range(2)], axis=-1)  # (F, 2)
        return np.asarray(image + sway[:, None] + self._random.uniform(100.0, 400.0, 2))

    def _slide(self, landmarks: np.ndarray) -> np.ndarray:
        """Move landmarks along their contours to where a detector may see them: (F, 68, 2)."""
        config = self._config
        slid = landmarks.copy()
        for contours, bounds in (
            (CONTOURS, config.contour_slide),
            (INNER_LIPS, config.inner_lip_slide),
        ):
            for contour in contours:
                share = self._uniform(bounds)
                for point, neighbour in contour:
                    way = landmarks[:, neighbour] - landmarks[:, point]
                    slid[:, point] += share * way
        up = landmarks[:, 27] - landmarks[:, 33]  # along the nose
        up /= np.linalg.norm(up, axis=-1, keepdims=True)
        rise = self._uniform(config.nose_wing_rise) * np.median(face_size(landmarks))
        for point, share in NOSE_WINGS.items():
            slid[:, point] += share * rise * up
        return slid

    def _add_noise(self, landmarks: np.ndarray) -> np.ndarray:
        config = self._config
        unit = float(np.median(face_size(landmarks)))
        shape = landmarks.shape
        white = self._random.normal(0.0, self._uniform(config.white_noise), shape)
        slow = self._random.normal(0.0, 1.0, shape)
        slow = gaussian_filter1d(slow, 0.15 * self._frame_rate, axis=0, mode='nearest')
        slow *= self._uniform(config.slow_noise) / max(float(slow.std()), 1e-9)
        bias = self._random.normal(0.0, config.landmark_bias, shape[1:])
        for part in PARTS:
            bias[part] += self._random.normal(0.0, config.part_bias, 2)
        return landmarks + unit * (white + slow + bias)

    def _drift(self, spread: float, *, smooth_s: float) -> np.ndarray:
        """Draw a smooth random course with a given standard deviation: (F,)."""
        margin = self._frames
        course = self._random.normal(0.0, 1.0, self._frames + 2 * margin)
        course = gaussian_filter1d(course, smooth_s * self._frame_rate)
        course = course / max(float(course.std()), 1e-9)
        return spread * course[margin : margin + self._frames]


def _smooth_step(position: np.ndarray) -> np.ndarray:
    position = np.clip(position, 0.0, 1.0)
    return position * position * (3.0 - 2.0 * position)
