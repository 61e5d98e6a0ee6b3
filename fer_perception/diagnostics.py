# SPDX-License-Identifier: Apache-2.0
"""A node's health on /diagnostics, once a second whatever its clock says."""

from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from fer_perception.health import Health

try:
    import diagnostic_updater
except ImportError:  # it is in the distributions, not among the PyPI wheels
    diagnostic_updater = None

PERIOD_S = 1.0
HARDWARE_ID = 'camera'  # what the node's state depends on


class NodeDiagnostics:
    """
    Publishes what a function says of a node.

    By diagnostic_updater where it is installed, with its parameters; else by a timer.
    """

    def __init__(self, node: Node, assess: Callable[[], Health]) -> None:
        self._node = node
        self._assess = assess
        # diagnostic_updater puts the node's name before it, which is that of any camera's node.
        self._task = f'expressions of {node.get_fully_qualified_name()}'
        if diagnostic_updater is not None:
            self._updater = diagnostic_updater.Updater(node, PERIOD_S)
            self._updater.setHardwareID(HARDWARE_ID)
            self._updater.add(self._task, self._fill)
            return
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 1)
        # Not of the node's clock, which stands still while a simulation pauses.
        node.create_timer(PERIOD_S, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _publish(self) -> None:
        name = f'{self._node.get_name()}: {self._task}'
        status = self._fill(DiagnosticStatus(name=name))
        status.hardware_id = HARDWARE_ID
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _fill(self, status: Any) -> Any:
        health = self._assess()
        status.level = bytes([health.level])
        status.message = health.summary
        status.values = [KeyValue(key=key, value=text) for key, text in health.values.items()]
        return status
