# SPDX-License-Identifier: Apache-2.0
"""Which recordings a path stands for, and where the labels of each of them lie."""

import os
from dataclasses import dataclass
from pathlib import Path

from fer_perception.sources import BAG_METADATA, BAG_SUFFIXES, IMAGE_SUFFIXES

VIDEO_SUFFIXES = {'.avi', '.gif', '.m4v', '.mkv', '.mov', '.mp4', '.mpg', '.webm'}
LABELS_SUFFIX = '.csv'
LABELS_INSIDE = 'labels.csv'  # in the folder of a bag or of images


class RecordingFilesError(ValueError):
    """Say which recordings or labels are not to be found, and what to do."""


@dataclass(frozen=True, kw_only=True)
class RecordingFile:
    """Hold where one recording and its labels are."""

    name: str
    path: Path
    labels: tuple[Path, ...]  # where they may be, the first that is there counts

    @property
    def source(self) -> str:
        """What to open; never taken for the number of a camera."""
        return os.path.join(os.curdir, self.path)

    def labels_path(self) -> Path:
        """Return the path of the labels; raises RecordingFilesError if there are none."""
        for path in self.labels:
            if path.is_file():
                return path
        places = ' or '.join(repr(str(path)) for path in self.labels)
        raise RecordingFilesError(f'{self.name} has no labels: write them to {places}')


def find_recordings(path: Path, labels: Path | None) -> tuple[RecordingFile, ...]:
    """Find the recordings that a path stands for, in order of their names.

    path: a bag, a video or a folder of images; or a folder of bags and videos, of which all are
    taken, but none in folders below. labels: the file of the labels; or the folder where the
    labels of each recording lie under its name; None: beside each recording under its name, or
    labels.csv in its folder. A file's labels are named without its suffix. Raises
    RecordingFilesError if there is no recording, or one file of labels for many.
    """
    if not path.exists():
        raise RecordingFilesError(
            f'{str(path)!r} does not exist: give a rosbag or a folder of rosbags'
        )
    if not (path.is_dir() or path.is_file()):
        raise RecordingFilesError(f'{str(path)!r} is no file and no folder: record it first')
    if path.is_file() or _is_bag(path):
        return (_recording(path, labels),)
    found = sorted(item for item in path.iterdir() if _is_recording(item))
    if not found and _has_images(path):
        return (_recording(path, labels),)
    if not found:
        raise RecordingFilesError(f'{str(path)!r} is no rosbag and holds neither bags nor videos')
    if labels is not None and not labels.is_dir():
        raise RecordingFilesError(
            f'{str(path)!r} is a folder of recordings (such as {found[0].name!r}): give a folder '
            f'with a file of labels for each of them, not {str(labels)!r}'
        )
    return tuple(_recording(item, labels) for item in found)


def _recording(path: Path, labels: Path | None) -> RecordingFile:
    place = Path(os.path.abspath(path))  # '.' has no name
    is_file = not path.is_dir()
    labels_name = (place.stem if is_file else place.name) + LABELS_SUFFIX
    if labels is not None:
        places = (labels / labels_name,) if labels.is_dir() else (labels,)
    else:
        inside = () if is_file else (path / LABELS_INSIDE,)
        places = (place.with_name(labels_name), *inside)
    return RecordingFile(name=place.name, path=path, labels=places)


def _is_recording(path: Path) -> bool:
    if path.is_dir():
        return _is_bag(path) or any(item.suffix in BAG_SUFFIXES for item in path.iterdir())
    return path.suffix in BAG_SUFFIXES or path.suffix.lower() in VIDEO_SUFFIXES


def _is_bag(path: Path) -> bool:
    return (path / BAG_METADATA).is_file()


def _has_images(path: Path) -> bool:
    return any(item.suffix.lower() in IMAGE_SUFFIXES for item in path.iterdir())
