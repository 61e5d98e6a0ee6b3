# SPDX-License-Identifier: Apache-2.0
"""Samples: videos and image sequences on disk, each with its label and subject."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_perception.sources import IMAGE_SUFFIXES

VIDEO_SUFFIXES = frozenset(
    {'.avi', '.gif', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.ogv', '.webm', '.wmv'}
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Name a recording of one face: a video, or a folder of images."""

    path: Path
    label: str = ''  # '': unknown
    subject: str = ''  # '': unknown
    name: str = ''  # what the data set calls it

    @property
    def images(self) -> list[Path]:
        """The images of a folder in natural order; empty for a video."""
        return images_in(self.path) if self.path.is_dir() else []


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Return a sorting key that takes the numbers in a path as numbers: frame2, frame10."""
    return [
        (int(part), part) if index % 2 else (0, part)
        for index, part in enumerate(re.split('([0-9]+)', path.as_posix()))
    ]


def images_in(folder: Path) -> list[Path]:
    """List the images directly in a folder, in natural order; hidden files are left out."""
    return sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.')
        ),
        key=natural_key,
    )


def videos_in(folder: Path) -> list[Path]:
    """List the videos directly in a folder, in natural order; hidden files are left out."""
    return sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith('.')
        ),
        key=natural_key,
    )


def find_recordings(sources: Sequence[Path]) -> list[Path]:
    """Find the recordings in videos, image folders and trees of both.

    A file is a video. Every folder that directly holds images is one sequence, and every video
    in a tree is one recording. Returns paths in natural order, source by source, each once.
    Raises ValueError for a source that is missing, is a single image, or holds no recording.
    """
    found: dict[Path, None] = {}
    for source in sources:
        if source.is_dir():
            folders = [path for path in source.rglob('*') if path.is_dir()]
            recordings = [
                recording
                for folder in sorted([source, *folders], key=natural_key)
                for recording in ([folder] if images_in(folder) else []) + videos_in(folder)
            ]
            if not recordings:
                raise ValueError(
                    f'{source} holds no video ({", ".join(sorted(VIDEO_SUFFIXES))}) and no image '
                    f'({", ".join(sorted(IMAGE_SUFFIXES))})'
                )
            found |= dict.fromkeys(recordings)
        elif not source.is_file():
            raise ValueError(f'{source} does not exist: give a video or a folder')
        elif source.suffix.lower() in IMAGE_SUFFIXES:
            raise ValueError(f'{source} is a single image: give the folder of its sequence')
        else:
            found[source] = None
    return list(found)


@dataclass(frozen=True)
class Layout:
    """Tell label and subject from the last parts of a path.

    The pattern has {label}, {subject} and *, for instance '{label}/{subject}/*' or
    '*/{subject}_{label}_*'. As many parts of the path as the pattern has, counted from its end and
    without the suffix of a file, are compared with it.
    """

    pattern: str

    def __post_init__(self) -> None:
        """Refuse a pattern that tells nothing."""
        fields = re.findall(r'\{(.*?)\}', self.pattern)
        if not fields or set(fields) - {'label', 'subject'} or len(set(fields)) != len(fields):
            raise ValueError(
                f"the layout {self.pattern!r} must have '{{label}}' or '{{subject}}' or both, "
                "each once, and no other field: for instance '{label}/{subject}/*'"
            )

    @property
    def parts(self) -> int:
        """Count the parts of a path that the pattern describes."""
        return len(Path(self.pattern).parts)

    def match(self, path: Path) -> dict[str, str] | None:
        """Return what the path tells, by the keys 'label' and 'subject'; None if unlike it."""
        named = path.with_suffix('') if path.suffix and not path.is_dir() else path
        expression = re.escape(self.pattern).replace(r'\*', '[^/]*')
        expression = re.sub(r'\\\{(label|subject)\\\}', r'(?P<\1>[^/]+?)', expression)
        matched = re.fullmatch(expression, '/'.join(named.absolute().parts[-self.parts :]))
        return None if matched is None else matched.groupdict()


def at_other_depths(
    paths: Sequence[Path], sources: Sequence[Path], layout: Layout
) -> list[Path]:
    """List the recordings whose label or subject a layout would read from a wrong folder.

    They lie in a tree among the sources, at another depth below it than the layout has parts. A
    source that is itself the only recording is none.
    """
    trees = [
        source
        for source in sources
        if any(path != source and path.is_relative_to(source) for path in paths)
    ]
    found = []
    for path in paths:
        depths = [
            len(path.relative_to(tree).parts) for tree in trees if path.is_relative_to(tree)
        ]
        if depths and layout.parts not in depths:
            found.append(path)
    return found


def samples_by_layout(
    paths: Sequence[Path], layout: Layout, *, label: str, subject: str
) -> tuple[list[Sample], list[Path]]:
    """Label recordings by their paths; `label` and `subject` where the layout tells none.

    Returns the samples and the paths that are unlike the layout. Raises ValueError if all are.
    """
    matched = [(path, layout.match(path)) for path in paths]
    samples = [
        Sample(
            path=path,
            label=told.get('label', label),
            subject=told.get('subject', subject),
        )
        for path, told in matched
        if told is not None
    ]
    if not samples:
        raise ValueError(f'no path is like the layout {layout.pattern!r}, for one {paths[0]}')
    return samples, [path for path, told in matched if told is None]


def samples_by_table(
    paths: Sequence[Path], table: Path, *, label: str, subject: str
) -> tuple[list[Sample], list[Path]]:
    """Label recordings by a CSV file with the columns file, label, subject.

    `file` is relative to the CSV's folder; the columns label and subject may be missing, where
    `label` and `subject` count. Returns the samples and the paths that are not in the table.
    Raises ValueError for a table that is not of this kind or names none of the recordings.
    """
    try:
        with table.open(encoding='utf-8-sig', newline='') as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f'{table} is no CSV file: {error}') from error
    if 'file' not in columns or not {'label', 'subject'} & set(columns):
        raise ValueError(
            f'{table} must have the columns file, label, subject, not {", ".join(columns)}'
        )
    known = {(table.parent / (row['file'] or '')).resolve(): row for row in rows}
    samples = [
        Sample(
            path=path,
            label=known[path.resolve()].get('label') or label,
            subject=known[path.resolve()].get('subject') or subject,
        )
        for path in paths
        if path.resolve() in known
    ]
    if not samples:
        raise ValueError(
            f'{table} names none of the recordings, for one {paths[0]}: its files must be '
            'relative to its folder'
        )
    return samples, [path for path in paths if path.resolve() not in known]
