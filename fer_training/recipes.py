# SPDX-License-Identifier: Apache-2.0
"""FACS recipes: which action units make an expression, and which face shapes an action unit.

The combinations are the prototypes and major variants of Ekman, Friesen and Hager, "Facial Action
Coding System: Investigator's Guide" (2002), chapter 12 (the table of EMFACS predictions).
"""

from dataclasses import dataclass

CLASSES = ('neutral', 'anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise')

# Action unit -> weights of the ARKit-style shapes that show it ('_L' and '_R' are appended where
# a shape has two sides).
ACTION_UNITS: dict[str, dict[str, float]] = {
    'AU1': {'browInnerUp': 1.0},  # inner brow raiser
    'AU2': {'browOuterUp': 1.0},  # outer brow raiser
    'AU4': {'browDown': 1.0},  # brow lowerer
    'AU5': {'eyeWide': 1.0},  # upper lid raiser
    'AU6': {'cheekSquint': 1.0, 'eyeSquint': 0.6},  # cheek raiser
    'AU7': {'eyeSquint': 1.0},  # lid tightener
    'AU9': {'noseSneer': 1.0},  # nose wrinkler
    'AU10': {'mouthUpperUp': 1.0},  # upper lip raiser
    'AU12': {'mouthSmile': 1.0},  # lip corner puller
    'AU14': {'mouthDimple': 1.0},  # dimpler
    'AU15': {'mouthFrown': 1.0},  # lip corner depressor
    'AU16': {'mouthLowerDown': 1.0},  # lower lip depressor
    'AU17': {'mouthShrugLower': 1.0, 'mouthShrugUpper': 0.4},  # chin raiser
    'AU18': {'mouthPucker': 1.0},  # lip pucker
    'AU20': {'mouthStretch': 1.0},  # lip stretcher
    'AU22': {'mouthFunnel': 1.0},  # lip funneler
    'AU23': {'mouthRollLower': 0.5, 'mouthRollUpper': 0.5, 'mouthPress': 0.4},  # lip tightener
    'AU24': {'mouthPress': 1.0, 'mouthRollLower': 0.3, 'mouthRollUpper': 0.3},  # lip pressor
    'AU25': {'mouthLowerDown': 0.7, 'mouthUpperUp': 0.4},  # lips part
    'AU26': {'jawOpen': 0.5},  # jaw drop
    'AU27': {'jawOpen': 1.0},  # mouth stretch
    'AU45': {'eyeBlink': 1.0},  # blink
}

TWO_SIDED = frozenset(
    {'browInnerUp', 'browDown', 'browOuterUp', 'cheekSquint', 'eyeBlink', 'eyeSquint', 'eyeWide'}
    | {'mouthDimple', 'mouthFrown', 'mouthLowerDown', 'mouthPress', 'mouthSmile', 'mouthStretch'}
    | {'mouthUpperUp', 'noseSneer'}
)


@dataclass(frozen=True)
class Recipe:
    """Hold one way to show an expression."""

    required: tuple[str, ...]  # action units that are always there
    optional: tuple[str, ...] = ()  # each there half of the time


RECIPES: dict[str, tuple[Recipe, ...]] = {
    'anger': (
        Recipe(('AU4', 'AU5', 'AU7', 'AU23'), ('AU24',)),
        Recipe(('AU4', 'AU7', 'AU24'), ('AU17', 'AU23')),
        Recipe(('AU4', 'AU5', 'AU7', 'AU10', 'AU22', 'AU25'), ('AU26',)),
        Recipe(('AU4', 'AU7', 'AU17', 'AU23'), ('AU5',)),
    ),
    'disgust': (
        Recipe(('AU9', 'AU10'), ('AU4', 'AU17', 'AU25')),
        Recipe(('AU9', 'AU16', 'AU25'), ('AU4', 'AU7')),
        Recipe(('AU9', 'AU15', 'AU17'), ('AU4', 'AU10')),
        Recipe(('AU10', 'AU17'), ('AU9', 'AU7')),
    ),
    'fear': (
        Recipe(('AU1', 'AU2', 'AU4', 'AU5', 'AU20', 'AU25'), ('AU7', 'AU26')),
        Recipe(('AU1', 'AU2', 'AU4', 'AU5', 'AU25'), ('AU26', 'AU20')),
        Recipe(('AU1', 'AU4', 'AU5', 'AU20', 'AU26'), ('AU7', 'AU25')),
    ),
    'happiness': (
        Recipe(('AU6', 'AU12'), ('AU25',)),
        Recipe(('AU6', 'AU12', 'AU25', 'AU26'), ('AU10', 'AU20')),
        Recipe(('AU6', 'AU12', 'AU25'), ('AU16', 'AU20')),
        Recipe(('AU12', 'AU25'), ('AU6', 'AU16')),
        Recipe(('AU12',), ('AU6', 'AU14')),
    ),
    'sadness': (
        Recipe(('AU1', 'AU4', 'AU15'), ('AU17',)),
        Recipe(('AU1', 'AU4', 'AU15', 'AU17'), ('AU7',)),
        Recipe(('AU1', 'AU15'), ('AU17', 'AU4')),
        Recipe(('AU15', 'AU17'), ('AU4', 'AU1')),
    ),
    'surprise': (
        Recipe(('AU1', 'AU2', 'AU5', 'AU26'), ('AU25',)),
        Recipe(('AU1', 'AU2', 'AU5', 'AU27'), ()),
        Recipe(('AU1', 'AU2', 'AU26'), ('AU5', 'AU25')),
    ),
}


def shape_weights(action_units: dict[str, float]) -> dict[str, float]:
    """Turn action-unit levels (0 to 1) into weights of shapes, sides not yet named.

    Raises ValueError for an unknown action unit.
    """
    weights: dict[str, float] = {}
    for unit, level in action_units.items():
        if unit not in ACTION_UNITS:
            raise ValueError(f'unknown action unit {unit!r}')
        for shape, weight in ACTION_UNITS[unit].items():
            weights[shape] = weights.get(shape, 0.0) + weight * level
    return weights
