# SPDX-License-Identifier: Apache-2.0
"""Measure the way from an image to landmarks against detecting on every frame, side by side.

    python benchmarks/front_end.py --out front_end.json

The sample clip, with one face and tiled to four, is given at camera rate to a detector that
searches every frame, to the same with the landmarks of what it finds, to the tracker that searches
at once, and to the tracker as the node sets it up, which searches in a thread. Reported for each:
milliseconds in which an image waits (median, p95, mean), milliseconds of processor time that it
takes in all threads, what part each stage has, and the ratios to the first two.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from clips import sample_frames, tiled
from tqdm import tqdm

from fer_perception.assets import asset_path
from fer_perception.faces import Box, FaceDetector, FaceTracker, FaceTrackerConfig
from fer_perception.faces.landmarks import FittedLandmarks, LandmarkPredictor

FRAME_PERIOD_S = 1 / 30
NODE_SEARCH_DELAY_S = 0.1  # fer_node's default
SIZES = ((640, 480), (1280, 720))
FACE_COUNTS = (1, 4)
WARM_UP_FRAMES = 15

DETECTION = 'detection on every frame'
DETECTION_AND_LANDMARKS = 'detection and landmarks on every frame'
TRACKER = 'tracker'
TRACKER_WITH_THREAD = 'tracker, search in a thread'


class Stages:
    """Collects how long each stage took, in milliseconds."""

    def __init__(self) -> None:
        self.times_ms: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, name: str, started_s: float) -> None:
        """Take note of a stage that began at this reading of time.perf_counter."""
        self.times_ms[name].append((time.perf_counter() - started_s) * 1e3)

    def summary(self, frames: int) -> dict[str, dict[str, float]]:
        """Return calls and milliseconds per frame, and the median of a call, for each stage."""
        return {
            name: {
                'calls_per_frame': round(len(times) / frames, 3),
                'median_ms': round(float(np.median(times)), 3),
                'ms_per_frame': round(sum(times) / frames, 3),
            }
            for name, times in self.times_ms.items()
        }


class TimedDetector(FaceDetector):
    """The detector, with a clock."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self._stages = stages

    def detect(self, grey: np.ndarray, *, min_score: float = 0.0) -> list[tuple[Box, float]]:
        """Search the whole image."""
        started = time.perf_counter()
        found = super().detect(grey, min_score=min_score)
        self._stages.add('search', started)
        return found

    def look(self, *args: Any, **settings: Any) -> tuple[Box, float] | None:
        """Look at one place."""
        started = time.perf_counter()
        found = super().look(*args, **settings)
        self._stages.add('look', started)
        return found


class TimedPredictor(LandmarkPredictor):
    """The predictor, with a clock."""

    def __init__(self, path: Path, stages: Stages) -> None:
        super().__init__(path)
        self._stages = stages

    def predict_all(self, *args: Any, **settings: Any) -> FittedLandmarks:
        """Fit the landmarks of all faces."""
        started = time.perf_counter()
        fitted = super().predict_all(*args, **settings)
        self._stages.add('landmarks', started)
        return fitted


class FrontEnd:
    """One way from images to faces, and what it has cost so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stages = Stages()
        detector = TimedDetector(self.stages)
        self._detector = detector
        self._tracker: FaceTracker | None = None
        self._predictor = TimedPredictor(asset_path('landmark_model'), self.stages)
        if name in (TRACKER, TRACKER_WITH_THREAD):
            self._tracker = FaceTracker(
                config=FaceTrackerConfig(
                    search_delay_s=NODE_SEARCH_DELAY_S if name == TRACKER_WITH_THREAD else 0.0
                ),
                detector=detector,
                predictor=self._predictor,
            )
        self._time_s = 0.0
        self.waits_ms: list[float] = []
        self.processor_s = 0.0
        self.face_counts: list[int] = []

    def play(self, images: list[np.ndarray]) -> None:
        """Take images (H, W, 3) uint8 BGR at camera rate; the first ones do not count."""
        for index, image in enumerate(images):
            if index == WARM_UP_FRAMES:
                self.waits_ms.clear()
                self.face_counts.clear()
                self.stages.times_ms.clear()
                processor_s = time.process_time()
            started = time.perf_counter()
            grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            self.stages.add('grey', started)
            faces = self._read(grey)
            ended = time.perf_counter()
            self.waits_ms.append((ended - started) * 1e3)
            self.face_counts.append(faces)
            self._time_s += FRAME_PERIOD_S
            time.sleep(max(0.0, FRAME_PERIOD_S - (ended - started)))
        self.processor_s = time.process_time() - processor_s

    def _read(self, grey: np.ndarray) -> int:
        if self._tracker is not None:
            return len(self._tracker.update(grey, self._time_s))
        found = self._detector.detect(grey)
        if self.name == DETECTION_AND_LANDMARKS:
            for box, _ in found:
                self._predictor.predict(grey, box, fits=FaceTrackerConfig().fits_per_frame)
        return len(found)

    def close(self) -> None:
        """End the thread."""
        if self._tracker is not None:
            self._tracker.close()

    def figures(self) -> dict[str, Any]:
        """Return what was measured."""
        frames = len(self.waits_ms)
        median, late = np.percentile(self.waits_ms, [50, 95])
        return {
            'frames': frames,
            'wait_ms': {
                'p50': round(float(median), 2),
                'p95': round(float(late), 2),
                'mean': round(float(np.mean(self.waits_ms)), 2),
            },
            'processor_ms_per_frame': round(self.processor_s * 1e3 / frames, 2),
            'faces_mean': round(float(np.mean(self.face_counts)), 2),
            'stages': self.stages.summary(frames),
        }



def measure(size: tuple[int, int], faces: int, frames: int) -> dict[str, Any]:
    """Play the clip, frame by frame, to each front end."""
    clip = tiled(sample_frames(), size, faces)
    images = [clip[index % len(clip)] for index in range(WARM_UP_FRAMES + frames)]
    rows: dict[str, Any] = {}
    for name in (DETECTION, DETECTION_AND_LANDMARKS, TRACKER, TRACKER_WITH_THREAD):
        front_end = FrontEnd(name)
        front_end.play(images)
        front_end.close()
        rows[name] = front_end.figures()
    for name in (TRACKER, TRACKER_WITH_THREAD):
        for other in (DETECTION, DETECTION_AND_LANDMARKS):
            rows[name][f'ratio to {other}'] = {
                'wait': round(rows[name]['wait_ms']['mean'] / rows[other]['wait_ms']['mean'], 3),
                'processor': round(
                    rows[name]['processor_ms_per_frame'] / rows[other]['processor_ms_per_frame'],
                    3,
                ),
            }
    return {'image_size': size, 'faces': faces, 'ways': rows}


def main() -> int:
    """Measure, write or print the figures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=300, help='of each row (%(default)s)')
    parser.add_argument('--out', type=Path, help='JSON file (printed otherwise)')
    options = parser.parse_args()
    if options.frames < 1:
        parser.error(f'--frames must be 1 or more, not {options.frames}')
    cases = [(size, faces) for size in SIZES for faces in FACE_COUNTS]
    figures = {
        'benchmark': 'front_end',
        'machine': {'processor': platform.processor(), 'cores': os.cpu_count()},
        'camera_hz': 30.0,
        'rows': [
            measure(size, faces, options.frames)
            for size, faces in tqdm(cases, unit='case', disable=not sys.stderr.isatty())
        ],
    }
    text = json.dumps(figures, indent=2)
    if options.out:
        options.out.write_text(text + '\n', encoding='utf-8')
    print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
