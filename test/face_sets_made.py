# SPDX-License-Identifier: Apache-2.0
"""Small face sets for tests, and data sets of face images laid out as the real ones are."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data_sets_made import write_images, write_video
from faces_made import face_landmarks

from fer_perception.faces.crop import FaceCrop
from fer_training.face_set_writer import CutSequence, FaceFiles, FaceSetWriter
from fer_training.face_sets import FaceSet, frame_labels, read_face_set

SFEW_FOLDERS = ('Angry', 'Disgust', 'Fear', 'Happy', 'Neutral', 'Sad', 'Surprise')
JAFFE_CODES = ('AN', 'DI', 'FE', 'HA', 'NE', 'SA', 'SU')
JAFFE_SUBJECTS = ('KA', 'KL', 'KM', 'KR', 'MK', 'NA', 'NM', 'TM', 'UY', 'YM')
AFFWILD2_HEADER = 'Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise'


@dataclass(frozen=True, kw_only=True)
class MadeSequence:
    """Say what a sequence of a face set is: `labels` are those of its frames, in order."""

    labels: tuple[str, ...]
    subject: str = ''
    part: str = ''
    label: str = ''
    frame_rate: float = 25.0


def made_faces(
    labels: Sequence[str], classes: Sequence[str], *, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make the arrays of some frames: images, landmarks, labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (len(labels), size, size, 3), np.uint8)
    landmarks = face_landmarks(frames=len(labels), seed=seed) / 160 + (0.5, 0.45)
    return images, landmarks.astype(np.float32), frame_labels(labels, classes)


def write_face_set(
    folder: Path,
    sequences: Sequence[MadeSequence],
    *,
    classes: Sequence[str] = ('neutral', 'happiness'),
    size: int = 32,
) -> FaceSet:
    """Write a face set of random images, named s0, s1, ..., and read it."""
    writer = FaceSetWriter(folder, crop=FaceCrop(size=size), identity='made')
    with closing(writer):
        for number, made in enumerate(sequences):
            append_made(writer, number, made, classes=classes, size=size)
        writer.finish(data_set='made', published='nothing', classes=classes)
    return read_face_set(folder)


def append_made(
    writer: FaceSetWriter, number: int, made: MadeSequence, *, classes: Sequence[str], size: int
) -> None:
    """Append a sequence of random images to a face set; one without frames shows no face."""
    faces = writer.part_folder.with_name('faces') / str(number)
    with closing(FaceFiles(faces, size=size)) as files:
        if made.labels:
            files.append(*made_faces(made.labels, classes, size=size, seed=number))
    cut = CutSequence(
        name=f's{number}',
        subject=made.subject,
        part=made.part,
        label=made.label,
        frame_rate=made.frame_rate,
        frames=len(made.labels),
        frames_left_out=0 if made.labels else 3,
    )
    writer.append(cut, faces)


def write_sfew(
    root: Path,
    image: np.ndarray | None,
    *,
    folders: Sequence[str] = ('Train', 'Val', 'Test'),
    each: int = 1,
) -> None:
    """Write a tree of SFEW with `each` images of every class; the last folder has no classes."""
    for folder in folders[:2]:
        for name in SFEW_FOLDERS:
            write_images(root / folder / name, [image] * each, pattern='Film_{:09d}.png')
    for folder in folders[2:]:
        write_images(root / folder, [image] * each, pattern='Film_{:09d}.png')


def write_jaffe(
    folder: Path,
    image: np.ndarray | None,
    *,
    subjects: Sequence[str] = JAFFE_SUBJECTS,
    takes: int = 3,
) -> None:
    """Write JAFFE's images: as many takes of every expression of every subject."""
    number = 0
    for subject in subjects:
        for code in JAFFE_CODES:
            for take in range(1, takes + 1):
                number += 1
                write_images(folder, [image], pattern=f'{subject}.{code}{take}.{number}.tiff')
    (folder / 'README').touch()


def write_mmi_session(
    root: Path,
    number: int,
    *,
    name: str,
    emotion: str | None,
    view: str = '0',
    images: Sequence[np.ndarray] | None = None,
) -> None:
    """Write a session of MMI: its video (an empty file without images) and its descriptions."""
    folder = root / 'Sessions' / str(number)
    folder.mkdir(parents=True)
    if images is None:
        (folder / f'{name}.avi').touch()
    else:
        write_video(folder / f'{name}.avi', images)
    tag = '' if emotion is None else f'<Metatag Name="Emotion" Value="{emotion}" />'
    text = f'<Metatags><Metatag Name="Sex" Value="1" />{tag}</Metatags>'
    (folder / f'{name}.xml').write_text(text)
    (folder / f'{name}-oao_aucs.xml').write_text('<ActionUnits />')
    text = f'<session id="{number}"><track filename="{name}.avi" view="{view}" /></session>'
    (folder / 'session.xml').write_text(text)


def write_affwild2_video(
    root: Path,
    name: str,
    labels: Sequence[int],
    images: Sequence[np.ndarray | None],
    *,
    part: str = 'Train_Set',
    missing: Sequence[int] = (),
    header: str = AFFWILD2_HEADER,
) -> None:
    """Write a video of Aff-Wild2: images numbered from 1, some missing, and its label file."""
    folder = root / 'cropped_aligned' / name
    write_images(folder, images, pattern='{:05d}.jpg')
    for number in missing:
        (folder / f'{number:05d}.jpg').unlink()
    file = root / 'annotations' / 'EXPR_Set' / part / f'{name}.txt'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n'.join([header, *map(str, labels)]) + '\n')
