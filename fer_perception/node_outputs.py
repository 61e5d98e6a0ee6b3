# SPDX-License-Identifier: Apache-2.0
"""What fer_node publishes of every image."""

from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image

from fer_msgs.msg import Expression, ExpressionArray, FaceLandmarks
from fer_perception.drawing import draw_result
from fer_perception.messages import (
    image_message,
    result_messages,
    ros_message,
)
from fer_perception.results import FrameResult

try:
    from foxglove_msgs.msg import ImageAnnotations
except ImportError:  # a package of its own, which not every robot has
    ImageAnnotations = None

OUTPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)

RESULTS = {'expression': Expression, 'expressions': ExpressionArray, 'landmarks': FaceLandmarks}
PICTURES = {'image_annotated': Image}


class NodeOutputs:
    """Publishes results; pictures only while somebody subscribes to them."""

    def __init__(self, node: LifecycleNode) -> None:
        kinds: dict[str, Any] = {**RESULTS, **PICTURES}
        if ImageAnnotations is not None:
            kinds['image_annotations'] = ImageAnnotations
        self._node = node
        self._publishers = {
            topic: node.create_lifecycle_publisher(
                kind,
                topic,
                OUTPUT_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for topic, kind in kinds.items()
        }

    def publish(self, result: FrameResult, header: Any, image: np.ndarray | None) -> None:
        """Publish all about an image; header: the image's; image: itself, BGR, if there is one."""
        for topic, message in result_messages(ros_message, result, header):
            self._publishers[topic].publish(message)
        wanted = [topic for topic in PICTURES if self._is_wanted(topic)]
        if image is None or not wanted:
            return
        picture = draw_result(image, result)
        for topic in wanted:
            self._publishers[topic].publish(image_message(ros_message, picture, header))

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def _is_wanted(self, topic: str) -> bool:
        publisher = self._publishers.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0
