# SPDX-License-Identifier: Apache-2.0
"""What fer_node publishes of every image."""

from collections import Counter
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from fer_msgs.msg import Expression, ExpressionArray, FaceLandmarks
from fer_perception.drawing import draw_result
from fer_perception.foxglove import annotations_message
from fer_perception.hri_output import HriOutput
from fer_perception.messages import (
    compressed_image_message,
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
PICTURES = {'image_annotated': Image, 'image_annotated/compressed': CompressedImage}


class NodeOutputs:
    """Publishes results; pictures only while somebody subscribes to them."""

    def __init__(self, node: LifecycleNode, *, hri_mode: str) -> None:
        """Open the topics; raises ImportError for a hri_mode that needs what is not installed."""
        self._hri = None if hri_mode == 'off' else HriOutput(node, mode=hri_mode)
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

    @property
    def left_out(self) -> Counter[str]:
        """How many faces ROS4HRI could not be told of, by why."""
        return Counter() if self._hri is None else self._hri.counts

    def publish(self, result: FrameResult, header: Any, image: np.ndarray | None) -> None:
        """Publish all about an image; header: the image's; image: itself, BGR, if there is one."""
        for topic, message in result_messages(ros_message, result, header):
            self._publishers[topic].publish(message)
        if self._is_wanted('image_annotations'):
            message = annotations_message(ros_message, result, header)
            self._publishers['image_annotations'].publish(message)
        if self._hri is not None:
            self._hri.publish(result, header, image)
        wanted = [topic for topic in PICTURES if self._is_wanted(topic)]
        if image is None or not wanted:
            return
        picture = draw_result(image, result)
        for topic in wanted:
            make = image_message if PICTURES[topic] is Image else compressed_image_message
            self._publishers[topic].publish(make(ros_message, picture, header))

    def clear(self) -> None:
        """Say that no face is tracked any more, where that has to be said."""
        if self._hri is not None:
            self._hri.clear()

    def close(self) -> None:
        """Destroy the publishers."""
        if self._hri is not None:
            self._hri.close()
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def _is_wanted(self, topic: str) -> bool:
        publisher = self._publishers.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0
