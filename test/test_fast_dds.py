# SPDX-License-Identifier: Apache-2.0
"""The settings for Fast DDS are valid, and never replace those of the user."""

import os
from xml.etree import ElementTree

import pytest

from fer_perception.fast_dds import PROFILES, PROFILES_VARIABLE, USER_VARIABLES, use_prompt_resends


@pytest.fixture(autouse=True)
def no_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in USER_VARIABLES:
        monkeypatch.setenv(name, '')


def test_the_profiles_are_named_and_are_xml() -> None:
    use_prompt_resends()
    assert os.environ[PROFILES_VARIABLE] == str(PROFILES)
    profiles = ElementTree.parse(PROFILES).getroot()[0]
    kinds = [element.tag.rpartition('}')[2] for element in profiles]
    assert kinds == ['data_reader', 'data_writer']


@pytest.mark.parametrize('name', USER_VARIABLES)
def test_profiles_of_the_user_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, '/my/profiles.xml')
    use_prompt_resends()
    assert os.environ[name] == '/my/profiles.xml'
    assert str(PROFILES) not in (os.environ[other] for other in USER_VARIABLES)
