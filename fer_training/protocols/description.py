# SPDX-License-Identifier: Apache-2.0
"""protocol.json: what prepared files hold and how they were made."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fer_training.clips import ClipPreparation

PROTOCOL_FILE = 'protocol.json'


class ProtocolFileError(ValueError):
    """Say which protocol file cannot be read, and what in it is wrong."""


@dataclass(frozen=True, kw_only=True)
class SplitDescription:
    """Describe one training and validation part."""

    folder: str  # relative to the protocol file; '.' is its own folder
    validation_subjects: tuple[str, ...]  # none where the subjects are unknown
    train_clips: int  # augmented ones included
    validation_clips: int


@dataclass(frozen=True, kw_only=True)
class ProtocolDescription:
    """Describe prepared files: the labels 0, 1, ... in them are indices into `classes`."""

    data_set: str
    classes: tuple[str, ...]
    preparation: ClipPreparation  # of each track
    features: str  # 'landmarks' (51 inner ones), or the name of an edge list
    seed: int
    augmentation: dict[str, Any] | None  # of the training parts; None: not augmented
    track_files: tuple[str, ...]  # relative to the protocol file
    splits: tuple[SplitDescription, ...]
    left_out: tuple[str, ...]  # recordings without any face

    def write(self, folder: Path) -> None:
        """Write protocol.json into a folder."""
        text = json.dumps(asdict(self), indent=2)
        (folder / PROTOCOL_FILE).write_text(f'{text}\n', 'utf-8')


def read_protocol(folder: Path) -> ProtocolDescription:
    """Read the protocol.json of a folder.

    Raises ProtocolFileError naming the file and what is wrong with it: unknown or missing
    entries, or no JSON.
    """
    path = folder / PROTOCOL_FILE
    try:
        content = _checked(json.loads(path.read_text('utf-8')), ProtocolDescription)
        splits = [_checked(split, SplitDescription) for split in content.pop('splits')]
        preparation = ClipPreparation(**_checked(content.pop('preparation'), ClipPreparation))
        return ProtocolDescription(
            **_with_tuples(content),
            preparation=preparation,
            splits=tuple(SplitDescription(**_with_tuples(split)) for split in splits),
        )
    except FileNotFoundError as error:
        raise ProtocolFileError(f'{path} does not exist: run fer_train prepare') from error
    except (ValueError, TypeError) as error:
        raise ProtocolFileError(f'{path} is no protocol file: {error}') from error


def _checked(content: Any, kind: type) -> dict[str, Any]:
    """Check that a JSON object has exactly the entries of a class."""
    if not isinstance(content, dict):
        raise ValueError(f'it must hold objects, not {type(content).__name__}')
    names = {field.name for field in fields(kind)}
    if wrong := names ^ content.keys():
        raise ValueError(f'missing or unknown entries: {", ".join(sorted(wrong))}')
    return dict(content)


def _with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content.items()
    }
