# SPDX-License-Identifier: Apache-2.0
"""AFEW as distributed: videos by part and expression."""

from pathlib import Path

from fer_perception.sources import FALLBACK_FRAME_RATE
from fer_training.protocols.listing import (
    LayoutError,
    Listing,
    class_folder_label,
    existing_folder,
    folders_in,
)
from fer_training.samples import Sample, videos_in

DATA_SET = 'AFEW'
PARTS = {
    'train': ('Train/Train_AFEW', 'Train_AFEW', 'Train'),
    'val': ('Val/Val_AFEW', 'Val_AFEW', 'Val'),
}
CLASSES = ('anger', 'fear', 'happiness', 'sadness', 'surprise', 'disgust', 'neutral')
PUBLISHED = {'train': '773 videos', 'val': '383 videos'}


def list_afew(root: Path, *, part: str) -> Listing:
    """List the videos of a part, 'train' or 'val': Train/Angry/*.avi or Train_AFEW/Angry/*.avi.

    Folders without any video, such as those with prepared features, are left out. The subjects
    are unknown. Raises LayoutError for another layout.
    """
    folder = existing_folder(root, PARTS[part], data_set=DATA_SET)
    samples = [
        Sample(
            path=video,
            label=class_folder_label(expression, CLASSES, data_set=DATA_SET),
            name=f'{part}_{expression.name}_{video.stem}',
        )
        for expression in folders_in(folder)
        for video in videos_in(expression)
    ]
    if not samples:
        raise LayoutError(f'{folder} has no videos such as Angry/000046280.avi')
    return Listing(
        data_set=f'{DATA_SET} {part}',
        samples=tuple(samples),
        classes=CLASSES,
        frame_rate=FALLBACK_FRAME_RATE,
        published=PUBLISHED[part],
    )
