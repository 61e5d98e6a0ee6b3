# SPDX-License-Identifier: Apache-2.0
"""ROS messages from results and back, whoever makes the message classes.

A factory makes a message of a named type from its fields: `ros_message` with the classes of the
sourced ROS, a bag's typestore without any ROS. So every message is filled in one place only.
"""

import array
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import Any

import cv2
import numpy as np

from fer_perception.faces.face import Face
from fer_perception.records import ExpressionRecord, expression_records, region_of_interest
from fer_perception.results import FrameResult
from fer_perception.uncertainty.estimate import ExpressionState

Factory = Callable[..., Any]  # (type name, **fields) -> message

ARRAY_CODES = {np.dtype(np.float32): 'f', np.dtype(np.uint8): 'B'}


def ros_message(type_name: str, **fields: Any) -> Any:
    """Make a message with the classes of the sourced ROS; numeric arrays are NumPy's."""
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            fields[name] = array.array(ARRAY_CODES[value.dtype])
            fields[name].frombytes(np.ascontiguousarray(value).view(np.uint8))
    return _message_class(type_name)(**fields)


def header_message(make: Factory, *, stamp_ns: int, frame_id: str) -> Any:
    """Make a std_msgs/Header."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = make('builtin_interfaces/msg/Time', sec=seconds, nanosec=nanoseconds)
    return make('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def image_message(make: Factory, image: np.ndarray, header: Any) -> Any:
    """Make a sensor_msgs/Image, bgr8, from (H, W, 3) uint8 BGR."""
    height, width = image.shape[:2]
    return make(
        'sensor_msgs/msg/Image',
        header=header,
        height=height,
        width=width,
        encoding='bgr8',
        is_bigendian=0,
        step=3 * width,
        data=np.ascontiguousarray(image).reshape(-1),  # (H * W * 3,)
    )


def compressed_image_message(make: Factory, image: np.ndarray, header: Any) -> Any:
    """Make a sensor_msgs/CompressedImage, JPEG, from (H, W, 3) uint8 BGR.

    Raises ValueError for an image that JPEG cannot hold: an empty one, or a side above 65,500.
    """
    try:
        is_written, data = cv2.imencode('.jpg', image)
    except cv2.error:
        is_written = False
    if not is_written:
        height, width = image.shape[:2]
        raise ValueError(f'an image of {width}x{height} pixels cannot be written as JPEG')
    return make(
        'sensor_msgs/msg/CompressedImage',
        header=header,
        format='bgr8; jpeg compressed bgr8',  # as compressed_image_transport names it
        data=data.reshape(-1),  # (bytes,)
    )


def result_messages(
    make: Factory, result: FrameResult, header: Any
) -> Iterator[tuple[str, Any]]:
    """Make every message about an image, each with the topic it belongs to.

    Topics: 'expression' for each face with a new estimate, 'expressions' once, also without a
    face, 'landmarks' for each face.
    """
    expressions = {
        record.face_id: expression_message(make, record, header)
        for record in expression_records(result)
    }
    for face in result.faces:
        if face.updated:
            yield 'expression', expressions[face.face.face_id]
    faces = list(expressions.values())
    yield 'expressions', make('fer_msgs/msg/ExpressionArray', header=header, faces=faces)
    for face in result.faces:
        yield 'landmarks', landmarks_message(make, face.face, result.image_size, header)


def expression_message(make: Factory, record: ExpressionRecord, header: Any) -> Any:
    """Make a fer_msgs/Expression."""
    return make(
        'fer_msgs/msg/Expression',
        header=header,
        face_id=record.face_id,
        state=int(record.state),
        expression=record.expression,
        confidence=record.confidence,
        labels=list(record.labels),
        probabilities=np.array(record.probabilities, np.float32),
        standard_deviations=np.array(record.standard_deviations, np.float32),
        predictive_entropy=record.predictive_entropy,
        expected_entropy=record.expected_entropy,
        mutual_information=record.mutual_information,
        mc_samples=record.mc_samples,
        roi=_roi_message(make, record.roi),
        window_s=record.window_s,
        latency_ms=record.latency_ms,
    )


def landmarks_message(
    make: Factory, face: Face, image_size: tuple[int, int], header: Any
) -> Any:
    """Make a fer_msgs/FaceLandmarks; image_size is (width, height) in pixels."""
    return make(
        'fer_msgs/msg/FaceLandmarks',
        header=header,
        face_id=face.face_id,
        roi=_roi_message(make, region_of_interest(face.box, image_size)),
        landmarks=[
            make('geometry_msgs/msg/Point32', x=x, y=y, z=0.0) for x, y in face.landmarks.tolist()
        ],
    )


def record_from_message(message: Any) -> ExpressionRecord:
    """Make the record of a fer_msgs/Expression."""
    roi = message.roi
    return ExpressionRecord(
        stamp_ns=stamp_ns(message.header),
        frame_id=message.header.frame_id,
        face_id=message.face_id,
        state=ExpressionState(message.state),
        expression=message.expression,
        confidence=message.confidence,
        labels=tuple(message.labels),
        probabilities=tuple(float(value) for value in message.probabilities),
        standard_deviations=tuple(float(value) for value in message.standard_deviations),
        predictive_entropy=message.predictive_entropy,
        expected_entropy=message.expected_entropy,
        mutual_information=message.mutual_information,
        mc_samples=message.mc_samples,
        roi=(roi.x_offset, roi.y_offset, roi.width, roi.height),
        window_s=message.window_s,
        latency_ms=message.latency_ms,
    )


def stamp_ns(header: Any) -> int:
    """Return the stamp of a std_msgs/Header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _roi_message(make: Factory, roi: tuple[int, int, int, int]) -> Any:
    x, y, width, height = roi
    return make(
        'sensor_msgs/msg/RegionOfInterest',
        x_offset=x,
        y_offset=y,
        width=width,
        height=height,
        do_rectify=False,
    )


@cache
def _message_class(type_name: str) -> Any:
    package, kind, name = type_name.split('/')
    return getattr(import_module(f'{package}.{kind}'), name)
