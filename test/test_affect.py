# SPDX-License-Identifier: Apache-2.0
"""Valence and arousal derived from probabilities: bounds, pure classes, linearity, bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.affect import COORDINATES, Affect, derive_affect
from fer_perception.models.model_file import LoadedModel

LABELS = tuple(COORDINATES)

weights = st.lists(st.floats(0.0, 1.0), min_size=len(LABELS), max_size=len(LABELS)).filter(
    lambda values: sum(values) > 1e-3
)


def pair(affect: Affect) -> np.ndarray:
    return np.array([affect.valence, affect.arousal])


def probabilities_of(values: list[float]) -> np.ndarray:
    return np.array(values) / sum(values)


@pytest.mark.parametrize('label', LABELS)
def test_a_pure_class_has_its_own_coordinates(label: str) -> None:
    probabilities = np.array([float(other == label) for other in LABELS])
    assert pair(derive_affect(LABELS, probabilities)) == pytest.approx(COORDINATES[label])


def test_signs_are_those_of_the_circumplex() -> None:
    valence = {label: coordinates[0] for label, coordinates in COORDINATES.items()}
    arousal = {label: coordinates[1] for label, coordinates in COORDINATES.items()}
    assert (valence['neutral'], arousal['neutral']) == (0.0, 0.0)
    assert max(valence, key=lambda label: valence[label]) == 'happiness'
    assert all(valence[label] < 0 for label in ('anger', 'disgust', 'fear', 'sadness'))
    assert [label for label in LABELS if arousal[label] < 0] == ['sadness']


@given(weights)
def test_answers_stay_among_the_coordinates(values: list[float]) -> None:
    answer = pair(derive_affect(LABELS, probabilities_of(values)))
    corners = np.array(list(COORDINATES.values()))
    assert (answer >= corners.min(0) - 1e-9).all() and (answer <= corners.max(0) + 1e-9).all()
    assert (np.abs(answer) <= 1.0).all()


@given(weights, weights, st.floats(0.0, 1.0))
def test_mixtures_of_probabilities_mix_the_answers(
    first: list[float], second: list[float], share: float
) -> None:
    here, there = probabilities_of(first), probabilities_of(second)
    mixed = pair(derive_affect(LABELS, share * here + (1 - share) * there))
    parts = share * pair(derive_affect(LABELS, here))
    parts += (1 - share) * pair(derive_affect(LABELS, there))
    assert mixed == pytest.approx(parts, abs=1e-9)


@given(weights, st.permutations(range(len(LABELS))))
def test_the_order_of_the_classes_does_not_matter(values: list[float], order: list[int]) -> None:
    probabilities = probabilities_of(values)
    shuffled = derive_affect([LABELS[index] for index in order], probabilities[order])
    assert pair(shuffled) == pytest.approx(pair(derive_affect(LABELS, probabilities)), abs=1e-9)


def test_a_class_without_coordinates_counts_as_neutral() -> None:
    half = np.array([0.5, 0.5])
    happiness = np.array(COORDINATES['happiness'])
    for other in ('contempt', 'neutral'):
        answer = pair(derive_affect(('happiness', other), half))
        assert answer == pytest.approx(happiness / 2)


@pytest.mark.parametrize(
    'values',
    [[1.0], [0.5, 0.2], [1.5, -0.5], [np.nan, 1.0], [np.inf, 0.0], [[0.5, 0.5]]],
)
def test_what_are_no_probabilities_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match='probabilities'):
        derive_affect(('neutral', 'happiness'), np.array(values))


def test_the_shipped_model_knows_only_classes_with_coordinates(
    shipped_model: LoadedModel,
) -> None:
    assert set(shipped_model.description.classes) == set(COORDINATES)
