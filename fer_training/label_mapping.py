# SPDX-License-Identifier: Apache-2.0
"""Mapping of a data set's labels to a model's classes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fer_training.tracks import Track


def read_label_mapping(items: Sequence[str]) -> dict[str, str]:
    """Read a mapping from JSON files and LABEL=CLASS items, later ones coming first.

    An empty class drops the label. A file is an object of strings. Raises ValueError naming the
    item that is neither.
    """
    mapping: dict[str, str] = {}
    for item in items:
        label, equals, name = item.partition('=')
        if equals:
            mapping[label.strip()] = name.strip()
            continue
        try:
            values = json.loads(Path(item).read_text())
        except OSError as error:
            raise ValueError(
                f'{item!r} is neither LABEL=CLASS nor a readable file: {error.strerror}'
            ) from error
        except ValueError as error:
            raise ValueError(f'{item} is no JSON: {error}') from error
        if not isinstance(values, dict) or not all(
            isinstance(value, str) for value in values.values()
        ):
            raise ValueError(f'{item} must be an object of label: class, both strings')
        mapping |= values
    return mapping


def relabel_tracks(
    tracks: Sequence[Track], mapping: Mapping[str, str], *, classes: Sequence[str]
) -> list[Track]:
    """Give tracks the classes of their labels, leaving out those that are mapped to ''.

    Labels that are not in the mapping stay. Raises ValueError if a label of the mapping does not
    occur, a class is unknown, or no track is left.
    """
    found = {track.label for track in tracks}
    if missing := sorted(mapping.keys() - found):
        raise ValueError(
            f'the mapping has labels that no track has: {", ".join(missing)}; '
            f'the tracks have {", ".join(sorted(found))}'
        )
    named = {label: mapping.get(label, label) for label in sorted(found)}
    if unknown := [f'{label}={name}' for label, name in named.items()
                   if label in mapping and name and name not in classes]:
        raise ValueError(
            f'the mapping names classes that the model lacks: {", ".join(unknown)}; '
            f'its classes are {", ".join(classes)}'
        )
    if unknown := [label for label in named if label not in mapping and label not in classes]:
        raise ValueError(
            f'the tracks have labels that the model lacks: {", ".join(unknown)}; its classes are '
            f'{", ".join(classes)}; map them by --map LABEL=CLASS, or drop them by --map LABEL='
        )
    left = [
        replace(track, label=named[track.label]) for track in tracks if named[track.label]
    ]
    if not left:
        raise ValueError('the mapping drops every track')
    return left
