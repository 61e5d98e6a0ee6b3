# SPDX-License-Identifier: Apache-2.0
"""Mouth movement like that of talking: syllables of random sounds, with pauses."""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from fer_training.synthesis.courses import Courses
from fer_training.synthesis.muscles import Muscles

# Mouth shapes of vowels and consonants, at full loudness.
VOWELS: tuple[dict[str, float], ...] = (
    {'jawOpen': 0.45, 'mouthLowerDown': 0.3, 'mouthUpperUp': 0.15},  # a
    {'jawOpen': 0.25, 'mouthStretch': 0.3, 'mouthLowerDown': 0.3, 'mouthUpperUp': 0.15},  # e
    {'jawOpen': 0.12, 'mouthStretch': 0.35, 'mouthLowerDown': 0.35},  # i
    {'jawOpen': 0.3, 'mouthFunnel': 0.45, 'mouthPucker': 0.2},  # o
    {'jawOpen': 0.12, 'mouthFunnel': 0.3, 'mouthPucker': 0.6},  # u
    {'jawOpen': 0.2, 'mouthLowerDown': 0.2},  # schwa
)
CONSONANTS: tuple[dict[str, float], ...] = (
    {'mouthPress': 0.35, 'mouthRollLower': 0.2, 'mouthRollUpper': 0.15},  # m, b, p
    {'mouthRollLower': 0.45, 'mouthUpperUp': 0.25, 'jawOpen': 0.06},  # f, v
    {'jawOpen': 0.08, 'mouthFunnel': 0.45},  # sh
    {'jawOpen': 0.06, 'mouthLowerDown': 0.3, 'mouthUpperUp': 0.15, 'mouthStretch': 0.1},  # s
    {'jawOpen': 0.14, 'mouthLowerDown': 0.2},  # t, n, l
    {'jawOpen': 0.2, 'mouthLowerDown': 0.15},  # k, g
)
SOUND_S = (0.06, 0.17)  # of one vowel or consonant: 3 to 8 syllables per second
PAUSE_S = (0.2, 0.9)
PAUSE_SHARE = 0.12  # of syllables that a pause follows
GRID_RATE = 60.0  # frames per second at which speech is laid out
COARTICULATION_S = 0.03  # standard deviation of the Gaussian that runs sounds into each other


def draw_speech(courses: Courses, muscles: Muscles) -> np.ndarray:
    """Draw the weights of talking from the first frame to the last: (F, X)."""
    random = courses.random
    loudness = courses.uniform((0.4, 1.4))
    shapes = sorted({shape for sound in VOWELS + CONSONANTS for shape in sound})
    steps = int(np.ceil(courses.duration_s * GRID_RATE)) + 1
    grid = np.zeros((steps, len(shapes)))
    step = 0 if courses.happens(0.5) else int(courses.uniform(PAUSE_S) * GRID_RATE)
    while step < steps:
        for sounds in (CONSONANTS, VOWELS):
            sound = sounds[random.integers(len(sounds))]
            length = max(1, round(courses.uniform(SOUND_S) * GRID_RATE))
            strength = loudness * courses.uniform((0.6, 1.2))
            for shape, weight in sound.items():
                grid[step : step + length, shapes.index(shape)] = strength * weight
            step += length
        if courses.happens(PAUSE_SHARE):
            step += int(courses.uniform(PAUSE_S) * GRID_RATE)
    grid = gaussian_filter1d(grid, COARTICULATION_S * GRID_RATE, axis=0, mode='nearest')
    at = np.minimum(np.rint(courses.times_s * GRID_RATE).astype(int), steps - 1)  # (F,)
    total = muscles.still()
    for column, shape in enumerate(shapes):
        total += muscles.move({shape: 1.0}, grid[at, column])
    return total
