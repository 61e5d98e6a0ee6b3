# SPDX-License-Identifier: Apache-2.0
"""Extraction of landmark tracks from videos and image sequences with dlib, in parallel."""

import hashlib
import json
import math
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from fer_perception.assets import AssetError, asset_path
from fer_perception.faces import Box, FaceDetector, LandmarkPredictor
from fer_perception.faces.place import FacePlace
from fer_perception.faces.tracker import FOLLOWED_OVERLAP, MAX_FITS, STEADY_OVERLAP
from fer_perception.graph.landmarks import LANDMARK_COUNT
from fer_perception.sources import FALLBACK_FRAME_RATE, FolderSource, SourceError, VideoSource
from fer_training.samples import Sample
from fer_training.tracks import Track


class ExtractionError(ValueError):
    """Say which recording or model cannot be read, and what to do."""


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """Set how landmarks are extracted."""

    landmark_model: Path
    frame_rate: float = FALLBACK_FRAME_RATE  # of image folders, and of videos that tell none
    upsample: int = 1  # how often an image is doubled when no face was found in it
    fits_per_frame: int = 3  # landmark fits to average: fewer are faster, but jitter more

    def __post_init__(self) -> None:
        """Refuse values that make no sense, and a landmark model that is not there."""
        if not self.landmark_model.is_file():
            raise ExtractionError(
                f'no landmark model at {str(self.landmark_model)!r}: give the path of '
                'shape_predictor_68_face_landmarks.dat'
            )
        if not (math.isfinite(self.frame_rate) and self.frame_rate > 0):
            raise ExtractionError(f'the frame rate must be above 0, not {self.frame_rate}')
        if self.upsample < 0:
            raise ExtractionError(f'upsample must be 0 or more, not {self.upsample}')


class FaceFinder:
    """Finds the landmarks of one face per image: the largest, then the one followed."""

    def __init__(self, config: ExtractionConfig) -> None:
        """Load the landmark model. Raises FileNotFoundError or ValueError if it is no such."""
        self._predictor = LandmarkPredictor(config.landmark_model)
        self._detectors = [FaceDetector(upsample=times) for times in range(config.upsample + 1)]
        self._fits = config.fits_per_frame

    def find(self, grey: np.ndarray, previous: FacePlace | None) -> np.ndarray | None:
        """Find the landmarks in an image (H, W) uint8: (68, 2) float32, None without a face.

        previous: where the face was last; of several faces the nearest to it counts, or the
        largest if there was none.
        """
        place = self.place(grey, previous)
        return None if place is None else self.fit(grey, place)

    def fit(self, grey: np.ndarray, place: FacePlace) -> np.ndarray | None:
        """Fit the landmarks to the face at a place: (68, 2) float32, None if there is none."""
        for _ in range(MAX_FITS):  # a fit is good when its box was: repeat from its own result
            before = place
            landmarks = self._predictor.predict(
                grey, before.box, roll=before.roll, fits=self._fits
            )
            place = FacePlace.from_landmarks(landmarks)
            overlap = before.box.intersection_over_union(place.box)
            if overlap < FOLLOWED_OVERLAP:  # what was detected is not a face
                return None
            if overlap >= STEADY_OVERLAP:
                break
        return landmarks

    def place(self, grey: np.ndarray, previous: FacePlace | None) -> FacePlace | None:
        """Detect faces and choose one; look closely at the last place if none is detected.

        The arguments are those of `find`. Returns None if there is no face.
        """
        if found := self._detectors[0].detect(grey):
            return _choose(found, previous)
        if previous is not None and (look := self._detectors[0].look(grey, previous)):
            return FacePlace.from_box(look[0], roll=previous.roll)
        for detector in self._detectors[1:]:
            if found := detector.detect(grey):
                return _choose(found, previous)
        return None


def extract_tracks(
    samples: Sequence[Sample],
    *,
    config: ExtractionConfig,
    parts: Path,
    workers: int,
    progress: bool = False,
) -> list[Track | None]:
    """Extract the track of every sample, in their order; None for one that shows no face.

    Finished samples are kept in the folder `parts`, under a name made from the files and the
    configuration: a call after an interrupted one goes on where that ended. Remove the folder
    when the tracks are written. The result does not depend on the number of workers. Raises
    ExtractionError for a recording or landmark model that cannot be read.
    """
    if not samples:
        raise ExtractionError('there is nothing to extract landmarks from')
    parts.mkdir(parents=True, exist_ok=True)
    targets = [parts / f'{recording_key(sample, config)}.npz' for sample in samples]
    missing = {
        target: sample.path
        for sample, target in zip(samples, targets, strict=True)
        if not target.exists()
    }
    with tqdm(
        total=len(samples), desc='extract', unit='recording', disable=not progress
    ) as bar:
        bar.update(len(samples) - len(missing))
        if missing:
            try:
                _extract_missing(missing, config=config, workers=workers, bar=bar)
            except SourceError as error:
                raise ExtractionError(str(error)) from error
    return [
        _read_part(target, sample) for sample, target in zip(samples, targets, strict=True)
    ]


def default_landmark_model() -> Path:
    """Return the path of the fetched landmark model. Raises ExtractionError without one."""
    try:
        return asset_path('landmark_model')
    except AssetError as error:
        raise ExtractionError(str(error)) from error


def _extract_missing(
    missing: dict[Path, Path], *, config: ExtractionConfig, workers: int, bar: tqdm
) -> None:
    if min(workers, len(missing)) == 1:
        for target, path in missing.items():
            _extract_part(path, target, config)
            bar.update()
        return
    FaceFinder(config)  # a bad model is told of here, not by every worker
    pool = ProcessPoolExecutor(
        min(workers, len(missing)),
        mp_context=multiprocessing.get_context('spawn'),
        # Ctrl-C ends the workers through this process: each finishes its recording.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        futures = [
            pool.submit(_extract_part, path, target, config) for target, path in missing.items()
        ]
        for future in as_completed(futures):
            future.result()
            bar.update()
    except BrokenProcessPool as error:
        raise ExtractionError(
            'a worker process ended unexpectedly (out of memory?): run again with fewer workers; '
            'finished recordings are kept'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@lru_cache(maxsize=1)
def _face_finder(config: ExtractionConfig) -> FaceFinder:
    """Load the models once in every process."""
    return FaceFinder(config)


def _extract_part(path: Path, target: Path, config: ExtractionConfig) -> None:
    """Extract one recording and write its part file, whole or not at all."""
    finder = _face_finder(config)
    source = (
        FolderSource(path, frame_rate=config.frame_rate)
        if path.is_dir()
        else VideoSource(path, fallback_frame_rate=config.frame_rate)
    )
    frames: list[np.ndarray] = []
    found: list[bool] = []
    place: FacePlace | None = None
    for frame in source:
        landmarks = finder.find(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), place)
        found.append(landmarks is not None)
        if landmarks is None:
            landmarks = np.zeros((LANDMARK_COUNT, 2), np.float32)
        else:
            place = FacePlace.from_landmarks(landmarks)
        frames.append(landmarks)
    scratch = target.with_suffix(f'.{os.getpid()}')
    with scratch.open('wb') as file:
        np.savez(
            file,
            landmarks=np.stack(frames),  # (F, 68, 2)
            found=np.array(found),
            frame_rate=np.array(source.frame_rate or config.frame_rate),
        )
    scratch.replace(target)


def _read_part(part: Path, sample: Sample) -> Track | None:
    with np.load(part, allow_pickle=False) as arrays:
        found = arrays['found']
        if not found.any():
            return None
        return Track(
            landmarks=arrays['landmarks'],
            label=sample.label,
            subject=sample.subject,
            frame_rate=float(arrays['frame_rate']),
            found=None if found.all() else found,
        )


def _choose(found: Sequence[tuple[Box, float]], previous: FacePlace | None) -> FacePlace:
    """Choose the face nearest to the previous one, or the largest if there was none."""
    places = [FacePlace.from_box(box) for box, _ in found]
    if previous is None:
        return max(places, key=lambda place: place.side)
    x, y = previous.x, previous.y
    return min(places, key=lambda place: math.hypot(place.x - x, place.y - y))


def recording_key(sample: Sample, config: ExtractionConfig) -> str:
    """Name what a part is made from: the files as they are now, and the configuration."""
    files = sample.images or [sample.path]
    described = {
        'path': str(sample.path.resolve()),
        'files': [(file.name, *_size_and_time(file)) for file in files],
        'model': _size_and_time(config.landmark_model),
        'config': {name: str(value) for name, value in asdict(config).items()},
    }
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ExtractionError(f'{path} cannot be read: {error.strerror}') from error
    return status.st_size, status.st_mtime_ns
