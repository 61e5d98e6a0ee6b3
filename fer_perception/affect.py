# SPDX-License-Identifier: Apache-2.0
"""Valence and arousal derived from class probabilities; nothing measures them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Where each expression lies on the axes pleasure and arousal, both -1 to 1: mean ratings of the
# words angry, disgusted, fearful, happy, sad and surprised, out of 151 words that 300 people rated
# for J. A. Russell and A. Mehrabian, "Evidence for a three-factor theory of emotions", Journal of
# Research in Personality 11(3):273-294, 1977, doi:10.1016/0092-6566(77)90037-X. Neutral is no word
# of theirs, but the origin of their space.
COORDINATES = {
    'neutral': (0.0, 0.0),
    'anger': (-0.51, 0.59),
    'disgust': (-0.60, 0.35),
    'fear': (-0.64, 0.60),
    'happiness': (0.81, 0.51),
    'sadness': (-0.63, -0.27),
    'surprise': (0.40, 0.67),
}
CENTRE = (0.0, 0.0)  # of a class that COORDINATES does not name, such as contempt


@dataclass(frozen=True)
class Affect:
    """Hold valence and arousal, both -1 to 1."""

    valence: float
    arousal: float


def derive_affect(labels: Sequence[str], probabilities: np.ndarray) -> Affect:
    """Derive valence and arousal: the mean of the classes' coordinates, weighted by probability.

    labels: class names; probabilities: (C,), summing to 1. A class without coordinates counts as
    neutral does. So the answer is linear in the probabilities, of a pure class its coordinates,
    and never farther out than they are. Raises ValueError if these are no probabilities of these
    classes.
    """
    if probabilities.shape != (len(labels),):
        raise ValueError(f'{len(labels)} classes, but probabilities of {probabilities.shape}')
    # Not `< 0 or > 1`, which NaN would pass.
    if not (probabilities >= 0).all() or not abs(float(probabilities.sum()) - 1.0) <= 1e-3:
        raise ValueError(f'probabilities must be 0 or more and sum to 1, not {probabilities}')
    coordinates = np.array([COORDINATES.get(label, CENTRE) for label in labels])  # (C, 2)
    valence, arousal = (probabilities @ coordinates).tolist()
    return Affect(valence=valence, arousal=arousal)
