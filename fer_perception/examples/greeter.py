# SPDX-License-Identifier: Apache-2.0
"""fer_example_greeter: a robot that answers a smile, each person's once in a while.

Publishes what it would say as std_msgs/String on `say`. It acts on an expression only while that
is CONFIDENT and has held for `hold_s` seconds, and on nothing while the face is UNCERTAIN.
"""

import sys

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from std_msgs.msg import String

from fer_perception.client import ExpressionClient

ANSWERS = {'happiness': 'How nice to see you smile!', 'surprise': 'Did I startle you?'}
REST_S = 10.0  # between two answers to one person


class Greeter(Node):
    """Says one sentence when a face begins to show an expression that it has an answer to."""

    def __init__(self) -> None:
        super().__init__('fer_example_greeter')
        self._say = self.create_publisher(String, 'say', 10)
        self._answered: dict[str, float] = {}  # face id: when it was answered last, seconds
        self._client = ExpressionClient(
            self,
            hold_s=self.declare_parameter('hold_s', 0.5).value,
            on_change=self._on_change,
            on_leave=self._on_leave,
        )

    def _on_change(self, face_id: str, before: str | None, after: str | None) -> None:
        self.get_logger().info(f'{face_id}: {before} -> {after}')
        now_s = self.get_clock().now().nanoseconds * 1e-9
        is_rested = now_s - self._answered.get(face_id, -REST_S) >= REST_S
        if after in ANSWERS and is_rested:
            self._answered[face_id] = now_s
            self._say.publish(String(data=f'{face_id}: {ANSWERS[after]}'))

    def _on_leave(self, face_id: str) -> None:
        self._answered.pop(face_id, None)


def main() -> int:
    """Run until Ctrl-C; return the exit code."""
    rclpy.init()
    try:
        rclpy.spin(Greeter())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ParameterException, ValueError) as error:
        print(f'fer_example_greeter: {error}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
