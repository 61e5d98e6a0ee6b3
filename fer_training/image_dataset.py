# SPDX-License-Identifier: Apache-2.0
"""What image recognisers are trained on: frames chosen from a face set, read batch by batch.

Shapes: N sequences, T frames of each, H x W pixels, F frames of a face set.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from fer_perception.faces.crop import FaceCrop, ImageNormalization
from fer_perception.graph.landmarks import MIRROR
from fer_training.dataset import IGNORED
from fer_training.face_sets import FaceSequence, FaceSet


@dataclass(frozen=True, kw_only=True)
class ImageItems:
    """Name N items of T frames with their targets; an item is what a network reads at once."""

    frames: np.ndarray  # (N, T) int64, frames of the face set
    targets: np.ndarray  # (N,) class index, or (N, T): of every frame, IGNORED where unknown
    names: tuple[str, ...]  # (N,) what each is
    sequences: tuple[str, ...]  # (N,) name of the sequence that each was made from

    def __len__(self) -> int:
        """Count the items."""
        return len(self.frames)


@dataclass(frozen=True, kw_only=True)
class ImageAugmentation:
    """Say how training images are varied; all frames of an item are varied alike."""

    mirror: bool = True  # flip about half of the faces left to right
    random_crop: bool = False  # anywhere in the larger crop, not in its middle
    illumination: float = 0.0  # most that contrast and brightness change, share of the range
    rotation: float = 0.0  # most, degrees either way
    shear: float = 0.0  # most, pixels sideways for one pixel down
    translation: float = 0.0  # most, share of the side, along each axis

    def __post_init__(self) -> None:
        """Refuse values outside of their ranges."""
        for name, most in (
            ('illumination', 1.0), ('rotation', 180.0), ('shear', 1.0), ('translation', 1.0)
        ):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f'{name} must be 0 to {most}, not {getattr(self, name)}')


class ImageBatch(NamedTuple):
    """Hold the images of some items with their landmarks, as the images show them."""

    images: Tensor  # (N, T, 3, H, W) float32
    landmarks: Tensor  # (N, T, 68, 2) float32, 0 to 1 from one side of the image to the other


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceImages:
    """Reads the frames of a face set as a network reads them."""

    face_set: FaceSet
    size: int  # H and W
    share: float  # of the side of the set's crops that the network sees, in their middle
    normalization: ImageNormalization

    @classmethod
    def of(
        cls, face_set: FaceSet, crop: FaceCrop, normalization: ImageNormalization
    ) -> 'FaceImages':
        """Read a set as the crop of a model shows faces.

        Raises ValueError if the set's crops show less of the face.
        """
        share = (1.0 + 2.0 * crop.margin) / (1.0 + 2.0 * face_set.crop.margin)
        if share > 1.0 + 1e-9:
            raise ValueError(
                f'{face_set.data_set} was cut with a margin of {face_set.crop.margin}, but the '
                f'network sees {crop.margin:.4g}: prepare the set with that margin, or a larger '
                'one'
            )
        return cls(
            face_set=face_set, size=crop.size, share=min(share, 1.0), normalization=normalization
        )

    @property
    def whole_size(self) -> int:
        """Side of the whole crop at the network's resolution, pixels; `size` is its middle."""
        return self.size + 2 * round(self.size * (1.0 / self.share - 1.0) / 2.0)

    def read(
        self,
        frames: np.ndarray,
        *,
        augmentation: ImageAugmentation | None = None,
        generator: np.random.Generator | None = None,
    ) -> ImageBatch:
        """Read items (N, T) of frames; with an augmentation each is varied by draws of its own.

        Only these frames are read into memory.
        """
        images = np.empty((*frames.shape, 3, self.size, self.size), np.float32)
        landmarks = np.empty((*frames.shape, *self.face_set.landmarks.shape[1:]), np.float32)
        for item, own in enumerate(frames):
            view = FaceView.middle(self.whole_size, self.size)
            if augmentation is not None and generator is not None:
                view = FaceView.draw(augmentation, self.whole_size, self.size, generator)
            made: dict[int, np.ndarray] = {}  # repeated frames are made once
            for place, frame in enumerate(own.tolist()):
                if frame not in made:
                    pixels = view.show(_resized(self.face_set.images[frame], self.whole_size))
                    pixels = self.normalization.pixels(pixels)
                    made[frame] = self.normalization.numbers(pixels)
                images[item, place] = made[frame]
            landmarks[item] = view.move(self.face_set.landmarks[own])
        return ImageBatch(torch.from_numpy(images), torch.from_numpy(landmarks))


@dataclass(frozen=True, kw_only=True)
class FaceView:
    """Map crops of one size to images of another: a part, turned, sheared, moved or mirrored."""

    matrix: np.ndarray  # (2, 3) from pixels of the crop to pixels of the image
    whole: int  # side of the crop, pixels
    size: int  # side of the image, pixels
    mirrored: bool = False
    tones: np.ndarray | None = None  # (256,) uint8 that grey levels become

    @classmethod
    def middle(cls, whole: int, size: int) -> 'FaceView':
        """Show the middle of a crop; both sides are even, or both odd."""
        shift = (size - whole) // 2
        return cls(
            matrix=np.array([[1.0, 0.0, shift], [0.0, 1.0, shift]]), whole=whole, size=size
        )

    @classmethod
    def draw(
        cls,
        augmentation: ImageAugmentation,
        whole: int,
        size: int,
        generator: np.random.Generator,
    ) -> 'FaceView':
        """Draw one of the views that an augmentation allows."""
        # All is drawn in every case, so that one setting does not change what others draw.
        flip, *drawn = generator.uniform(-1.0, 1.0, 9)
        mirrored = augmentation.mirror and flip < 0.0
        crop = np.array(drawn[:2]) * ((whole - size) / 2 if augmentation.random_crop else 0.0)
        moved = np.array(drawn[2:4]) * augmentation.translation * size
        angle = np.radians(drawn[4] * augmentation.rotation)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[1.0, drawn[5] * augmentation.shear], [0.0, 1.0]])
        linear = turn @ shear @ np.diag([-1.0 if mirrored else 1.0, 1.0])
        centre, middle = (whole - 1) / 2 + crop, (size - 1) / 2 + moved
        offset = middle - linear @ centre
        tones = None
        if augmentation.illumination:
            contrast, brightness = 1.0 + augmentation.illumination * np.array(drawn[6:8])
            levels = (np.arange(256) - 127.5) * contrast + 127.5 * brightness
            tones = np.clip(levels.round(), 0, 255).astype(np.uint8)
        return cls(
            matrix=np.column_stack([linear, offset]),
            whole=whole,
            size=size,
            mirrored=bool(mirrored),
            tones=tones,
        )

    def show(self, crop: np.ndarray) -> np.ndarray:
        """Show a crop (whole, whole, 3) uint8 as an image (size, size, 3), repeating borders."""
        if np.array_equal(self.matrix[:, :2], np.eye(2)) and not self.matrix[:, 2].any():
            image = crop
        else:
            image = cv2.warpAffine(
                crop,
                self.matrix,
                (self.size, self.size),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
        return image if self.tones is None else cv2.LUT(image, self.tones)

    def move(self, landmarks: np.ndarray) -> np.ndarray:
        """Move landmarks (..., 68, 2) of the crop, 0 to 1, to where the image shows them.

        In a mirrored image each has the place of its counterpart, so that all keep their meaning.
        """
        pixels = landmarks.astype(np.float64) * self.whole - 0.5
        moved = pixels @ self.matrix[:, :2].T + self.matrix[:, 2]
        within = ((moved + 0.5) / self.size).astype(np.float32)
        return within[..., MIRROR, :] if self.mirrored else within


def _resized(crop: np.ndarray, size: int) -> np.ndarray:
    """Resize a crop (S, S, 3) to (size, size, 3), averaging where it becomes smaller."""
    if len(crop) == size:
        return np.ascontiguousarray(crop)
    method = cv2.INTER_AREA if len(crop) > size else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=method)


def class_indices(
    face_set: FaceSet,
    classes: Sequence[str],
    mapping: Mapping[str, str] | None = None,
    *,
    elsewhere: Collection[str] = (),
) -> np.ndarray:
    """Return the class of every frame of a set: (F,) int64, -1 for unknown and dropped ones.

    mapping: the class of a label of the set, '' to drop it; labels that are not in it stay.
    elsewhere: labels that it may name although this set lacks them, as another one has them.
    Raises ValueError for labels that occur but are no class, a mapping of labels that the set
    does not have or to classes that there are not, or a set of which nothing is left.
    """
    mapping = mapping or {}
    present = sorted(set(np.unique(face_set.labels[face_set.labels >= 0]).tolist()))
    found = [face_set.classes[index] for index in present]
    if not found:
        raise ValueError(f'{face_set.data_set} has no labels: nothing can be learned or measured')
    if missing := sorted(
        mapping.keys() - set(face_set.classes) - set(elsewhere)
    ):
        raise ValueError(
            f'the mapping has labels that {face_set.data_set} lacks: {", ".join(missing)}; it has '
            f'{", ".join(face_set.classes)}'
        )
    named = {label: mapping.get(label, label) for label in found}
    if unknown := [f'{label}={name}' for label, name in named.items()
                   if label in mapping and name and name not in classes]:
        raise ValueError(
            f'the mapping names classes that the model lacks: {", ".join(unknown)}; '
            f'its classes are {", ".join(classes)}'
        )
    if unknown := [name for name in named.values() if name and name not in classes]:
        raise ValueError(
            f'{face_set.data_set} has labels that the model lacks: {", ".join(unknown)}; its '
            f'classes are {", ".join(classes)}; map them by --map LABEL=CLASS, or drop them by '
            '--map LABEL='
        )
    numbers = {name: number for number, name in enumerate(classes)} | {'': -1}
    table = np.full(len(face_set.classes) + 1, -1)  # the last one is for label -1
    for index, label in zip(present, found, strict=True):
        table[index] = numbers[named[label]]
    labels = table[face_set.labels]
    if (labels < 0).all():
        raise ValueError(f'the mapping drops every label of {face_set.data_set}')
    return np.asarray(labels, np.int64)


def spread_items(
    sequences: Sequence[FaceSequence], labels: np.ndarray, *, frames: int
) -> ImageItems:
    """Make one item of every sequence of one class: T frames chosen in order over all of it.

    At equal intervals from the first to the last; where there are fewer than T, some are used
    again, still in order (FER-GCN, IV-B). labels: (F,) class of every frame of the set, -1
    unknown. Sequences without a class, or of several, are left out; ValueError if none is left,
    or if frames do not follow each other in time.
    """
    rows, targets, chosen = [], [], []
    for sequence in sequences:
        own = labels[sequence.start : sequence.stop]
        if own[0] < 0 or (own != own[0]).any():
            continue
        _check_time(sequence, frames)
        places = np.round(np.linspace(0, sequence.frames - 1, frames)).astype(np.int64)
        rows.append(sequence.start + places)
        targets.append(int(own[0]))
        chosen.append(sequence)
    if not rows:
        raise ValueError('no sequence has one class for all of its frames')
    return ImageItems(
        frames=np.stack(rows),
        targets=np.array(targets),
        names=tuple(sequence.name for sequence in chosen),
        sequences=tuple(sequence.name for sequence in chosen),
    )


def window_items(
    sequences: Sequence[FaceSequence], labels: np.ndarray, *, frames: int, step: int
) -> ImageItems:
    """Make windows of T consecutive frames with a target for each, every `step` frames.

    The last window of a sequence ends with it; one that is too short repeats its last frame,
    which teaches nothing again. Windows without any target are left out; ValueError if none is
    left, or if frames do not follow each other in time.
    """
    rows, targets, names, origins = [], [], [], []
    for sequence in sequences:
        if (labels[sequence.start : sequence.stop] < 0).all():
            continue
        _check_time(sequence, frames)
        last = max(0, sequence.frames - frames)
        for start in sorted({*range(0, last, step), last}):
            places = start + np.arange(frames)
            row = sequence.start + np.minimum(places, sequence.frames - 1)
            known = (places < sequence.frames) & (labels[row] >= 0)
            if known.any():
                rows.append(row)
                targets.append(np.where(known, labels[row], IGNORED))
                names.append(f'{sequence.name}@{start}')
                origins.append(sequence.name)
    return _stacked(rows, targets, names, origins)


def centred_items(
    sequences: Sequence[FaceSequence], labels: np.ndarray, *, frames: int, every: int = 1
) -> ImageItems:
    """Make an item for every frame with a class: T consecutive frames with it in their middle.

    Beyond the ends of a sequence its first and last frame are repeated. every: take one of so
    many of these frames. ValueError if no frame has a class, or if frames do not follow each
    other in time.
    """
    reach = np.arange(frames) - frames // 2
    rows, targets, names, origins = [], [], [], []
    for sequence in sequences:
        labelled = np.flatnonzero(labels[sequence.start : sequence.stop] >= 0)[::every]
        if len(labelled):
            _check_time(sequence, frames)
        for place in labelled.tolist():
            rows.append(sequence.start + np.clip(place + reach, 0, sequence.frames - 1))
            targets.append(int(labels[sequence.start + place]))
            names.append(f'{sequence.name}@{place}')
            origins.append(sequence.name)
    return _stacked(rows, targets, names, origins)


def _stacked(
    rows: list[np.ndarray], targets: list[Any], names: list[str], origins: list[str]
) -> ImageItems:
    """Put items together: rows (T,) of frames, targets () or (T,). ValueError for none."""
    if not rows:
        raise ValueError('no frame of any sequence has a class')
    return ImageItems(
        frames=np.stack(rows),
        targets=np.stack(targets),
        names=tuple(names),
        sequences=tuple(origins),
    )


def _check_time(sequence: FaceSequence, frames: int) -> None:
    if frames > 1 and not sequence.frame_rate:
        raise ValueError(
            f'sequence {sequence.name} has no frame rate, its images do not follow each other in '
            f'time: a network of {frames} frames cannot be trained or tried on it'
        )
