# SPDX-License-Identifier: Apache-2.0
"""Recipes name units and shapes that there are, and the test set's are kept from training."""

from pathlib import Path

import pytest

from fer_training.face_basis import load_face_basis
from fer_training.recipes import (
    ACTION_UNITS,
    CLASSES,
    COMPANIONS,
    RECIPES,
    TWO_SIDED,
    Recipe,
    recipes_of,
    shape_weights,
)
from fer_training.synthesis.performance import (
    ACTS,
    CHEWING,
    EYES_DOWN,
    RESTING_MOODS,
    RESTING_SHAPES,
)
from fer_training.synthesis.speech import CONSONANTS, VOWELS


def test_recipes_name_known_units_and_sources() -> None:
    assert set(RECIPES) == set(CLASSES) - {'neutral'}
    for recipes in RECIPES.values():
        for recipe in recipes:
            assert set(recipe.required + recipe.optional) <= ACTION_UNITS.keys()
            assert recipe.source in {'EFH', 'DTM', 'KSTC', 'RE', 'NEAR'}
    assert COMPANIONS.keys() <= ACTION_UNITS.keys()


def test_all_shapes_are_in_the_basis(shared_data: Path) -> None:
    basis = load_face_basis(shared_data / 'ict_facekit_68.npz')
    sets = [
        *ACTION_UNITS.values(), *COMPANIONS.values(), *RESTING_MOODS, CHEWING, EYES_DOWN,
        *VOWELS, *CONSONANTS, *(shapes for shapes, _ in ACTS),
        dict.fromkeys((*RESTING_SHAPES, 'jawLeft', 'jawRight'), 1.0),
    ]
    for shape in {shape for shapes in sets for shape in shapes}:
        for name in (f'{shape}_L', f'{shape}_R') if shape in TWO_SIDED else (shape,):
            basis.index(name)


def test_no_combination_of_the_test_set_is_in_training() -> None:
    drawn = {
        variants: {
            label: {units for recipe in recipes_of(label, variants) for units in
                    recipe.combinations}
            for label in RECIPES
        }
        for variants in ('training', 'test', 'all')
    }
    for label in RECIPES:
        assert drawn['test'][label]
        assert not drawn['training'][label] & drawn['test'][label], label
        assert drawn['training'][label] | drawn['test'][label] == drawn['all'][label]


def test_no_two_classes_share_a_combination() -> None:
    owners: dict[frozenset[str], str] = {}
    for label in RECIPES:
        for recipe in recipes_of(label, 'all'):
            for units in recipe.combinations:
                assert owners.setdefault(units, label) == label, sorted(units)


def test_optional_units_make_all_combinations() -> None:
    recipe = Recipe('EFH', ('AU1',), ('AU2', 'AU5'))
    assert recipe.combinations == {
        frozenset({'AU1'}), frozenset({'AU1', 'AU2'}), frozenset({'AU1', 'AU5'}),
        frozenset({'AU1', 'AU2', 'AU5'}),
    }


def test_unknown_variants_and_classes_are_refused() -> None:
    with pytest.raises(ValueError, match='training, test, all'):
        recipes_of('anger', 'validation')
    with pytest.raises(ValueError, match="'neutral' has no recipes"):
        recipes_of('neutral', 'all')


def test_shape_weights_add_up() -> None:
    assert shape_weights({'AU6': 0.5, 'AU7': 0.5}) == {
        'cheekSquint': 0.5, 'eyeSquint': pytest.approx(0.8)
    }
    with pytest.raises(ValueError, match='AU99'):
        shape_weights({'AU99': 1.0})
