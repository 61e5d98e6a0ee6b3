# SPDX-License-Identifier: Apache-2.0
"""Records of made faces, and the messages that hold them, for tests of who acts on them."""

from typing import Any

from fer_perception.messages import expression_message, header_message, ros_message
from fer_perception.records import ExpressionRecord
from fer_perception.uncertainty.estimate import ExpressionState

LABELS = ('neutral', 'happiness', 'sadness')


def made_record(
    face_id: str,
    *,
    expression: str = 'happiness',
    state: ExpressionState = ExpressionState.CONFIDENT,
    stamp_ns: int = 0,
) -> ExpressionRecord:
    """Make the record of a face that shows an expression."""
    return ExpressionRecord(
        stamp_ns=stamp_ns,
        frame_id='camera',
        face_id=face_id,
        state=state,
        expression=expression,
        confidence=0.75,
        labels=LABELS,
        probabilities=tuple(0.75 if label == expression else 0.125 for label in LABELS),
        standard_deviations=(0.05,) * len(LABELS),
        predictive_entropy=0.7,
        expected_entropy=0.6,
        mutual_information=0.1,
        mc_samples=100,
        roi=(10, 20, 100, 120),
        window_s=1.3,
        latency_ms=10.0,
    )


def made_array(stamp_ns: int, *records: ExpressionRecord) -> Any:
    """Make the fer_msgs/ExpressionArray of an image."""
    header = header_message(ros_message, stamp_ns=stamp_ns, frame_id='camera')
    faces = [expression_message(ros_message, record, header) for record in records]
    return ros_message('fer_msgs/msg/ExpressionArray', header=header, faces=faces)
