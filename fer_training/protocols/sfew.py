# SPDX-License-Identifier: Apache-2.0
"""SFEW 2.0 as distributed: still images from films by part and expression."""

from pathlib import Path

from fer_training.face_samples import FaceSample, still_sample
from fer_training.protocols.expressions import EXPRESSIONS
from fer_training.protocols.face_listing import FaceListing
from fer_training.protocols.listing import (
    LayoutError,
    class_folder_label,
    existing_folder,
    folders_in,
)
from fer_training.samples import images_in

DATA_SET = 'SFEW 2.0'
CLASSES = EXPRESSIONS[:7]  # no contempt
PUBLISHED = '958 images for training, 436 for validation and 372 without labels for the test'
PARTS = {'train': 'Train', 'val': 'Val', 'test': 'Test'}
UNLABELLED = 'test'


def list_sfew(root: Path, *, aligned: bool = False) -> FaceListing:
    """List the images: Train/Angry/*.png, Val/..., and those of Test, which have no labels.

    aligned: take the faces that the data set's authors have cut out and aligned instead, as
    Train/Train_Aligned_Faces/Angry/*.png or Train_Aligned_Faces/Angry/*.png (of Val also in
    Val_Aligned_Faces_new). The films' actors are not told: the subjects are unknown. The part for
    the test may be missing. Raises LayoutError for another layout.

    The folders are as loaders that others have published read them.
    """
    samples: list[FaceSample] = []
    for part, name in PARTS.items():
        candidates = _aligned_folders(name) if aligned else (name, f'{name}/{name}')
        there = any((root / candidate).is_dir() for candidate in candidates)
        if part == UNLABELLED and root.is_dir() and not there:
            continue
        folder = existing_folder(root, candidates, data_set=DATA_SET)
        found = _unlabelled(folder, aligned) if part == UNLABELLED else _labelled(
            folder, part, aligned
        )
        if not found and part != UNLABELLED:
            raise LayoutError(
                f'{folder} is not laid out as {DATA_SET}: it has no images such as '
                'Angry/Airheads_000519240.png'
            )
        samples += found
    return FaceListing(
        data_set=DATA_SET,
        samples=tuple(samples),
        classes=CLASSES,
        frame_rate=1.0,  # of no meaning: all are stills
        published=PUBLISHED,
    )


def _aligned_folders(name: str) -> tuple[str, ...]:
    faces = f'{name}_Aligned_Faces'
    return tuple(
        f'{before}{folder}'
        for before in (f'{name}/', '')
        for folder in (f'{faces}_new/{faces}', f'{faces}_new', faces)
    )


def _labelled(folder: Path, part: str, aligned: bool) -> list[FaceSample]:
    return [
        still_sample(
            image,
            label=class_folder_label(expression, CLASSES, data_set=DATA_SET),
            name=f'{part}_{expression.name}_{image.stem}',
            part=part,
            aligned=aligned,
        )
        for expression in folders_in(folder)
        # Beside those of the expressions lie folders with aligned faces and prepared features.
        if (images := images_in(expression))
        for image in images
    ]


def _unlabelled(folder: Path, aligned: bool) -> list[FaceSample]:
    images = images_in(folder)
    if (folder / 'imgs').is_dir():
        images += images_in(folder / 'imgs')
    return [
        still_sample(image, name=f'{UNLABELLED}_{image.stem}', part=UNLABELLED, aligned=aligned)
        for image in images
    ]
