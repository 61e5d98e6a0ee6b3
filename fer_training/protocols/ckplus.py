# SPDX-License-Identifier: Apache-2.0
"""CK+ as distributed: images, and the label of some sequences in a text file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_training.protocols.listing import LayoutError, Listing, existing_folder, folders_in
from fer_training.samples import Sample, images_in
from fer_training.tracks import Track

DATA_SET = 'CK+'
IMAGES = (
    'cohn-kanade-images', 'extended-cohn-kanade-images/cohn-kanade-images',
    'extended-cohn-kanade-images',
)
LABELS = ('Emotion', 'Emotion_labels/Emotion', 'Emotion_labels')
CODES = (
    'neutral', 'anger', 'contempt', 'disgust', 'fear', 'happiness', 'sadness', 'surprise'
)  # the number in a label file is an index into these
# In the reference's order; its seventh class is Neutral, the data set's own is contempt.
SIX_CLASSES = ('anger', 'fear', 'happiness', 'sadness', 'surprise', 'disgust')
CLASSES = (*SIX_CLASSES, 'contempt')
CLASSES_WITH_NEUTRAL = (*SIX_CLASSES, 'neutral')
FRAME_RATE = 30.0
PUBLISHED = '327 labelled sequences of 118 subjects'


def list_ckplus(root: Path) -> Listing:
    """List the labelled sequences: <images>/S005/001/*.png, <labels>/S005/001/*_emotion.txt.

    Sequences without a label file are left out, and so are those labelled neutral (0), which the
    data set defines but does not use. Raises LayoutError for another layout.
    """
    images = existing_folder(root, IMAGES, data_set=DATA_SET)
    labels = existing_folder(root, LABELS, data_set=DATA_SET)
    samples = []
    for subject in folders_in(labels):
        for sequence in folders_in(subject):
            files = sorted(sequence.glob('[!.]*_emotion.txt'))
            label = _read_label(files[0]) if files else 'neutral'
            if label == 'neutral':
                continue
            folder = images / subject.name / sequence.name
            if not folder.is_dir() or not images_in(folder):
                raise LayoutError(f'{files[0]} labels a sequence, but {folder} has no images')
            samples.append(
                Sample(
                    path=folder,
                    label=label,
                    subject=subject.name,
                    name=f'{subject.name}_{sequence.name}',
                )
            )
    if not samples:
        raise LayoutError(f'{labels} has no label file such as S005/001/*_emotion.txt')
    return Listing(
        data_set=DATA_SET,
        samples=tuple(samples),
        classes=CLASSES,
        frame_rate=FRAME_RATE,
        published=PUBLISHED,
    )


def with_neutral_class(
    tracks: Sequence[Track], names: Sequence[str]
) -> tuple[list[Track], list[str]]:
    """Take neutral for the seventh class, as the reference does, in place of contempt.

    Every sequence starts neutral: the first frames of all sequences of a subject, those of
    contempt included, make one neutral track of that subject. Returns the tracks of the six
    classes and the neutral ones, with their names.
    """
    kept = [
        (track, name)
        for track, name in zip(tracks, names, strict=True)
        if track.label in SIX_CLASSES
    ]
    for subject in sorted({track.subject for track in tracks}):
        first = [track.found_landmarks[0] for track in tracks if track.subject == subject]
        neutral = Track(
            landmarks=np.stack(first),  # (sequences of the subject, 68, 2)
            label='neutral',
            subject=subject,
            frame_rate=FRAME_RATE,
        )
        kept.append((neutral, f'{subject}_neutral'))
    return [track for track, _ in kept], [name for _, name in kept]


def _read_label(path: Path) -> str:
    """Read a label file, which holds one number such as 3.0000000e+00."""
    try:
        number = float(path.read_text('ascii'))
        if number not in range(len(CODES)):
            raise ValueError
    except ValueError as error:
        raise LayoutError(
            f'{path} must hold one number from 0 to {len(CODES) - 1} ({", ".join(CODES)})'
        ) from error
    return CODES[int(number)]
