# SPDX-License-Identifier: Apache-2.0
"""A segment is detected by its first CONFIDENT right answer, for each of its faces."""

import numpy as np
import pytest

from fer_perception.evaluation.labels import parse_labels
from fer_perception.evaluation.time_to_detect import (
    SegmentDetection,
    detect_segments,
    summarize_detections,
)

LABELS = parse_labels(
    b'start_s,end_s,label,face\n1,2,fear,\n3,4,joy,1\n5,6,joy,\n', name='x.csv'
)


def found(rows: list[tuple[int, int, float, bool]]) -> list[tuple[int, int | None, float | None]]:
    """Give segment, face, time and hit of answers; return line, face and time of detections."""
    columns = list(zip(*rows, strict=True)) or [()] * 4
    detections = detect_segments(
        LABELS,
        segment=np.array(columns[0], int),
        face=np.array(columns[1], int),
        time_s=np.array(columns[2], float),
        is_detection=np.array(columns[3], bool),
    )
    return [(item.line, item.face, item.time_to_detect_s) for item in detections]


def test_the_first_hit_counts_from_the_start_of_the_segment() -> None:
    rows = [(0, 0, 1.1, False), (0, 0, 1.25, True), (0, 0, 1.5, True), (2, 0, 5.0, True)]
    assert found(rows) == [(2, 0, 0.25), (3, 1, None), (4, 0, 0.0)]


def test_every_face_of_a_segment_counts_for_itself() -> None:
    rows = [(0, 2, 1.5, True), (0, 0, 1.5, False), (-1, 1, 2.5, True), (0, 0, 1.75, True)]
    assert found(rows)[:2] == [(2, 0, 0.75), (2, 2, 0.5)]


def test_without_any_answer_a_segment_is_missed_once() -> None:
    assert found([]) == [(2, None, None), (3, 1, None), (4, None, None)]


def test_times_are_of_what_was_detected_and_misses_are_counted() -> None:
    def item(time_s: float | None) -> SegmentDetection:
        return SegmentDetection(
            line=2, start_s=0, end_s=1, label='fear', face=0, time_to_detect_s=time_s
        )

    times = summarize_detections([item(0.1), item(None), item(0.3), item(0.2)])
    assert (times.segments, times.missed, times.missed_rate) == (4, 1, 0.25)
    assert times.median_s == pytest.approx(0.2)
    assert times.p95_s == pytest.approx(0.29)
    assert times.longest_s == 0.3
    nothing = summarize_detections([item(None)])
    assert nothing.missed_rate == 1.0 and nothing.median_s is None and nothing.longest_s is None
    assert summarize_detections([]).missed_rate is None
