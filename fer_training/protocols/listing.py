# SPDX-License-Identifier: Apache-2.0
"""What the listings of all data sets share: the result, its summary, and finding folders."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_training.protocols.expressions import expression_name
from fer_training.samples import Sample, natural_key


class LayoutError(ValueError):
    """Say what a folder lacks to be the data set as distributed."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Hold the recordings of a data set and its classes in the order of the papers."""

    data_set: str
    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    frame_rate: float  # frames per second of its image sequences
    published: str  # what the whole data set has, to compare with

    @property
    def summary(self) -> str:
        """Count the recordings, subjects and classes in one line."""
        labels = Counter(sample.label for sample in self.samples)
        counts = ', '.join(f'{name} {labels[name]}' for name in self.classes)
        subjects = len({sample.subject for sample in self.samples} - {''})
        people = f' of {subjects} subjects' if subjects else ''
        return (
            f'{self.data_set}: {len(self.samples)} recordings{people} ({counts}); '
            f'the whole data set has {self.published}'
        )


def folders_in(folder: Path) -> list[Path]:
    """List the folders directly in a folder in natural order, without hidden ones."""
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.')),
        key=natural_key,
    )


def existing_folder(
    root: Path, candidates: Sequence[str], *, data_set: str, expected: str | None = None
) -> Path:
    """Return the first of several folders below the root that is there.

    Raises LayoutError naming them, or what `expected` says instead, if none is.
    """
    if not root.is_dir():
        raise LayoutError(f'{root} is no folder: give the root of {data_set}')
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    raise LayoutError(
        f'{root} is not laid out as {data_set}: it has none of the folders '
        f'{expected or ", ".join(candidates)}'
    )


def class_folder_label(folder: Path, classes: Sequence[str], *, data_set: str) -> str:
    """Return the class of a folder that is named after one. Raises LayoutError if it is none."""
    label = expression_name(folder.name)
    if label is None or label not in classes:
        raise LayoutError(
            f'{folder} is not laid out as {data_set}: the folder must be named after one of its '
            f'classes {", ".join(classes)}'
        )
    return label
