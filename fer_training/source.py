# SPDX-License-Identifier: Apache-2.0
"""Where clips come from, and how: enough to load the same clips again in another process."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from fer_training.clips import ClipPreparation, Clips, clips_from_tracks
from fer_training.label_mapping import relabel_tracks
from fer_training.recipes import CLASSES
from fer_training.reference_format import read_reference_clips
from fer_training.tracks import read_tracks


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """Name a track file with the way to make clips of it, or prepared clips with their labels."""

    path: Path  # track file (.npz), or prepared clips (.npy) in the reference's format
    labels: Path | None = None  # of prepared clips (.pkl)
    classes: tuple[str, ...] = ()  # in the order of the outputs; empty: those of the track file
    preparation: ClipPreparation | None = None  # of tracks
    mapping: tuple[tuple[str, str], ...] = ()  # of tracks: class of a label, '' drops it

    def load(self, *, progress: bool = False, elsewhere: Collection[str] = ()) -> Clips:
        """Load the clips; prepared ones stay on the disk, memory-mapped.

        elsewhere: labels of other tracks, which the mapping may have as well. Raises ValueError
        or OSError naming what is wrong with the file or the settings.
        """
        if self.labels is not None:
            if not self.classes:
                raise ValueError(f'prepared clips know no class names: say those of {self.path}')
            return read_reference_clips(self.path, self.labels, classes=self.classes)
        if self.preparation is None:
            raise ValueError(f'say how many frames the clips of {self.path} have')
        tracks = read_tracks(self.path)
        labels = {track.label for track in tracks}
        mapping = dict(self.mapping)
        shown = classes_shown(labels, mapping, elsewhere=elsewhere)
        classes = self.classes or shown
        own = {label: mapping[label] for label in labels & mapping.keys()}
        return clips_from_tracks(
            relabel_tracks(tracks, own, classes=classes),
            classes=classes,
            preparation=self.preparation,
            progress=progress,
        )


def classes_of(labels: Collection[str]) -> tuple[str, ...]:
    """Name the classes that labels are, in the project's order if it knows them all."""
    if set(labels) <= set(CLASSES):
        return tuple(label for label in CLASSES if label in labels)
    return tuple(sorted(set(labels)))


def classes_shown(
    labels: Collection[str], mapping: Mapping[str, str], *, elsewhere: Collection[str] = ()
) -> tuple[str, ...]:
    """Name the classes of labels after a mapping, in the order of `classes_of`.

    Raises ValueError if the mapping has a label that is neither among these nor `elsewhere`.
    """
    if missing := sorted(mapping.keys() - {*labels, *elsewhere}):
        raise ValueError(
            f'the mapping has labels that no track has: {", ".join(missing)}; '
            f'the tracks have {", ".join(sorted({*labels, *elsewhere}))}'
        )
    return classes_of({name for label in labels if (name := mapping.get(label, label))})
