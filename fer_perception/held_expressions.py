# SPDX-License-Identifier: Apache-2.0
"""What a robot may act on: for each face the expression that has been CONFIDENT for a while.

Free of ROS: it is driven by records and their stamps. docs/behaviour.md says how to use it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from fer_perception.records import ExpressionRecord
from fer_perception.uncertainty.estimate import ExpressionState


@dataclass(frozen=True, kw_only=True)
class HoldRule:
    """Say how long an expression must hold, and how long a face may be away."""

    hold_s: float = 0.5  # seconds for which an expression must be CONFIDENT before it counts
    leave_s: float = 2.0  # seconds of silence after which a face has left

    def __post_init__(self) -> None:
        """Refuse times that are none."""
        if not 0.0 <= self.hold_s < math.inf:
            raise ValueError(f'hold_s must be 0 or more seconds, not {self.hold_s}')
        if not 0.0 < self.leave_s < math.inf:
            raise ValueError(f'leave_s must be more than 0 seconds, not {self.leave_s}')


@dataclass(frozen=True)
class Appeared:
    """A face is there that was not."""

    face_id: str


@dataclass(frozen=True)
class Changed:
    """What may be acted on has changed; None: nothing may be."""

    face_id: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Left:
    """A face has been silent for too long, or time has gone backwards."""

    face_id: str


FaceEvent: TypeAlias = Appeared | Changed | Left


@dataclass(frozen=True, kw_only=True)
class HeldFace:
    """Hold what is known of a face that is there."""

    record: ExpressionRecord  # the latest
    seen_ns: int  # time of the latest
    expression: str | None  # what may be acted on
    candidate: str | None  # what every image since has shown, CONFIDENT
    candidate_since_ns: int


class HeldExpressions:
    """Follows the expressions of all faces and says what changes.

    An expression begins to count once every image of `hold_s` seconds has shown the face with it,
    CONFIDENT. It counts until an image shows the face otherwise: UNCERTAIN, WARMING_UP, UNKNOWN
    or with another expression, CONFIDENT or not; the other one has to hold in its turn. An image
    without the face ends no expression, only what has not held yet. A face that no image has
    shown for `leave_s` seconds leaves, and when the time goes backwards all do; what counts ends
    first.
    """

    def __init__(self, rule: HoldRule) -> None:
        self._hold_ns = round(rule.hold_s * 1e9)
        self._leave_ns = round(rule.leave_s * 1e9)
        self._last_ns: int | None = None
        self._faces: dict[str, HeldFace] = {}

    @property
    def faces(self) -> dict[str, HeldFace]:
        """The faces that are there, by their ids."""
        return dict(self._faces)

    def update(self, time_ns: int, records: Iterable[ExpressionRecord]) -> list[FaceEvent]:
        """Take the records of all faces of an image and return what changes, in order.

        time_ns: of the image, in nanoseconds from any start. No records: an image without a face.
        """
        events: list[FaceEvent] = []
        if self._last_ns is not None and time_ns < self._last_ns:
            events += self.clear()
        self._last_ns = time_ns
        seen = {record.face_id: record for record in records}
        for face_id, face in self.faces.items():
            if time_ns - face.seen_ns >= self._leave_ns:
                events += self._leave(face_id)
            elif face_id not in seen:
                self._faces[face_id] = replace(face, candidate=None)
        for face_id, record in seen.items():
            before = self._faces.get(face_id)
            face = self._judge(before, record, time_ns)
            if before is None:
                events.append(Appeared(face_id))
            events += _change(face_id, before.expression if before else None, face.expression)
            self._faces[face_id] = face
        return events

    def clear(self) -> list[FaceEvent]:
        """Let all faces leave, as when no image has come for long; return what changes."""
        self._last_ns = None
        return [event for face_id in self.faces for event in self._leave(face_id)]

    def _judge(self, before: HeldFace | None, record: ExpressionRecord, time_ns: int) -> HeldFace:
        """Return a face as it is after the next image that shows it."""
        is_confident = record.state == ExpressionState.CONFIDENT
        shown = (record.expression or None) if is_confident else None
        goes_on = before is not None and before.candidate == shown
        since_ns = before.candidate_since_ns if before is not None and goes_on else time_ns
        counts = (before is not None and before.expression == shown) or (
            time_ns - since_ns >= self._hold_ns
        )
        return HeldFace(
            record=record,
            seen_ns=time_ns,
            expression=shown if counts else None,
            candidate=shown,
            candidate_since_ns=since_ns,
        )

    def _leave(self, face_id: str) -> list[FaceEvent]:
        face = self._faces.pop(face_id)
        return [*_change(face_id, face.expression, None), Left(face_id)]


def _change(face_id: str, before: str | None, after: str | None) -> list[FaceEvent]:
    return [] if before == after else [Changed(face_id, before, after)]
