# SPDX-License-Identifier: Apache-2.0
"""Publishes faces and expressions as ROS4HRI (REP-155) has them, below /humans/faces."""

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher, PublisherEventCallbacks
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from fer_perception.hri import (
    cropped_face,
    facial_landmarks_message,
    hri_expression_message,
    load_hri_messages,
    roi_message,
    tracked_message,
)
from fer_perception.messages import image_message, ros_message
from fer_perception.results import FaceResult, FrameResult

FACES = '/humans/faces'  # REP-155: the same for the whole robot, in no node's namespace
TRACKED = f'{FACES}/tracked'

HRI_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)

MAX_FACES = 32  # at once; each has up to four topics
# A face that is out of sight keeps its topics for so long: it often returns, and whoever
# subscribed to them would else have to find new ones.
KEEP_NS = 2_000_000_000
LAST_WORDS_S = 0.5  # for the empty `tracked` at the end to arrive
WARN_PERIOD_S = 30.0


@dataclass
class _FaceTopics:
    """The publishers of one face by topic, and when it was last seen."""

    publishers: dict[str, Publisher]
    seen_ns: int


class HriOutput:
    """Owns the topics of every face: made when it appears, destroyed once it is gone.

    'standalone' publishes what our own tracker found: tracked, and of every face roi, cropped,
    landmarks and expression. 'attached' publishes nothing but the expressions of faces that
    another node tracks. Messages of a face are made only while somebody subscribes to them.

    `publish` may be called from another thread than the one that spins the node; `clear` and
    `close` from any.
    """

    def __init__(self, node: Node, *, mode: str, max_faces: int = MAX_FACES) -> None:
        """Open the topics of the whole.

        Raises ValueError for another mode, ImportError with one line if hri_msgs is not installed.
        """
        if mode not in ('standalone', 'attached'):
            raise ValueError(f'hri_mode must be off, standalone or attached, not {mode!r}')
        messages = load_hri_messages(mode)
        self._node = node
        self._max_faces = max_faces
        self._kinds: dict[str, Any] = {'expression': messages.Expression}
        self._tracked: Publisher | None = None
        if mode == 'standalone':
            self._kinds |= {
                'roi': messages.NormalizedRegionOfInterest2D,
                'cropped': Image,
                'landmarks': messages.FacialLandmarks,
            }
            self._tracked = _create_publisher(node, messages.IdsList, TRACKED)
        self._lock = threading.Lock()
        self._faces: dict[str, _FaceTopics] = {}
        self._last_header: Any = None  # of the last image, if its `tracked` was not empty
        self._is_closed = False
        self.counts: Counter[str] = Counter()  # of faces in images left out, by why

    def publish(self, result: FrameResult, header: Any, image: np.ndarray | None) -> None:
        """Publish all about an image; header: the image's; image: itself, BGR, if there is one."""
        with self._lock:
            if self._is_closed:
                return
            shown = [face for face in result.faces if self._has_topics(face, result.stamp_ns)]
            for face in shown:
                self._publish_face(face, result, header, image)
            if self._tracked is not None:
                self._publish_tracked([face.face.face_id for face in shown], header)
            self._forget_unseen(result.stamp_ns)

    def clear(self) -> None:
        """Say that no face is tracked any more, as after a reset or when the camera is silent."""
        with self._lock:
            self._clear()

    def close(self) -> None:
        """Say that no face is tracked any more and destroy all topics; nothing follows."""
        with self._lock:
            self._is_closed = True
            self._clear()
            if self._tracked is not None:
                if self._node.context.ok():
                    self._tracked.wait_for_all_acked(Duration(seconds=LAST_WORDS_S))
                self._node.destroy_publisher(self._tracked)
                self._tracked = None

    def _has_topics(self, face: FaceResult, stamp_ns: int) -> bool:
        """Make the topics of a face if it has none; False if there are too many already."""
        face_id = face.face.face_id
        topics = self._faces.get(face_id)
        if topics is None:
            if len(self._faces) >= self._max_faces and not self._make_room(stamp_ns):
                self.counts['too many faces'] += 1
                return False
            topics = self._faces[face_id] = _FaceTopics(
                {
                    topic: _create_publisher(self._node, kind, f'{FACES}/{face_id}/{topic}')
                    for topic, kind in self._kinds.items()
                },
                stamp_ns,
            )
        topics.seen_ns = stamp_ns
        return True

    def _make_room(self, stamp_ns: int) -> bool:
        """Destroy the topics of the face unseen for longest; False if all are of this image."""
        unseen = {
            face_id: abs(stamp_ns - topics.seen_ns)
            for face_id, topics in self._faces.items()
            if topics.seen_ns != stamp_ns
        }
        if not unseen:
            return False
        self._destroy_topics(max(unseen, key=lambda face_id: unseen[face_id]))
        return True

    def _publish_face(
        self, face: FaceResult, result: FrameResult, header: Any, image: np.ndarray | None
    ) -> None:
        for topic, publisher in self._faces[face.face.face_id].publishers.items():
            if publisher.get_subscription_count() == 0:
                continue
            message = None
            if topic == 'roi':
                message = roi_message(ros_message, face.face, result.image_size, header)
            elif topic == 'landmarks':
                message = facial_landmarks_message(
                    ros_message, face.face, result.image_size, header
                )
            elif topic == 'cropped' and image is not None:
                crop = cropped_face(image, face.face.box)
                message = image_message(ros_message, crop, header)
            elif topic == 'expression' and face.updated and face.estimate is not None:
                message = hri_expression_message(ros_message, face.estimate, header)
            if message is not None:
                publisher.publish(message)

    def _publish_tracked(self, face_ids: list[str], header: Any) -> None:
        assert self._tracked is not None
        self._tracked.publish(tracked_message(ros_message, face_ids, header))
        self._last_header = header if face_ids else None
        if self._node.count_publishers(TRACKED) > 1:
            self._node.get_logger().warning(
                f'another node publishes {TRACKED} as well, and each contradicts the other: let '
                'one detect faces, and give the others hri_mode:=attached',
                throttle_duration_sec=WARN_PERIOD_S,
            )

    def _forget_unseen(self, stamp_ns: int) -> None:
        # Time may also have gone back.
        for face_id, topics in list(self._faces.items()):
            if abs(stamp_ns - topics.seen_ns) > KEEP_NS:
                self._destroy_topics(face_id)

    def _clear(self) -> None:
        for face_id in list(self._faces):
            self._destroy_topics(face_id)
        if self._tracked is not None and self._last_header is not None:
            if self._node.context.ok():
                self._publish_tracked([], self._last_header)
            self._last_header = None

    def _destroy_topics(self, face_id: str) -> None:
        for publisher in self._faces.pop(face_id).publishers.values():
            self._node.destroy_publisher(publisher)


def _create_publisher(node: Node, kind: Any, topic: str) -> Publisher:
    """Create a publisher without events.

    Then there is nothing that the executor would wait for, and so nothing that must not be
    destroyed while it does.
    """
    events = PublisherEventCallbacks(use_default_callbacks=False)
    return node.create_publisher(kind, topic, HRI_QOS, event_callbacks=events)
