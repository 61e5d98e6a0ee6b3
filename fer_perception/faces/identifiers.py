# SPDX-License-Identifier: Apache-2.0
"""Face ids as ROS4HRI (REP-155) wants them: five characters, a letter first."""

from __future__ import annotations

import secrets
import string

FIRST_CHARACTERS = string.ascii_lowercase
OTHER_CHARACTERS = string.digits + string.ascii_lowercase
OTHER_COUNT = 4
IDENTIFIER_COUNT = len(FIRST_CHARACTERS) * len(OTHER_CHARACTERS) ** OTHER_COUNT  # 43,670,016


class Identifiers:
    """
    Give ids matching ``[a-z][a-z0-9]{4}``, never the same one twice.

    They are random, so that nobody takes them for persistent, unless ``deterministic`` is set:
    then they count up from 'a0000'.
    """

    def __init__(self, *, deterministic: bool = False) -> None:
        self._deterministic = deterministic
        self._given: set[int] = set()

    def new(self) -> str:
        """Return an id not given before; RuntimeError after the last of 43,670,016."""
        if len(self._given) == IDENTIFIER_COUNT:
            raise RuntimeError(f'all {IDENTIFIER_COUNT} face ids have been given; start anew')
        number = len(self._given)
        if not self._deterministic:
            number = secrets.randbelow(IDENTIFIER_COUNT)
            while number in self._given:
                number = secrets.randbelow(IDENTIFIER_COUNT)
        self._given.add(number)
        return self._spell(number)

    @staticmethod
    def _spell(number: int) -> str:
        characters = []
        for _ in range(OTHER_COUNT):
            number, digit = divmod(number, len(OTHER_CHARACTERS))
            characters.append(OTHER_CHARACTERS[digit])
        characters.append(FIRST_CHARACTERS[number])
        return ''.join(reversed(characters))
