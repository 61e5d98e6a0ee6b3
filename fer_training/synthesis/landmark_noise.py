# SPDX-License-Identifier: Apache-2.0
"""Landmark noise of a detector: a measured level for each part of the face, drawn anew.

The noise of a part is white, drawn anew in every frame, plus a drift whose correlation falls
exponentially with time; both are alike for neighbouring landmarks to a measured share.
"""

import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from fer_perception.graph.landmarks import LANDMARK_COUNT

# Landmarks that a detector misplaces together.
PARTS = {
    'jaw': slice(0, 17),
    'left brow': slice(17, 22),
    'right brow': slice(22, 27),
    'nose': slice(27, 36),
    'left eye': slice(36, 42),
    'right eye': slice(42, 48),
    'mouth': slice(48, 68),
}

# Correlation time of the drift. Below the frequencies where noise can be told from movement it is
# an assumption: a drift of this time has its corner at 1 Hz.
DRIFT_S = 0.15


class NoiseFileError(ValueError):
    """Say which noise file cannot be read, and what in it is wrong."""


@dataclass(frozen=True)
class PartNoise:
    """Hold the noise of one part: standard deviations of x and y, in face sizes."""

    white: float  # of what is new in every frame
    drift: float  # of what lasts for about DRIFT_S
    part_share: float  # of the variance that all landmarks of the part have in common
    face_share: float  # of the variance that all landmarks of the face have in common

    def spectrum(self, frequencies_hz: np.ndarray, *, frame_rate: float) -> np.ndarray:
        """Compute the one-sided power density (n,) at a frame rate, face sizes squared per Hz."""
        decay = np.exp(-1.0 / (DRIFT_S * frame_rate))
        turn = np.cos(2.0 * np.pi * frequencies_hz / frame_rate)
        drift = self.drift**2 * (1.0 - decay**2) / (1.0 - 2.0 * decay * turn + decay**2)
        return np.asarray((self.white**2 + drift) * 2.0 / frame_rate)


@dataclass(frozen=True)
class LandmarkNoise:
    """Hold the noise of all parts, and what it was measured on."""

    parts: dict[str, PartNoise]
    recordings: tuple[dict[str, object], ...] = ()

    def draw(
        self, frames: int, *, frame_rate: float, generator: np.random.Generator
    ) -> np.ndarray:
        """Draw noise at the measured level: (frames, 68, 2) in face sizes."""
        decay = np.exp(-1.0 / (DRIFT_S * frame_rate))
        count = 1 + len(self.parts) + LANDMARK_COUNT  # of the face, of its parts, of each point
        white, new = generator.normal(0.0, 1.0, (2, frames, count, 2))
        drift = new[:1]
        if frames > 1:  # starts with the variance that it keeps
            rest = np.sqrt(1.0 - decay**2) * new[1:]
            drift = np.concatenate(
                [drift, lfilter([1.0], [1.0, -decay], rest, axis=0, zi=decay * new[:1])[0]]
            )
        noise = np.empty((frames, LANDMARK_COUNT, 2))
        for index, (name, part) in enumerate(self.parts.items()):
            points = PARTS[name]
            both = part.white * white + part.drift * drift  # (F, count, 2)
            own = both[:, 1 + len(self.parts) :][:, points]
            noise[:, points] = (
                np.sqrt(part.face_share) * both[:, :1]
                + np.sqrt(part.part_share) * both[:, 1 + index : 2 + index]
                + np.sqrt(1.0 - part.face_share - part.part_share) * own
            )
        return noise


def write_noise(path: Path, noise: LandmarkNoise) -> None:
    """Write a noise file (JSON)."""
    content = {
        'drift_s': DRIFT_S,
        'parts': {name: asdict(part) for name, part in noise.parts.items()},
        'recordings': list(noise.recordings),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def read_noise(path: Path) -> LandmarkNoise:
    """Read a noise file. Raises NoiseFileError naming the file and what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise NoiseFileError(f'noise file {path} does not exist') from error
    except (OSError, ValueError) as error:
        raise NoiseFileError(f'{path} is no noise file: {error}') from error
    try:
        parts = {name: PartNoise(**part) for name, part in content['parts'].items()}
        recordings = tuple(content['recordings'])
        drift_s = content['drift_s']
    except (KeyError, TypeError, AttributeError) as error:
        raise NoiseFileError(f'{path} is no noise file: {error!r}') from error
    if drift_s != DRIFT_S:
        raise NoiseFileError(f'{path} has drift_s {drift_s}, not {DRIFT_S}: measure it anew')
    if set(parts) != set(PARTS):
        raise NoiseFileError(f'{path} must have the parts {", ".join(PARTS)}')
    for name, part in parts.items():
        values = asdict(part).values()
        if not all(
            isinstance(value, (int, float)) and 0.0 <= value < float('inf') for value in values
        ) or part.part_share + part.face_share > 1.0:
            raise NoiseFileError(
                f'{path}: the noise of {name} must be finite, not negative, and its shares at '
                f'most 1 together: {asdict(part)}'
            )
    return LandmarkNoise(parts={name: parts[name] for name in PARTS}, recordings=recordings)


def measured_noise() -> LandmarkNoise:
    """Read the noise that was measured of dlib, as the package's front end uses it."""
    file = resources.files('fer_training.synthesis') / 'landmark_noise.json'
    with resources.as_file(file) as path:
        return read_noise(path)
