# SPDX-License-Identifier: Apache-2.0
"""Extraction of face images from recordings: detected, with dlib's landmarks, and cut out."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from fer_perception.faces import Box
from fer_perception.faces.crop import FaceCrop
from fer_perception.faces.place import FacePlace
from fer_perception.sources import SourceError, VideoSource
from fer_training.engines import run_jobs
from fer_training.extraction import (
    ExtractionConfig,
    ExtractionError,
    FaceFinder,
    recording_key,
)
from fer_training.face_samples import FaceSample
from fer_training.face_set_writer import CutSequence, FaceFiles, FaceSetWriter
from fer_training.face_sets import FORMAT_VERSION, FaceSet, frame_labels, read_face_set
from fer_training.protocols.face_listing import FaceListing

RECORDINGS_FOLDER = 'recordings'  # of the unfinished set: those that wait for their turn
CUT_FILE = 'cut.json'
JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
JPEG_TRAILER_BYTES = 1 << 16  # what some cameras write after the end


@dataclass(frozen=True, kw_only=True)
class FaceExtractionConfig:
    """Set how faces are found and cut."""

    landmarks: ExtractionConfig
    # Larger than any recogniser's input, so that training can shift and turn within it.
    crop: FaceCrop = FaceCrop(size=256, margin=0.15)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Say which recording is cut, into which folder, and how."""

    sample: FaceSample
    folder: Path
    classes: tuple[str, ...]
    config: FaceExtractionConfig


def extract_faces(
    listing: FaceListing,
    *,
    config: FaceExtractionConfig,
    out: Path,
    workers: int,
    progress: bool = False,
) -> FaceSet:
    """Cut the faces of all recordings of a listing and write them as a face set.

    Frames without a face are left out and counted. Finished recordings are kept beside `out`, in
    a folder of its name with .part at the end: a call after an interrupted one goes on where that
    ended. The result does not depend on the number of workers. Raises ExtractionError for a
    recording or landmark model that cannot be read, FaceSetError if `out` is there already or
    nothing shows a face, ValueError for a label that is not among the classes.
    """
    if not listing.samples:
        raise ExtractionError(f'{listing.data_set}: there is nothing to cut faces from')
    for sample in listing.samples:
        frame_labels((*sample.labels, sample.recording.label), listing.classes)
    _finder(config.landmarks, aligned=False)  # a bad model is told of here, not by every worker
    writer = FaceSetWriter(out, crop=config.crop, identity=_identity(listing, config))
    recordings = writer.part_folder / RECORDINGS_FOLDER
    jobs = [
        _Job(
            sample=sample,
            folder=recordings / str(number),
            classes=listing.classes,
            config=config,
        )
        for number, sample in enumerate(listing.samples)
    ]
    with (
        closing(writer),
        tqdm(total=len(jobs), desc='faces', unit='recording', disable=not progress) as bar,
    ):
        bar.update(writer.done)
        left_out = 0
        for job, cut in _in_order(jobs[writer.done :], workers=workers):
            writer.append(cut, job.folder)
            shutil.rmtree(job.folder)
            left_out += cut.frames_left_out
            bar.set_postfix({'frames without a face': left_out}, refresh=False)
            bar.update()
        shutil.rmtree(recordings, ignore_errors=True)
        writer.finish(
            data_set=listing.data_set, published=listing.published, classes=listing.classes
        )
    return read_face_set(out)


def _in_order(jobs: list[_Job], *, workers: int) -> Iterator[tuple[_Job, CutSequence]]:
    """Cut recordings in parallel; yield each when all before it are done."""
    done: dict[Path, CutSequence] = {}
    missing = []
    for job in jobs:
        if (job.folder / CUT_FILE).is_file():
            done[job.folder] = _read_cut(job)
        else:
            missing.append(job)
    engine = 'serial' if min(workers, len(missing)) <= 1 else 'processes'
    with closing(run_jobs(_cut, missing, engine=engine, workers=workers)) as running:  # type: ignore[type-var]
        for job in jobs:
            while job.folder not in done:
                index, cut = next(running)
                done[missing[index].folder] = cut
            yield job, done.pop(job.folder)


class AlignedFaceFinder(FaceFinder):
    """Finds the landmarks in images cut to the face: where none is detected, all of it is one."""

    def place(self, grey: np.ndarray, previous: FacePlace | None) -> FacePlace | None:
        """Detect a face, or take the whole image (H, W) for one."""
        height, width = grey.shape
        whole = FacePlace.from_box(Box(-0.5, -0.5, width - 0.5, height - 0.5))
        return super().place(grey, previous) or whole


@lru_cache(maxsize=2)
def _finder(config: ExtractionConfig, *, aligned: bool) -> FaceFinder:
    """Load the models once in every process."""
    return AlignedFaceFinder(config) if aligned else FaceFinder(config)


def _cut(job: _Job) -> CutSequence:
    """Cut one recording into a folder, which is there whole or not at all."""
    sample, config = job.sample, job.config
    finder = _finder(config.landmarks, aligned=sample.aligned)
    scratch = job.folder.with_name(f'{job.folder.name}.part')
    shutil.rmtree(scratch, ignore_errors=True)
    files = FaceFiles(scratch, size=config.crop.size)
    frames = frames_left_out = 0
    turns = sample.quarter_turns
    place: FacePlace | None = None
    with closing(files):
        for image, label in _labelled_images(sample, config.landmarks):
            previous = None if sample.stills else place
            found = _find(finder, image, turns, previous)
            if found is None:
                frames_left_out += 1
                continue
            turn, landmarks = found
            turns = (turn,)  # the camera does not turn within a recording
            place = FacePlace.from_landmarks(landmarks)
            crop, points = config.crop.cut(_turned(image, turn), landmarks)
            files.append(crop[None], points[None], frame_labels([label], job.classes))
            frames += 1
    cut = CutSequence(
        name=sample.recording.name,
        subject=sample.recording.subject,
        part=sample.part,
        label=sample.recording.label,
        frame_rate=0.0 if sample.stills else _frame_rate(sample, config.landmarks),
        frames=frames,
        frames_left_out=frames_left_out,
    )
    (scratch / CUT_FILE).write_text(json.dumps(asdict(cut)), 'utf-8')
    scratch.rename(job.folder)
    return cut


def _find(
    finder: FaceFinder, image: np.ndarray, turns: tuple[int, ...], previous: FacePlace | None
) -> tuple[int, np.ndarray] | None:
    """Find the face in an image: the turn that put it upright and its landmarks (68, 2)."""
    for turn in turns:
        grey = cv2.cvtColor(_turned(image, turn), cv2.COLOR_BGR2GRAY)
        landmarks = finder.find(grey, previous)
        if landmarks is not None:
            return turn, landmarks
    return None


def _turned(image: np.ndarray, quarters: int) -> np.ndarray:
    """Turn an image clockwise by so many quarters."""
    return np.ascontiguousarray(np.rot90(image, -quarters))


def _labelled_images(
    sample: FaceSample, config: ExtractionConfig
) -> Iterator[tuple[np.ndarray, str]]:
    """Read the images (H, W, 3) uint8 BGR of a sample, each with its label."""
    path, label = sample.recording.path, sample.recording.label
    if path.is_dir():
        names = sample.images or tuple(image.name for image in sample.recording.images)
        if not names:
            raise ExtractionError(f'the folder {str(path)!r} holds no image')
        labels = sample.labels or (label,) * len(names)
        for name, own in zip(names, labels, strict=True):
            yield _read_image(path / name), own
    elif sample.is_image:
        yield _read_image(path), label
    else:
        try:
            for frame in VideoSource(path, fallback_frame_rate=config.frame_rate):
                yield frame.image, label
        except SourceError as error:
            raise ExtractionError(str(error)) from error


def _read_image(path: Path) -> np.ndarray:
    """Read an image (H, W, 3) uint8 BGR. Raises ExtractionError naming the file."""
    image = None
    try:
        content = path.read_bytes()
        # Of a JPEG that was cut off OpenCV reads what is there, and fills the rest with grey.
        whole = not content.startswith(JPEG_START) or JPEG_END in content[-JPEG_TRAILER_BYTES:]
        if content and whole:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        detail = ' '.join(str(error).split())
        raise ExtractionError(f'{str(path)!r} cannot be read: {detail}') from error
    if image is None:
        raise ExtractionError(
            f'{str(path)!r} is no image that OpenCV can read, or is cut off: remove or replace it'
        )
    return image


def _frame_rate(sample: FaceSample, config: ExtractionConfig) -> float:
    path = sample.recording.path
    if path.is_dir():
        return config.frame_rate
    source = VideoSource(path, fallback_frame_rate=config.frame_rate)
    return source.frame_rate or config.frame_rate


def _read_cut(job: _Job) -> CutSequence:
    return CutSequence(**json.loads((job.folder / CUT_FILE).read_text('utf-8')))


def _identity(listing: FaceListing, config: FaceExtractionConfig) -> str:
    """Make a digest of all that a set is made from and how."""
    about = [FORMAT_VERSION, listing.data_set, listing.classes, asdict(config.crop)]
    digest = hashlib.sha256(json.dumps(about).encode())
    for sample in listing.samples:
        described = asdict(sample) | {'recording': asdict(sample.recording)}
        described['recording']['path'] = recording_key(sample.recording, config.landmarks)
        digest.update(json.dumps(described).encode())
    return digest.hexdigest()
