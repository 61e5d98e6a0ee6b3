# SPDX-License-Identifier: Apache-2.0
"""What drives a node in a test: images to it, and everything that it publishes."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from fer_msgs.msg import Expression, ExpressionArray, FaceLandmarks
from fer_perception.messages import (
    header_message,
    image_message,
    record_from_message,
    ros_message,
)
from fer_perception.records import ExpressionRecord
from fer_perception.sources import open_source

LIMIT_S = 60.0
NODE = [sys.executable, '-m', 'fer_perception.node']
PUBLISH = [sys.executable, '-m', 'fer_perception.publish']
FIXED = ['-p', 'deterministic_ids:=true', '-p', 'seed:=1', '-p', 'device:=cpu']
# Best effort, with which 'auto' begins, may lose an image on a busy machine.
RELIABLE = ['-p', 'image_reliability:=reliable']


class Listener:
    """Collects what a node in the namespace /fer publishes, and publishes images to it."""

    def __init__(self, *, annotated: bool = False) -> None:
        self.node = rclpy.create_node(f'listener_{time.monotonic_ns()}')
        self.expressions: list[Any] = []
        self.arrays: list[Any] = []
        self.landmarks: list[Any] = []
        self.pictures: list[Any] = []
        self.diagnostics: list[Any] = []
        self._clients: dict[str, Any] = {}  # of the node's services, by name
        qos = QoSProfile(depth=500)
        for kind, topic, kept in (
            (Expression, '/fer/expression', self.expressions),
            (ExpressionArray, '/fer/expressions', self.arrays),
            (FaceLandmarks, '/fer/landmarks', self.landmarks),
            (Image, '/fer/image_annotated', self.pictures),
            (DiagnosticArray, '/diagnostics', self.diagnostics),
        ):
            if kind is not Image or annotated:
                self.node.create_subscription(kind, topic, kept.append, qos)
        self.images = self.node.create_publisher(Image, '/fer/image', 10)
        self.compressed = self.node.create_publisher(
            CompressedImage, '/fer/image/compressed', 10
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    @property
    def records(self) -> list[ExpressionRecord]:
        return [record_from_message(message) for message in self.expressions]

    def wait(self, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        end = time.monotonic() + limit_s
        while not condition() and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)
        return condition()

    def wait_for_node(self, images: Any = None) -> None:
        images = images or self.images
        assert self.wait(
            lambda: images.get_subscription_count() > 0
            and self.node.count_publishers('/fer/expressions') > 0
            and self.node.count_subscribers('/fer/expressions') > 0
        ), 'the node did not come up'
        self.wait(lambda: False, 0.5)  # let the outputs match as well

    def send(self, message: Any, images: Any = None) -> bool:
        """Publish an image until its array arrives; False if it does not."""
        (images or self.images).publish(message)
        stamp = message.header.stamp
        return self.wait(lambda: any(a.header.stamp == stamp for a in self.arrays), 10.0)

    def call(self, service: Any, name: str, **fields: Any) -> Any:
        """Call a service of the node /fer/fer_node; return the response."""
        if name not in self._clients:
            client = self.node.create_client(service, f'/fer/fer_node/{name}')
            self._clients[name] = client
            assert client.wait_for_service(LIMIT_S), f'there is no service {name}'
            # The node may not have met the client yet: its answer would be lost.
            self.wait(lambda: False, 0.3)
        answer = self._clients[name].call_async(service.Request(**fields))
        assert self.wait(answer.done), f'{name} does not answer'
        return answer.result()

    def change_state(self, transition: int) -> bool:
        """Ask for a transition of the node's life cycle; tell whether it succeeded."""
        answer = self.call(ChangeState, 'change_state', transition=Transition(id=transition))
        return bool(answer.success)

    @property
    def state(self) -> str:
        """The label of the node's lifecycle state."""
        return str(self.call(GetState, 'get_state').current_state.label)

    def set_parameter(self, name: str, value: Any) -> Any:
        """Set a parameter of the node as `ros2 param set` does; return the result."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        return self.call(SetParameters, 'set_parameters', parameters=[parameter]).results[0]

    def status(self) -> Any:
        """Return the next status that the node publishes on /diagnostics."""
        del self.diagnostics[:]
        assert self.wait(lambda: bool(self.diagnostics)), 'no diagnostics'
        return self.diagnostics[-1].status[0]

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()


def image(pixels: np.ndarray, number: int) -> Any:
    header = header_message(ros_message, stamp_ns=number * 40_000_000 + 7, frame_id='eye')
    return image_message(ros_message, pixels, header)


def play(listener: Listener, clip: Path) -> None:
    """Publish every frame of a clip with its own stamp, each when the last one was answered."""
    listener.wait_for_node()
    with open_source(str(clip)) as source:
        for frame in source:
            stamp = 1_000_000_000 + frame.stamp_ns
            header = header_message(ros_message, stamp_ns=stamp, frame_id=frame.frame_id)
            assert listener.send(image_message(ros_message, frame.image, header))
