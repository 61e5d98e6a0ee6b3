# SPDX-License-Identifier: Apache-2.0
"""Recordings for tests of evaluation: bags of given images, and made-up answers with labels."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from fer_perception.evaluation.labelled_recording import LabelledRecording
from fer_perception.evaluation.labels import parse_labels
from fer_perception.evaluation.observations import ObservationCollector
from fer_perception.evaluation.played_images import PlayedImages
from fer_perception.messages import header_message, image_message
from fer_perception.records import ExpressionRecord
from fer_perception.sources import SourceFrame
from fer_perception.uncertainty.estimate import ExpressionState

CLASSES = ('neutral', 'happiness', 'sadness')
TYPES = get_typestore(Stores.ROS2_JAZZY)
START_NS = 1_700_000_000_123_456_789


def make(type_name: str, **fields: Any) -> Any:
    return TYPES.types[type_name](**fields)


def write_bag(
    path: Path,
    frames: Sequence[SourceFrame],
    *,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compressed: bool = False,
    topic: str = '/camera',
    start_ns: int = START_NS,
    with_types: bool = True,
) -> None:
    """Write frames to a bag, their stamps moved by `start_ns`; PNG, so nothing is lost."""
    kind = f'sensor_msgs/msg/{"CompressedImage" if compressed else "Image"}'
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connection = writer.add_connection(topic, kind, typestore=TYPES)
        for frame in frames:
            stamp_ns = start_ns + frame.stamp_ns
            header = header_message(make, stamp_ns=stamp_ns, frame_id='eye')
            message = image_message(make, frame.image, header)
            if compressed:
                data = cv2.imencode('.png', frame.image)[1].reshape(-1)
                message = make(kind, header=header, format='png', data=data)
            # Received later than it was taken: labels go by the header.
            writer.write(connection, stamp_ns + 5_000_000, TYPES.serialize_cdr(message, kind))
    if not with_types:  # as distributions before Iron wrote them
        with sqlite3.connect(next(path.glob('*.db3'))) as database:
            database.execute('DELETE FROM message_definitions')


def record(
    *,
    time_s: float,
    probabilities: Sequence[float],
    state: ExpressionState = ExpressionState.CONFIDENT,
    face_id: str = 'a0000',
    left: int = 0,
    classes: tuple[str, ...] = CLASSES,
    spread: float = 0.01,
) -> ExpressionRecord:
    """Make the record of one face in one image."""
    values = np.array(probabilities, float)
    return ExpressionRecord(
        stamp_ns=START_NS + round(time_s * 1e9),
        frame_id='eye',
        face_id=face_id,
        state=state,
        expression=classes[int(values.argmax())] if len(classes) else '',
        confidence=float(values.max(initial=0.0)),
        labels=classes,
        probabilities=tuple(values.tolist()),
        standard_deviations=(spread,) * len(values),
        predictive_entropy=0.3,
        expected_entropy=0.2,
        mutual_information=spread,
        mc_samples=20,
        roi=(left, 0, 100, 100),
        window_s=1.0,
        latency_ms=3.0,
    )


def showing(label: str, confidence: float = 0.9) -> list[float]:
    """Return probabilities with one class on top."""
    rest = (1 - confidence) / (len(CLASSES) - 1)
    return [confidence if name == label else rest for name in CLASSES]


def recording(
    images: Sequence[Sequence[ExpressionRecord] | None],
    labels: str,
    *,
    name: str = 'bag',
    topic: str | None = '/camera',
    period_s: float = 0.1,
    played: PlayedImages | None = None,
) -> LabelledRecording:
    """Make a recording of the records of each image and the text of a label file."""
    collector = ObservationCollector()
    for index, records in enumerate(images):
        collector.add(START_NS + round(index * period_s * 1e9), records)
    return LabelledRecording(
        name=name,
        topic=topic,
        damaged=0,
        observations=collector.finish(),
        labels=parse_labels(labels.encode(), name='labels.csv'),
        played=played,
    )


def answers(
    shown: Sequence[str | None],
    *,
    states: Sequence[ExpressionState] | None = None,
    face_id: str = 'a0000',
    left: int = 0,
    period_s: float = 0.1,
) -> list[list[ExpressionRecord]]:
    """Make the answers to images of one face: what it shows in each, None where it is away."""
    return [
        []
        if label is None
        else [
            record(
                time_s=index * period_s,
                probabilities=showing(label),
                state=ExpressionState.CONFIDENT if states is None else states[index],
                face_id=face_id,
                left=left,
            )
        ]
        for index, label in enumerate(shown)
    ]
