# SPDX-License-Identifier: Apache-2.0
"""Fields of a model's description, read back from texts and checked one by one."""

import json
import math
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_origin

FORMAT_VERSION = 6
MAX_TEXT = 1 << 20  # characters of the metadata

Described = TypeVar('Described')


def write_fields(architecture: str, values: dict[str, Any]) -> dict[str, str]:
    """Write the fields of a description as the metadata of a file: a JSON text for each."""
    values = {**values, 'format_version': FORMAT_VERSION, 'architecture': architecture}
    return {name: json.dumps(value) for name, value in values.items()}


def read_fields(metadata: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    """Read metadata back, not checked yet but for their size and format version.

    Returns what they say is the architecture, and the other fields. Raises ValueError.
    """
    if (length := sum(map(len, metadata.values()))) > MAX_TEXT:
        raise ValueError(f'the metadata have {length} characters, at most {MAX_TEXT} are read')
    values = {name: read_json(name, text) for name, text in metadata.items()}
    version = values.pop('format_version', None)
    if version != FORMAT_VERSION:
        raise ValueError(
            f'format_version is {version}, this program reads version {FORMAT_VERSION}'
        )
    return values.pop('architecture', None), values


def read_json(name: str, text: str) -> Any:
    """Read the JSON text of a field of the metadata; ValueError naming the field if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'field {name!r} is no JSON: {error}') from error


def checked_fields(where: str, kind: type, values: Any) -> dict[str, Any]:
    """Return the fields that a dataclass has, of the right types where these are plain.

    Raises ValueError naming the first field that is unknown, missing or of another type.
    """
    known = {item.name: item.type for item in fields(kind)}
    checked = dict(typed(where, values, dict))
    given = set(checked)
    if unknown := given - known.keys():
        raise ValueError(f'{where} has unknown fields: {", ".join(sorted(unknown))}')
    if missing := known.keys() - given:
        raise ValueError(f'{where} lacks fields: {", ".join(sorted(missing))}')
    for name, expected in known.items():
        if expected is float:
            checked[name] = _finite(name, typed(name, checked[name], (int, float)))
        elif expected in (int, str, bool):
            typed(name, checked[name], expected)
    return checked


def read_dataclass(where: str, kind: type[Described], values: Any) -> Described:
    """Make a dataclass of plain values and tuples of one type from what JSON gave.

    Raises ValueError naming the first field that is wrong.
    """
    checked = checked_fields(where, kind, values)
    for item in fields(kind):  # type: ignore[arg-type]
        if get_origin(item.type) is tuple:
            of = get_args(item.type)[0]
            plain = tuple_of(item.name, checked[item.name], (int, float) if of is float else of)
            checked[item.name] = tuple(map(float, plain)) if of is float else plain
    return kind(**checked)


def typed(name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    """Return a value that is of a type; ValueError naming the field if it is not."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = ' or '.join(item.__name__ for item in kinds)
        raise ValueError(f'{name} must be {wanted}, not {value!r}')
    return value


def tuple_of(name: str, values: Any, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
    """Return a list of values of a type as a tuple; ValueError naming the field if it is none."""
    return tuple(typed(name, value, kind) for value in typed(name, values, list))


def _finite(name: str, value: int | float) -> float:
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(f'{name} is too large') from error
    if not math.isfinite(number):
        raise ValueError(f'{name} must be finite, not {number}')
    return number
