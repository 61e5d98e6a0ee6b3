# SPDX-License-Identifier: Apache-2.0
"""Face sets cut from the sample clip: one man, neutral, then a smile."""

import itertools
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from fer_perception.faces.crop import FaceCrop
from fer_perception.faces.place import FacePlace
from fer_perception.graph.landmarks import MIRROR
from fer_perception.sources import open_source
from fer_training.extraction import ExtractionConfig, FaceFinder
from fer_training.face_set_writer import CutSequence, FaceFiles, FaceSetWriter
from fer_training.face_sets import FaceSequence, FaceSet, frame_labels, read_face_set
from fer_training.image_plan import LabelledFaces

CLASSES = ('neutral', 'happiness')
FRAME_RATE = 25.0
FRAMES = 7  # of a sequence
COPIES, HELD_OUT = 10, 4  # people to train on, and to validate on
# The clip's smile begins at frame 17. Those held out are seen at other times.
STARTS: dict[str, dict[str, tuple[int, ...]]] = {
    'train': {'neutral': (0, 4), 'happiness': (22, 44)},
    'val': {'neutral': (9,), 'happiness': (33, 51)},
}


@dataclass(frozen=True, kw_only=True)
class ClipFaces:
    """Hold the crops of the clip with dlib's landmarks."""

    images: np.ndarray  # (F, S, S, 3) uint8, RGB
    landmarks: np.ndarray  # (F, 68, 2) float32, 0 to 1 of the crop


def cut_clip(
    clip: Path, landmark_model: Path, *, crop: FaceCrop, frames: int | None = None
) -> ClipFaces:
    """Cut the face out of the first frames of the clip; it is detected in the first one only."""
    finder = FaceFinder(ExtractionConfig(landmark_model=landmark_model))
    cut = []
    place: FacePlace | None = None
    with open_source(str(clip)) as source:
        for frame in itertools.islice(source, frames):
            grey = cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY)
            landmarks = finder.find(grey, None) if place is None else finder.fit(grey, place)
            assert landmarks is not None
            place = FacePlace.from_landmarks(landmarks)
            cut.append(crop.cut(frame.image, landmarks))
    images, points = zip(*cut, strict=True)
    return ClipFaces(images=np.stack(images), landmarks=np.stack(points))


def jittered(faces: ClipFaces, *, seed: int, turn: float = 6.0, shift: float = 0.02) -> ClipFaces:
    """Make another person of it: mirrored if the seed is odd, of other light, size and place.

    turn: most, degrees; shift: most, share of the side.
    """
    random = np.random.default_rng(seed)
    size = faces.images.shape[1]
    images, landmarks = faces.images, faces.landmarks.astype(np.float64)
    if seed % 2:
        images, landmarks = images[:, :, ::-1], landmarks[:, MIRROR] * (-1, 1) + (1, 0)
    view = cv2.getRotationMatrix2D(
        ((size - 1) / 2, (size - 1) / 2), random.uniform(-turn, turn), random.uniform(0.9, 1.05)
    )
    view[:, 2] += random.uniform(-shift, shift, 2) * size
    gain, offset = random.uniform(0.8, 1.2), random.uniform(-20, 20)
    warped = np.stack(
        [
            cv2.warpAffine(np.ascontiguousarray(image), view, (size, size),
                           borderMode=cv2.BORDER_REPLICATE)
            for image in images
        ]
    )
    moved = (landmarks * size - 0.5) @ view[:, :2].T + view[:, 2]
    return ClipFaces(
        images=np.clip(warped * gain + offset, 0, 255).astype(np.uint8),
        landmarks=((moved + 0.5) / size).astype(np.float32),
    )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Say which frames of which copy make a sequence, and whose it is."""

    copy: int
    frames: tuple[int, ...]
    label: str
    subject: str
    part: str = ''


def write_clip_faces(
    folder: Path,
    copies: list[ClipFaces],
    pieces: list[Piece],
    *,
    crop: FaceCrop,
    classes: tuple[str, ...] = CLASSES,
    frame_rate: float = FRAME_RATE,
) -> FaceSet:
    """Write pieces of copies of the clip as a face set and read it."""
    writer = FaceSetWriter(folder, crop=crop, identity='clip')
    with closing(writer):
        for number, piece in enumerate(pieces):
            own = np.array(piece.frames)
            faces = folder.with_name(f'{folder.name}_faces') / str(number)
            with closing(FaceFiles(faces, size=crop.size)) as files:
                source = copies[piece.copy]
                files.append(
                    source.images[own],
                    source.landmarks[own],
                    frame_labels([piece.label] * len(own), classes),
                )
            writer.append(
                CutSequence(
                    name=f's{number}', subject=piece.subject, part=piece.part, label=piece.label,
                    frame_rate=frame_rate, frames=len(own), frames_left_out=0,
                ),
                faces,
            )
        writer.finish(data_set='clip', published='72 frames', classes=classes)
    return read_face_set(folder)


def write_people(
    folder: Path, clip: ClipFaces, *, crop: FaceCrop, turn: float, shift: float
) -> FaceSet:
    """Write short sequences of both classes of people to train and to validate on.

    turn, shift: by how much the people differ, see `jittered`.
    """
    copies = [
        jittered(clip, seed=seed, turn=turn, shift=shift) for seed in range(COPIES + HELD_OUT)
    ]
    pieces = []
    for copy in range(len(copies)):
        part = 'train' if copy < COPIES else 'val'
        for label, starts in STARTS[part].items():
            for start in starts:
                first = start + (copy % 3 if part == 'train' else 0)
                frames = tuple(range(first, first + FRAMES))
                pieces.append(
                    Piece(copy=copy, frames=frames, label=label, subject=f'p{copy:02d}', part=part)
                )
    return write_clip_faces(folder, copies, pieces, crop=crop)


def every_third(faces: LabelledFaces) -> LabelledFaces:
    """Keep every third frame, each a still: single images do not differ much over time."""
    return replace(
        faces,
        sequences=tuple(
            FaceSequence(
                name=f'{item.name}_{frame}', subject=item.subject, part=item.part,
                label=item.label, start=frame, stop=frame + 1, frame_rate=0.0,
            )
            for item in faces.sequences
            for frame in range(item.start, item.stop, 3)
        ),
    )
