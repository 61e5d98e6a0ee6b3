# SPDX-License-Identifier: Apache-2.0
"""Augmentation of clips to 14 versions, as for AFEW (PST-BLN, IV-B)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fer_perception.graph.landmarks import mirror_landmarks
from fer_perception.graph.normalization import face_size

FLIPS = ('mirror', 'time')


@dataclass(frozen=True, kw_only=True)
class ProtocolAugmentation:
    """Set how a clip is multiplied.

    The paper adds three Gaussian noises to the landmarks, turns the noised clips at random, and
    flips. That makes 14 versions of a clip: it as it is, three with noise, and the same three
    turned as well, are seven; each of them also flipped, fourteen.

    Noise is drawn for every landmark and frame on its own, in parts of the face size; a turn is
    one angle for the whole clip. The flip mirrors the face left to right, each landmark keeping
    its meaning; the reference reverses the time instead.
    """

    # On a still face dlib's landmarks jitter by about 0.013 of the face size (0.24 % of the side
    # of its box, see LandmarkPredictor): about as much, twice and four times that.
    noises: tuple[float, ...] = (0.01, 0.02, 0.04)
    max_turn_degrees: float = 15.0
    flip: str = 'mirror'  # one of FLIPS
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.flip not in FLIPS:
            raise ValueError(f'unknown flip {self.flip!r}; use {" or ".join(FLIPS)}')
        if not self.noises or min(self.noises) <= 0:
            raise ValueError(f'noises must be above 0, not {self.noises}')
        if not 0 < self.max_turn_degrees <= 180:
            raise ValueError(f'turns must be 0 to 180 degrees, not {self.max_turn_degrees}')

    @property
    def versions(self) -> int:
        """How many versions a clip has, the clip itself included: 14 with three noises."""
        return 2 * (1 + 2 * len(self.noises))

    def augment(self, landmarks: np.ndarray, *, clip: int) -> Iterator[tuple[str, np.ndarray]]:
        """Make all versions of a clip, each with what is added to its name; '' for the clip.

        landmarks: (T, 68, 2), centred on the nose; clip: its number, as each has randomness of
        its own. Yields (T, 68, 2) float64.
        """
        generator = np.random.default_rng([self.seed, clip])
        scale = float(face_size(landmarks).mean())
        versions = [('', landmarks.astype(np.float64))]
        for number, noise in enumerate(self.noises, start=1):
            noised = landmarks + generator.normal(0.0, noise * scale, landmarks.shape)
            turn = np.deg2rad(self.max_turn_degrees) * generator.uniform(-1.0, 1.0)
            versions.append((f'_noise{number}', noised))
            versions.append((f'_noise{number}_turned', _turned(noised, turn)))
        for suffix, version in versions:
            yield suffix, version
        for suffix, version in versions:
            if self.flip == 'mirror':
                yield f'{suffix}_mirrored', mirror_landmarks(version)
            else:
                yield f'{suffix}_reversed', version[::-1]


def _turned(landmarks: np.ndarray, angle: float) -> np.ndarray:
    """Turn landmarks (T, 68, 2) about the nose by an angle in radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return landmarks @ np.array([[cosine, sine], [-sine, cosine]])
