# SPDX-License-Identifier: Apache-2.0
"""Listings of what faces are cut from, in a data set as distributed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fer_training.face_samples import FaceSample
from fer_training.protocols.expressions import in_project_order
from fer_training.protocols.listing import LayoutError, Listing
from fer_training.samples import Sample

NEUTRAL = 'neutral'


@dataclass(frozen=True, kw_only=True)
class FaceListing:
    """Hold the recordings of a data set to cut faces from, and its classes in their order."""

    data_set: str
    samples: tuple[FaceSample, ...]
    classes: tuple[str, ...]
    frame_rate: float  # frames per second of its image sequences
    published: str  # what the whole data set has, to compare with; '': nothing is

    @property
    def summary(self) -> str:
        """Count the recordings, parts, subjects and labels in one line."""
        labels: Counter[str] = Counter()
        for sample in self.samples:
            labels.update(sample.labels or (sample.recording.label,))
        counts = [f'{name} {labels[name]}' for name in self.classes]
        if labels['']:
            counts.append(f'unlabelled {labels[""]}')
        parts = Counter(sample.part for sample in self.samples if sample.part)
        of_parts = ', '.join(f'{name} {count}' for name, count in parts.items())
        subjects = len({sample.recording.subject for sample in self.samples} - {''})
        return (
            f'{self.data_set}: {len(self.samples)} recordings'
            + (f' of {subjects} subjects' if subjects else '')
            + (f', {of_parts}' if of_parts else '')
            + f' ({", ".join(counts)})'
            + (f'; the whole data set has {self.published}' if self.published else '')
        )


def whole_recordings(listing: Listing, *, part: str = '') -> FaceListing:
    """Take every frame of the recordings of a listing, as for FER-GCN."""
    return FaceListing(
        data_set=listing.data_set,
        samples=tuple(FaceSample(recording=sample, part=part) for sample in listing.samples),
        classes=listing.classes,
        frame_rate=listing.frame_rate,
        published=listing.published,
    )


def first_and_last_stills(listing: Listing, *, last: int = 3) -> FaceListing:
    """Take the first image of each sequence as neutral and the last few as its expression.

    As the part-based ensemble does with CK+ (section II: three, 1308 images of 8 classes).
    Raises LayoutError for a sequence of one image.
    """
    return FaceListing(
        data_set=listing.data_set,
        samples=tuple(_first_and_last(sample, last) for sample in listing.samples),
        classes=in_project_order([*listing.classes, NEUTRAL]),
        frame_rate=listing.frame_rate,
        published=listing.published,
    )


def joined(listings: Sequence[FaceListing], *, data_set: str) -> FaceListing:
    """Join the listings of the parts of a data set, which have the same classes."""
    return FaceListing(
        data_set=data_set,
        samples=tuple(sample for listing in listings for sample in listing.samples),
        classes=listings[0].classes,
        frame_rate=listings[0].frame_rate,
        published=', '.join(listing.published for listing in listings),
    )


def own_recordings(
    samples: Sequence[Sample], *, data_set: str, frame_rate: float
) -> FaceListing:
    """Take every frame of anybody's recordings; their names are the ends of their paths.

    The classes are the labels that there are, expressions first.
    """
    names = _shortest_names([sample.path for sample in samples])
    return FaceListing(
        data_set=data_set,
        samples=tuple(
            FaceSample(recording=replace(sample, name=name))
            for sample, name in zip(samples, names, strict=True)
        ),
        classes=in_project_order(sample.label for sample in samples if sample.label),
        frame_rate=frame_rate,
        published='',
    )


def _shortest_names(paths: Sequence[Path]) -> list[str]:
    """Name different paths by as many of their last parts as tell all of them apart."""
    parts = [path.absolute().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _first_and_last(sample: Sample, last: int) -> FaceSample:
    names = [image.name for image in sample.images]
    if len(names) < 2:
        raise LayoutError(
            f'{sample.path} has {len(names)} image(s), but the first one is to be neutral and '
            f'the last {last} are to show {sample.label}'
        )
    shown = names[1:][-last:]
    return FaceSample(
        recording=Sample(path=sample.path, subject=sample.subject, name=sample.name),
        images=(names[0], *shown),
        labels=(NEUTRAL, *[sample.label] * len(shown)),
        stills=True,
    )
