# SPDX-License-Identifier: Apache-2.0
"""Import of the CSV files that OpenFace's FeatureExtraction writes."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_perception.graph.landmarks import LANDMARK_COUNT
from fer_perception.sources import FALLBACK_FRAME_RATE
from fer_training.samples import Sample
from fer_training.tracks import Track

LANDMARK_COLUMNS = tuple(
    f'{axis}_{index}' for index in range(LANDMARK_COUNT) for axis in ('x', 'y')
)
MIN_CONFIDENCE = 0.5  # of OpenFace in its landmarks, 0 to 1


class OpenFaceError(ValueError):
    """Say which file is no OpenFace CSV, and what in it is wrong."""


def read_openface_csv(
    sample: Sample,
    *,
    min_confidence: float = MIN_CONFIDENCE,
    fallback_frame_rate: float = FALLBACK_FRAME_RATE,
) -> list[Track]:
    """Read an OpenFace CSV file: one track per face, from its first to its last row.

    A frame counts as found if `success` is 1 and `confidence` at least `min_confidence`, as far
    as the file has these columns. Frames that are missing in `frame` are frames without a face.
    `timestamp` tells the frame rate. If the file has several values of `face_id`, each makes a
    track whose subject gets '_' and the number appended. Faces that are never found are left out.
    Raises OpenFaceError naming the file and what is wrong with it.
    """
    if not sample.path.is_file():
        raise OpenFaceError(f'OpenFace CSV {sample.path} does not exist')
    try:
        columns = _read_columns(sample.path)
    except (OSError, ValueError, csv.Error) as error:
        raise OpenFaceError(f'{sample.path} is no OpenFace CSV: {error}') from error
    faces = columns.get('face_id', np.zeros(len(columns['x_0'])))
    identifiers = np.unique(faces)
    tracks = []
    for identifier in identifiers:
        rows = {name: values[faces == identifier] for name, values in columns.items()}
        suffix = f'_{identifier:.0f}' if len(identifiers) > 1 else ''
        try:
            landmarks, found = _on_every_frame(rows, min_confidence)
            frame_rate = _frame_rate(rows, fallback_frame_rate)
        except ValueError as error:
            raise OpenFaceError(f'{sample.path} is no OpenFace CSV: {error}') from error
        if found.any():
            tracks.append(
                Track(
                    landmarks=landmarks,
                    label=sample.label,
                    subject=sample.subject + suffix,
                    frame_rate=frame_rate,
                    found=None if found.all() else found,
                )
            )
    return tracks


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    """Read the columns that matter, each (R,) float64, by name."""
    with path.open(encoding='utf-8-sig', newline='') as file:
        header = [name.strip() for name in next(csv.reader(file), [])]
        missing = [name for name in LANDMARK_COLUMNS if name not in header]
        if missing:
            raise ValueError(
                f'it lacks {len(missing)} of the 136 columns x_0 to y_67, the first {missing[0]} '
                '(FeatureExtraction writes them with the option -2Dfp)'
            )
        optional = ('frame', 'face_id', 'timestamp', 'confidence', 'success')
        names = [name for name in optional if name in header] + list(LANDMARK_COLUMNS)
        rows = [line for line in file if line.strip()]
        if not rows:
            raise ValueError('it has no rows')
        values = np.loadtxt(
            rows, delimiter=',', usecols=[header.index(name) for name in names], ndmin=2
        )  # (R, columns)
    return {name: values[:, index] for index, name in enumerate(names)}


def _on_every_frame(
    rows: dict[str, np.ndarray], min_confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Put the rows of a face on a gapless row of frames: (F, 68, 2) float32 and (F,) bool."""
    landmarks = np.stack([rows[name] for name in LANDMARK_COLUMNS], axis=1)  # (R, 136)
    found = np.isfinite(landmarks).all(axis=1)
    if 'success' in rows:
        found &= rows['success'] == 1
    if 'confidence' in rows:
        found &= rows['confidence'] >= min_confidence
    count = len(found)
    frames = rows.get('frame', np.arange(count))
    if not np.isfinite(frames).all() or (np.diff(frames) < 1).any() or (frames % 1).any():
        raise ValueError('its frame numbers of a face must be whole and ascend')
    places = (frames - frames[0]).astype(np.int64)
    if places[-1] >= 100 * (count + 100):
        raise ValueError(f'its frame numbers reach {frames[-1]:.0f}, but it has {count} rows')
    every_landmark = np.zeros((places[-1] + 1, LANDMARK_COUNT, 2), np.float32)
    every_found = np.zeros(places[-1] + 1, bool)
    # (R, 136) -> (R, 68, 2)
    every_landmark[places[found]] = landmarks[found].reshape(-1, LANDMARK_COUNT, 2)
    every_found[places] = found
    return every_landmark, every_found


def _frame_rate(rows: dict[str, np.ndarray], fallback: float) -> float:
    """Tell the frame rate from the first and last time stamp: they are rounded to ms or more."""
    times = rows.get('timestamp')
    if times is None or len(times) < 2 or not times.any():
        return fallback
    frames = rows.get('frame', np.arange(len(times)))
    seconds = times[-1] - times[0]
    if not (np.isfinite(seconds) and seconds > 0):
        raise ValueError('its timestamps must be seconds and ascend')
    return float((frames[-1] - frames[0]) / seconds)


def read_openface_files(
    samples: Sequence[Sample], *, min_confidence: float, fallback_frame_rate: float
) -> tuple[list[Track], list[Path]]:
    """Read several OpenFace CSV files: their tracks, and the files that show no face."""
    tracks: list[Track] = []
    faceless: list[Path] = []
    for sample in samples:
        read = read_openface_csv(
            sample, min_confidence=min_confidence, fallback_frame_rate=fallback_frame_rate
        )
        tracks += read
        if not read:
            faceless.append(sample.path)
    return tracks, faceless
