# SPDX-License-Identifier: Apache-2.0
"""FACS recipes: which action units make an expression, and which face shapes an action unit.

Every recipe names where its combination of action units comes from:

- 'EFH': Ekman, Friesen and Hager, "Facial Action Coding System: Investigator's Guide" (2002),
  table 10-1, prototypes and major variants.
- 'DTM': Du, Tao and Martinez, "Compound facial expressions of emotion", PNAS 111(15), 2014,
  table 1: units seen in more than 70 % of 230 people; those of the others are optional here.
- 'KSTC': Keltner, Sauter, Tracy and Cowen, "Emotional expression: advances in basic emotion
  theory", Journal of Nonverbal Behavior 43, 2019.
- 'RE': Ruch and Ekman, "The expressive pattern of laughter", in Kaszniak (editor), "Emotion,
  qualia, and consciousness", 2001.
- 'NEAR': a combination of theirs with a unit or two more or less; in none of the tables.

AU1+2+5 alone, a variant of fear and of surprise (EFH), is left out: landmarks tell it neither from
the other nor from the raised brows of conversation (Ekman, "About brows", 1979).
"""

from dataclasses import dataclass

CLASSES = ('neutral', 'anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise')

# Which recipes to draw from: those of training, those kept from it for the test set, or both.
VARIANTS = ('training', 'test', 'all')

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
    'AU11': {'mouthUpperUp': 0.3, 'cheekSquint': 0.4},  # nasolabial deepener: has no own shape
    'AU12': {'mouthSmile': 1.0},  # lip corner puller
    'AU14': {'mouthDimple': 1.0},  # dimpler
    'AU15': {'mouthFrown': 0.8, 'mouthStretch': 0.2},  # lip corner depressor
    'AU16': {'mouthLowerDown': 1.0},  # lower lip depressor
    'AU17': {'mouthShrugLower': 0.7, 'mouthShrugUpper': 0.8},  # chin raiser
    'AU18': {'mouthPucker': 1.0},  # lip pucker
    'AU20': {'mouthStretch': 1.0},  # lip stretcher
    'AU22': {'mouthFunnel': 0.7},  # lip funneler
    'AU23': {'mouthRollLower': 0.5, 'mouthRollUpper': 0.5, 'mouthPress': 0.4},  # lip tightener
    'AU24': {'mouthPress': 1.0, 'mouthRollLower': 0.3, 'mouthRollUpper': 0.3},  # lip pressor
    'AU25': {'mouthLowerDown': 0.6, 'mouthUpperUp': 0.3},  # lips part
    'AU26': {'jawOpen': 0.5},  # jaw drop
    'AU27': {'jawOpen': 1.0},  # mouth stretch
    'AU28': {'mouthRollLower': 1.0, 'mouthRollUpper': 1.0},  # lip suck
    'AU45': {'eyeBlink': 1.0},  # blink
}

# What people move with a unit without meaning to: shape -> highest weight. AU15 also stretches
# the mouth and AU17 presses the lips (FACS manual 2002, on both units); others are neighbours
# that the same muscle pulls. The basis' AU9 and AU10 part the lips, people's often do not. Their
# chin (AU17) pushes up the whole mouth: the basis shows that by both lips and raised corners.
COMPANIONS: dict[str, dict[str, float]] = {
    'AU1': {'browOuterUp': 0.3},
    'AU2': {'browInnerUp': 0.3},
    'AU4': {'eyeSquint': 0.3},
    'AU9': {'browDown': 0.5, 'eyeSquint': 0.4, 'mouthClose': 0.2},
    'AU10': {'noseSneer': 0.25, 'mouthClose': 0.2},
    'AU12': {'mouthDimple': 0.4, 'mouthUpperUp': 0.25, 'eyeSquint': 0.3},
    'AU15': {'mouthStretch': 0.7, 'mouthDimple': 0.4, 'mouthPress': 0.4},
    'AU17': {'mouthPress': 0.5, 'mouthRollLower': 0.7, 'mouthSmile': 0.8, 'mouthStretch': 0.3},
    'AU20': {'mouthLowerDown': 0.3},
}

TWO_SIDED = frozenset(
    {'browInnerUp', 'browDown', 'browOuterUp', 'cheekPuff', 'cheekSquint', 'eyeBlink'}
    | {'eyeLookDown', 'eyeSquint', 'eyeWide', 'mouthDimple', 'mouthFrown', 'mouthLowerDown'}
    | {'mouthPress', 'mouthSmile', 'mouthStretch', 'mouthUpperUp', 'noseSneer'}
)


@dataclass(frozen=True)
class Recipe:
    """Hold one way to show an expression."""

    source: str  # by the names above
    required: tuple[str, ...]  # action units that are always there
    optional: tuple[str, ...] = ()  # each there half of the time
    held_out: bool = False  # kept from training, for the test set

    @property
    def combinations(self) -> frozenset[frozenset[str]]:
        """All the combinations of units that can be drawn from this recipe."""
        drawn = {frozenset(self.required)}
        for unit in self.optional:
            drawn |= {units | {unit} for units in drawn}
        return frozenset(drawn)


def _recipe(source: str, units: str, optional: str = '', *, held_out: bool = False) -> Recipe:
    """Write action units as the literature does, '1 4 15'."""
    return Recipe(
        source,
        tuple(f'AU{unit}' for unit in units.split()),
        tuple(f'AU{unit}' for unit in optional.split()),
        held_out,
    )


RECIPES: dict[str, tuple[Recipe, ...]] = {
    'anger': (
        _recipe('EFH', '4 5 7 23'),
        _recipe('EFH', '4 5 7 24'),
        _recipe('EFH', '4 5 7 17 23'),
        _recipe('EFH', '4 5 7 10 22 23 25', '26'),
        _recipe('EFH', '4 5 7 10 23 25', '26'),
        _recipe('EFH', '4 7 23'),  # a variant: without AU5
        _recipe('EFH', '4 7 23 25', '26'),
        _recipe('DTM', '4 7 24', '10 17 23'),
        _recipe('KSTC', '4 5 17 23 24'),
        _recipe('EFH', '4 5 7 17 24', held_out=True),
        _recipe('EFH', '4 5 7 23 25', '26', held_out=True),
    ),
    'disgust': (
        _recipe('EFH', '9'),
        _recipe('EFH', '9 16 25', '26'),
        _recipe('EFH', '10'),
        _recipe('EFH', '10 17'),
        _recipe('DTM', '9 10 17', '4 24'),
        _recipe('KSTC', '7 9 25 26'),  # the tongue, AU19, has no landmarks
        _recipe('NEAR', '9 10 25', '4'),
        _recipe('EFH', '9 17', held_out=True),
        _recipe('EFH', '10 16 25', '26', held_out=True),
    ),
    'fear': (
        _recipe('EFH', '1 2 4 5 20 25', '26'),
        _recipe('EFH', '1 2 4 5 20 25 27'),
        _recipe('EFH', '1 2 4 5'),
        _recipe('EFH', '5 20 25', '26'),
        _recipe('DTM', '1 4 20 25', '2 5 26'),
        _recipe('EFH', '1 2 4 5 25', held_out=True),
        _recipe('KSTC', '1 2 4 5 7 20 25', held_out=True),
    ),
    'happiness': (
        _recipe('EFH', '6 12'),
        _recipe('EFH', '12'),
        _recipe('DTM', '12 25', '6'),
        _recipe('KSTC', '6 7 12 25 26'),
        _recipe('RE', '6 12 25 26', '10 16 20'),
        _recipe('RE', '6 12 25 27', '10'),
        _recipe('NEAR', '6 12 14'),
        _recipe('NEAR', '6 7 12 25', held_out=True),
        _recipe('NEAR', '12 25 26', held_out=True),
    ),
    'sadness': (
        _recipe('EFH', '1 4 15'),
        _recipe('EFH', '1 4 15 17'),
        _recipe('EFH', '1 4 11'),
        _recipe('EFH', '6 15'),
        _recipe('EFH', '11 15'),
        _recipe('EFH', '11 17'),
        _recipe('DTM', '4 15', '1 6'),
        _recipe('DTM', '4 15 17 6'),
        _recipe('KSTC', '1 4 6 15 17'),
        # Not every sad mouth turns down (docs/model-card.md): without AU15.
        _recipe('NEAR', '1 4'),
        _recipe('NEAR', '1 4 17'),
        _recipe('NEAR', '4 17', '6 14'),
        _recipe('NEAR', '4 17 24', '1'),
        _recipe('EFH', '1 4 11 15', held_out=True),
        _recipe('DTM', '4 15 17', held_out=True),
    ),
    'surprise': (
        _recipe('EFH', '1 2 5 27', '25'),
        _recipe('EFH', '1 2 26'),
        _recipe('EFH', '5 27'),
        _recipe('DTM', '1 2 25 26', '5'),
        _recipe('EFH', '5 26'),
        _recipe('EFH', '1 2 27', held_out=True),
        _recipe('EFH', '1 2 5 26', held_out=True),
    ),
}


def recipes_of(label: str, variants: str) -> tuple[Recipe, ...]:
    """Choose the recipes of an expression: of 'training', of 'test', or 'all'.

    Raises ValueError for other variants and for a class without recipes.
    """
    if variants not in VARIANTS:
        raise ValueError(f'unknown variants {variants!r}: use {", ".join(VARIANTS)}')
    if label not in RECIPES:
        raise ValueError(f'{label!r} has no recipes; these have: {", ".join(RECIPES)}')
    return tuple(
        recipe
        for recipe in RECIPES[label]
        if variants == 'all' or recipe.held_out == (variants == 'test')
    )


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
