# SPDX-License-Identifier: Apache-2.0
"""The record of one face's expression, as it is published and written to JSON lines."""

import json
from dataclasses import asdict, dataclass, fields

from fer_perception.faces.face import Box
from fer_perception.results import FaceResult, FrameResult
from fer_perception.uncertainty.estimate import ExpressionState


@dataclass(frozen=True, kw_only=True)
class ExpressionRecord:
    """Hold what fer_msgs/Expression holds, free of ROS."""

    stamp_ns: int  # of the image
    frame_id: str  # of the image
    face_id: str
    state: ExpressionState
    expression: str  # label of the highest mean probability
    confidence: float  # that probability
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    standard_deviations: tuple[float, ...]
    predictive_entropy: float  # nats
    expected_entropy: float  # nats
    mutual_information: float  # nats
    mc_samples: int
    roi: tuple[int, int, int, int]  # x, y, width, height in pixels, within the image
    window_s: float  # seconds of evidence
    latency_ms: float  # processing time of the image up to this record

    def to_json(self) -> str:
        """Write the record as one line of JSON, the state by its name."""
        values = asdict(self)
        values['state'] = self.state.name
        return json.dumps(values)

    @classmethod
    def from_json(cls, line: str) -> 'ExpressionRecord':
        """Read a line that `to_json` wrote.

        Raises ValueError if it is no JSON object with exactly the fields of a record.
        """
        values = json.loads(line)
        names = {item.name for item in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise ValueError(f'no record of an expression: {line[:80]!r}')
        if values['state'] not in ExpressionState.__members__:
            raise ValueError(f'unknown state {values["state"]!r}')
        values['state'] = ExpressionState[values['state']]
        for name in ('labels', 'probabilities', 'standard_deviations', 'roi'):
            values[name] = tuple(values[name])
        return cls(**values)


def expression_records(
    result: FrameResult, *, frame_id: str = '', updated_only: bool = False
) -> list[ExpressionRecord]:
    """Make the records of all faces of an image that have an estimate.

    With `updated_only`, faces whose estimate is of an earlier image are left out.
    """
    return [
        _record(result, face, frame_id)
        for face in result.faces
        if face.updated or not updated_only
        if face.estimate is not None
    ]


def region_of_interest(box: Box, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return x, y, width and height in whole pixels of the part of a box within the image."""
    clipped = box.clipped(*image_size)
    left, top = int(clipped.left), int(clipped.top)
    return left, top, max(0, round(clipped.right) - left), max(0, round(clipped.bottom) - top)


def _record(result: FrameResult, face: FaceResult, frame_id: str) -> ExpressionRecord:
    estimate = face.estimate
    assert estimate is not None
    return ExpressionRecord(
        stamp_ns=result.stamp_ns,
        frame_id=frame_id,
        face_id=face.face.face_id,
        state=estimate.state,
        expression=estimate.expression,
        confidence=estimate.confidence,
        labels=estimate.labels,
        probabilities=tuple(estimate.probabilities.tolist()),
        standard_deviations=tuple(estimate.standard_deviations.tolist()),
        predictive_entropy=estimate.predictive_entropy,
        expected_entropy=estimate.expected_entropy,
        mutual_information=estimate.mutual_information,
        mc_samples=estimate.mc_samples,
        roi=region_of_interest(face.face.box, result.image_size),
        window_s=estimate.window_s,
        latency_ms=result.processing_ms,
    )
