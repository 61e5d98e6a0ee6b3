# SPDX-License-Identifier: Apache-2.0
"""ExpressionClient: calls a robot's code when a face appears, changes or leaves.

docs/behaviour.md says how to use it.
"""

import traceback
from collections.abc import Callable, Iterable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from fer_msgs.msg import ExpressionArray
from fer_perception.held_expressions import (
    Appeared,
    Changed,
    FaceEvent,
    HeldExpressions,
    HeldFace,
    HoldRule,
    Left,
)
from fer_perception.messages import record_from_message, stamp_ns

TOPIC = 'fer/expressions'  # of fer.launch.py, for a node in the same namespace
QUEUE = 10  # images that wait while a callback runs
MAX_FACES = 256  # of one image that are looked at
MAX_SHOWN = 80  # characters of a name in the log
LOG_PERIOD_S = 5.0  # between two complaints about messages


class ExpressionClient:
    """Watches the faces that fer_node publishes and calls back for each of them.

    on_appear(face_id), on_change(face_id, before, after) and on_leave(face_id) are called one at
    a time, by the executor that spins the node. `before` and `after` are what may be acted on: an
    expression that has been CONFIDENT for `hold_s`, or None. HeldExpressions has the rules. Times
    are those of the images, or of the node's clock for a camera that stamps nothing; only when no
    image at all comes for `leave_s` seconds of real time, all faces leave.

    A callback that raises is logged with its traceback and ends nothing. Callbacks should return
    at once: while one runs, images wait, and the oldest are lost.
    """

    def __init__(
        self,
        node: Node,
        *,
        topic: str = TOPIC,
        hold_s: float = HoldRule.hold_s,
        leave_s: float = HoldRule.leave_s,
        on_appear: Callable[[str], object] | None = None,
        on_change: Callable[[str, str | None, str | None], object] | None = None,
        on_leave: Callable[[str], object] | None = None,
    ) -> None:
        """Subscribe to a topic of fer_msgs/ExpressionArray.

        Raises ValueError for seconds out of range.
        """
        self._held = HeldExpressions(HoldRule(hold_s=hold_s, leave_s=leave_s))
        self._node = node
        self._on_appear, self._on_change, self._on_leave = on_appear, on_change, on_leave
        self._leave_s = leave_s
        self._is_open = True
        group = MutuallyExclusiveCallbackGroup()
        self._subscription = node.create_subscription(
            ExpressionArray, topic, self._take, QoSProfile(depth=QUEUE), callback_group=group
        )
        # Every image winds it up anew. Silence is real time, also in a simulation.
        self._silence = node.create_timer(
            leave_s,
            self._end_all,
            callback_group=group,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    @property
    def faces(self) -> dict[str, HeldFace]:
        """The faces that are there, by their ids, each with its latest record."""
        return self._held.faces

    def close(self) -> None:
        """Call back no more. May be called from a callback, and twice."""
        if self._is_open:
            self._is_open = False
            self._node.destroy_timer(self._silence)
            self._node.destroy_subscription(self._subscription)

    def _take(self, message: Any) -> None:
        records = []
        for face in message.faces[:MAX_FACES]:
            try:
                records.append(record_from_message(face))
            except ValueError as error:
                self._node.get_logger().error(
                    f'face {face.face_id[:MAX_SHOWN]!r} cannot be read: {error}',
                    throttle_duration_sec=LOG_PERIOD_S,
                )
        time_ns = stamp_ns(message.header) or self._node.get_clock().now().nanoseconds
        self._tell(self._held.update(time_ns, records))
        if self._is_open:
            self._silence.reset()

    def _end_all(self) -> None:
        topic = self._subscription.topic_name
        self._silence.cancel()  # until the next image
        self._node.get_logger().warning(
            f'no expressions on {topic} for {self._leave_s} s, which has '
            f'{self._node.count_publishers(topic)} publishers: is fer_node active, and its '
            'camera?'
        )
        self._tell(self._held.clear())

    def _tell(self, events: Iterable[FaceEvent]) -> None:
        for event in events:
            match event:
                case Appeared(face_id):
                    self._call(self._on_appear, face_id)
                case Changed(face_id, before, after):
                    self._call(self._on_change, face_id, before, after)
                case Left(face_id):
                    self._call(self._on_leave, face_id)

    def _call(self, callback: Callable[..., object] | None, *arguments: str | None) -> None:
        if callback is None or not self._is_open:
            return
        try:
            callback(*arguments)
        except Exception:  # the robot's code: its faults must not end the executor
            if self._node.context.ok():
                self._node.get_logger().error(
                    f'callback for {arguments} failed:\n{traceback.format_exc()}'
                )
