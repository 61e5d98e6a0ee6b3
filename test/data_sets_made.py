# SPDX-License-Identifier: Apache-2.0
"""Small data sets for tests, laid out as the real ones are distributed."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fer_perception.sources import open_source
from fer_perception.video_file import VideoFile

CKPLUS_CODES = {
    'anger': 1, 'contempt': 2, 'disgust': 3, 'fear': 4, 'happiness': 5, 'sadness': 6,
    'surprise': 7,
}
# The labelled sequences of the real data set: 327 of 118 subjects.
CKPLUS_COUNTS = {
    'anger': 45, 'contempt': 18, 'disgust': 59, 'fear': 25, 'happiness': 69, 'sadness': 28,
    'surprise': 83,
}
CASIA_FOLDERS = ('Anger', 'Disgust', 'Fear', 'Happiness', 'Sadness', 'Surprise')
AFEW_FOLDERS = ('Angry', 'Disgust', 'Fear', 'Happy', 'Neutral', 'Sad', 'Surprise')


def small_frames(clip: Path, *, count: int = 6) -> list[np.ndarray]:
    """Read frames of a clip at equal intervals, scaled down: (180, 320, 3) uint8."""
    with open_source(str(clip)) as source:
        images = [frame.image for frame in source]
    chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
    return [cv2.resize(images[index], (320, 180), interpolation=cv2.INTER_AREA)
            for index in chosen]


def write_images(
    folder: Path, images: Sequence[np.ndarray | None], *, pattern: str = '{:03d}.png'
) -> None:
    """Write images into a folder, numbered from 1; None makes an empty file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=1):
        path = folder / pattern.format(number)
        if image is None:
            path.touch()
        else:
            assert cv2.imwrite(str(path), image)


def write_video(path: Path, images: Sequence[np.ndarray], *, frame_rate: float = 25.0) -> None:
    """Write images to a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoFile(path, frame_rate=frame_rate) as video:
        for image in images:
            video.write(image)


def write_ckplus_sequence(
    root: Path, subject: str, sequence: str, label: str | None,
    images: Sequence[np.ndarray | None],
) -> None:
    """Write a sequence of CK+, and its label file if it has a label."""
    name = f'{subject}_{sequence}'
    write_images(root / 'cohn-kanade-images' / subject / sequence, images,
                 pattern=name + '_{:08d}.png')
    folder = root / 'Emotion' / subject / sequence
    folder.mkdir(parents=True)  # without a label the real folder is empty, too
    if label is not None:
        file = folder / f'{name}_{len(images):08d}_emotion.txt'
        file.write_text(f'   {CKPLUS_CODES[label]:.7e}\n', 'ascii')


def write_whole_ckplus(root: Path) -> None:
    """Write the tree of the whole of CK+ with empty images: 593 sequences, 327 labelled."""
    labels: list[str | None] = [
        label for label, count in CKPLUS_COUNTS.items() for _ in range(count)
    ]
    labels = list(np.random.default_rng(1).permutation(np.array(labels, dtype=object)))
    labels += [None] * (593 - len(labels))
    # 123 subjects, of which 118 have labelled sequences: 1 to 6 of each.
    shares = np.concatenate([np.arange(118), np.random.default_rng(2).permutation(118 * 5) % 118])
    owners = [*shares[:327], *(np.arange(593 - 327) % 123)]
    numbers = [0] * 123
    for owner, label in zip(owners, labels, strict=True):
        numbers[owner] += 1
        write_ckplus_sequence(root, f'S{5 + owner:03d}', f'{numbers[owner]:03d}', label, [None])
    (root / 'Emotion' / '.DS_Store').touch()


def write_whole_casia(root: Path) -> None:
    """Write the tree of the whole of Oulu-CASIA's VL/Strong with empty images."""
    for subject in range(1, 81):
        for name in CASIA_FOLDERS:
            folder = root / 'OriginalImg' / 'VL' / 'Strong' / f'P{subject:03d}' / name
            write_images(folder, [None], pattern='{:03d}.jpeg')
