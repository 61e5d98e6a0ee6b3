# SPDX-License-Identifier: Apache-2.0
"""The project's names of expressions, and the data sets' names for them."""

from collections.abc import Iterable

EXPRESSIONS = (
    'neutral', 'anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise', 'contempt'
)
_SYNONYMS = {
    'angry': 'anger',
    'disgusted': 'disgust',
    'fearful': 'fear',
    'happy': 'happiness',
    'sad': 'sadness',
    'surprised': 'surprise',
}


def expression_name(name: str) -> str | None:
    """Return the project's name of an expression, None for what is no expression's name."""
    lowered = name.strip().lower()
    lowered = _SYNONYMS.get(lowered, lowered)
    return lowered if lowered in EXPRESSIONS else None


def in_project_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Sort distinct labels: expressions in the project's order, then all others by name."""
    distinct = set(labels)
    known = tuple(name for name in EXPRESSIONS if name in distinct)
    return known + tuple(sorted(distinct - set(EXPRESSIONS)))
