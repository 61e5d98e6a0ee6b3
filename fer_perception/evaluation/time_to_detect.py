# SPDX-License-Identifier: Apache-2.0
"""Time to detect: from the start of a labelled segment to its first CONFIDENT right answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_perception.evaluation.labels import Labels


@dataclass(frozen=True, kw_only=True)
class SegmentDetection:
    """Say when a labelled segment was detected for one face."""

    line: int  # of the label file
    start_s: float
    end_s: float
    label: str
    face: int | None  # None: no face was answered in a segment that is of every face
    time_to_detect_s: float | None  # from the start; None: missed


@dataclass(frozen=True, kw_only=True)
class DetectionTimes:
    """Summarise detections; the times are those of the detected ones, None without any."""

    segments: int  # a segment counts once for each face that it is of
    missed: int
    missed_rate: float | None  # share of the segments
    median_s: float | None
    p95_s: float | None
    longest_s: float | None


def detect_segments(
    labels: Labels,
    *,
    segment: np.ndarray,
    face: np.ndarray,
    time_s: np.ndarray,
    is_detection: np.ndarray,
) -> tuple[SegmentDetection, ...]:
    """Find the first detection of every segment, for each face that was answered in it.

    segment: (M,) index of the segment that each answer lies in, below 0 for none; face: (M,) its
    number; time_s: (M,) seconds since the first image; is_detection: (M,) bool, whether it is
    CONFIDENT and right. A segment without any answer is missed once.
    """
    found: dict[int, dict[int, float | None]] = {}  # segment: face: time of the detection
    for index, number, time, is_hit in zip(
        segment.tolist(), face.tolist(), time_s.tolist(), is_detection.tolist(), strict=True
    ):
        if index >= 0:
            times = found.setdefault(index, {})
            if times.setdefault(number, None) is None and is_hit:
                times[number] = time
    detections = []
    for index, item in enumerate(labels.segments):
        answered: dict[int | None, float | None] = dict(sorted(found.get(index, {}).items()))
        for number, detected_s in (answered or {item.face: None}).items():
            detections.append(
                SegmentDetection(
                    line=item.line,
                    start_s=item.start_s,
                    end_s=item.end_s,
                    label=item.label,
                    face=number,
                    time_to_detect_s=None if detected_s is None else detected_s - item.start_s,
                )
            )
    return tuple(detections)


def summarize_detections(detections: Sequence[SegmentDetection]) -> DetectionTimes:
    """Summarise the detections of one recording or of several."""
    times = [item.time_to_detect_s for item in detections if item.time_to_detect_s is not None]
    missed = len(detections) - len(times)
    return DetectionTimes(
        segments=len(detections),
        missed=missed,
        missed_rate=missed / len(detections) if detections else None,
        median_s=float(np.median(times)) if times else None,
        p95_s=float(np.percentile(times, 95)) if times else None,
        longest_s=max(times, default=None),
    )
