# SPDX-License-Identifier: Apache-2.0
"""Aff-Wild2 as distributed: cut and aligned faces by video, and a label of every frame."""

import re
from pathlib import Path

from fer_training.face_samples import FaceSample
from fer_training.protocols.expressions import EXPRESSIONS, expression_name
from fer_training.protocols.face_listing import FaceListing
from fer_training.protocols.listing import LayoutError, existing_folder, folders_in
from fer_training.samples import Sample, images_in

DATA_SET = 'Aff-Wild2'
CLASSES = EXPRESSIONS[:7]  # the order of the label files, too
IMAGES = ('cropped_aligned', 'cropped_aligned_images')
BATCHES = ('', 'batch1', 'batch2', *IMAGES)
ANNOTATIONS = tuple(
    f'{before}{task}' for task in ('EXPR_Set', 'EXPR_Classification_Challenge')
    for before in ('annotations/', '', 'Annotations/', 'annotations/annotations/')
)
PARTS = {'train': ('Train_Set', 'Training_Set'), 'val': ('Validation_Set',)}
UNLABELLED = -1
FRAME_RATE = 30.0
PUBLISHED = '548 videos, 539 of them with expressions'


def list_affwild2(root: Path) -> FaceListing:
    """List the annotated videos of the parts for training and validation.

    Their faces are cropped_aligned/<video>/00001.jpg (or in cropped_aligned_images, also in its
    batch1 and batch2), their labels annotations/EXPR_Set/Train_Set/<video>.txt (or Training_Set)
    and Validation_Set. The first line of a label file names the classes, Neutral,Anger,Disgust,
    Fear,Happiness,Sadness,Surprise, and each further line holds the class of one frame as its
    number among these: the first that of 00001.jpg. Frames with -1, of a class that is none of the
    seven, or without an image (no face was found when they were cut) are left out, and so are
    videos without any images. Who it is in a video is not told. Raises LayoutError for another
    layout.

    The layout is the ABAW competitions', as loaders that others have published read it.
    """
    images = existing_folder(root, IMAGES, data_set=DATA_SET)
    annotations = existing_folder(root, ANNOTATIONS, data_set=DATA_SET, expected=(
        'annotations/EXPR_Set, EXPR_Set'
    ))
    batches = [images / name for name in BATCHES if (images / name).is_dir()]
    folders = {folder.name: folder for batch in batches for folder in folders_in(batch)}
    samples = []
    for part, names in PARTS.items():
        labels = existing_folder(annotations, names, data_set=f'the annotations of {DATA_SET}')
        files = sorted(labels.glob('[!.]*.txt'))
        found = [
            _sample(folders[file.stem], file, part) for file in files if file.stem in folders
        ]
        if not any(found):
            raise LayoutError(
                f'none of the {len(files)} label files in {labels} has labelled images in '
                f'{images}, such as <video>.txt and <video>/00001.jpg'
            )
        samples += [sample for sample in found if sample is not None]
    return FaceListing(
        data_set=DATA_SET,
        samples=tuple(samples),
        classes=CLASSES,
        frame_rate=FRAME_RATE,
        published=PUBLISHED,
    )


def _sample(folder: Path, file: Path, part: str) -> FaceSample | None:
    """Make the sample of a video; None if no frame has both a label and an image."""
    labels = _read_labels(file)
    images, shown = [], []
    for image in images_in(folder):
        number = int(image.stem) if re.fullmatch('[0-9]{1,9}', image.stem) else 0
        if 1 <= number <= len(labels) and labels[number - 1]:
            images.append(image.name)
            shown.append(labels[number - 1])
    if not images:
        return None
    return FaceSample(
        recording=Sample(path=folder, name=folder.name),
        part=part,
        images=tuple(images),
        labels=tuple(shown),
        aligned=True,
    )


def _read_labels(path: Path) -> list[str]:
    """Read a label file: the label of each frame, '' for those to be left out."""
    try:
        header, *lines = path.read_text('utf-8-sig').split('\n')
    except ValueError as error:
        raise LayoutError(f'{path} is no label file: {error}') from error
    named = [expression_name(name) or '' for name in header.split(',')]
    if not set(CLASSES) <= set(named):
        raise LayoutError(
            f'{path} is no label file: its first line must name the classes '
            f'{",".join(CLASSES)}, not {header[:80]!r}'
        )
    classes = [name if name in CLASSES else '' for name in named]
    of_text = {str(number): name for number, name in enumerate(classes)} | {str(UNLABELLED): ''}
    labels = []
    for number, line in enumerate(lines, start=2):
        text = line.strip()
        if text not in of_text:
            if not text and not any(rest.strip() for rest in lines[number - 1 :]):
                break  # the file's end
            raise LayoutError(
                f'{path}, line {number}: must be a number from -1 to {len(named) - 1}, not '
                f'{text[:40]!r}'
            )
        labels.append(of_text[text])
    return labels
