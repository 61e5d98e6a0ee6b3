# SPDX-License-Identifier: Apache-2.0
"""Face ids: five characters, a letter first, never given twice."""

from __future__ import annotations

import re

import pytest

from fer_perception.faces import identifiers
from fer_perception.faces.identifiers import Identifiers


@pytest.mark.parametrize('deterministic', [False, True])
def test_ids_are_well_formed_and_unique(deterministic: bool) -> None:
    source = Identifiers(deterministic=deterministic)
    ids = [source.new() for _ in range(5000)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch('[a-z][a-z0-9]{4}', face_id) for face_id in ids)


def test_deterministic_ids_count() -> None:
    source = Identifiers(deterministic=True)
    assert [source.new() for _ in range(11)][::5] == ['a0000', 'a0005', 'a000a']
    assert Identifiers(deterministic=True).new() == 'a0000'


def test_random_ids_differ_from_one_run_to_the_next() -> None:
    first, second = Identifiers(), Identifiers()
    assert [first.new() for _ in range(5)] != [second.new() for _ in range(5)]


@pytest.mark.parametrize('deterministic', [False, True])
def test_every_id_is_given_once_before_the_end(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identifiers, 'IDENTIFIER_COUNT', 50)
    source = Identifiers(deterministic=deterministic)
    assert len({source.new() for _ in range(50)}) == 50
    with pytest.raises(RuntimeError, match='all 50'):
        source.new()
