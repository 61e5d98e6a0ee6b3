# SPDX-License-Identifier: Apache-2.0
"""Follows the faces that another node publishes as ROS4HRI (REP-155) has them."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import SubscriptionEventCallbacks

from fer_perception.hri import (
    HriMessageError,
    is_face_id,
    landmarks_from_message,
    load_hri_messages,
)
from fer_perception.hri_output import FACES, MAX_FACES, TRACKED
from fer_perception.landmark_frames import LandmarkFrame, LandmarkFrames
from fer_perception.messages import stamp_ns

# Best effort works with every publisher; a lost message costs a face one frame.
FACES_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)

MAX_IDS = 256  # of one message that are looked at
WARN_PERIOD_S = 5.0


class HriFaces:
    """Subscribes to the landmarks of every tracked face and hands them over image by image.

    What arrives comes from another process and is believed only as far as it makes sense: ids that
    could not be in a topic, faces beyond the limit and messages that hold no face are left out and
    counted by kind in `counts`.

    To be made and closed in the thread that spins the node, or before it spins.
    """

    def __init__(
        self,
        node: Node,
        *,
        callback: Callable[[LandmarkFrame], None],
        max_faces: int = MAX_FACES,
    ) -> None:
        """Subscribe; callback: gets every image, in the node's thread, without a face too.

        Raises ImportError with one line if hri_msgs is not installed.
        """
        messages = load_hri_messages('attached')
        self._node = node
        self._max_faces = max_faces
        self._landmarks_type = messages.FacialLandmarks
        self._subscriptions: dict[str, Any] = {}  # of landmarks, by face id
        self.counts: Counter[str] = Counter()  # of what was left out, by why
        self._frames = LandmarkFrames(callback, counts=self.counts)
        self._tracked = node.create_subscription(
            messages.IdsList, TRACKED, self._follow, FACES_QOS
        )

    @property
    def topic(self) -> str:
        """The topic that says which faces there are."""
        return TRACKED

    def describe_publishers(self) -> str:
        """Say who publishes faces, how many of them are followed, and what was left out."""
        names = sorted(
            f'{info.node_namespace.rstrip("/")}/{info.node_name}'
            for info in self._node.get_publishers_info_by_topic(TRACKED)
        )
        text = f'{", ".join(names) or "nobody"} publishes it'
        text += f'; faces followed: {len(self._subscriptions)}'
        if self.counts:
            text += '; left out: '
            text += ', '.join(f'{count} for {kind}' for kind, count in self.counts.items())
        return text

    def close(self) -> None:
        """Unsubscribe from everything."""
        self._node.destroy_subscription(self._tracked)
        self._set_followed([])

    def _follow(self, message: Any) -> None:
        """Take the ids of the faces that are tracked now."""
        given = message.ids[:MAX_IDS]
        ids = [face_id for face_id in dict.fromkeys(given) if is_face_id(face_id)]
        bad = sorted({face_id for face_id in given if not is_face_id(face_id)})
        if bad:
            self.counts['face id'] += len(bad)
            self._warn(f'face ids that cannot be in a topic name are left out: {bad[0][:40]!r}')
        # Those that are followed already stay so.
        ids.sort(key=lambda face_id: face_id not in self._subscriptions)
        beyond = len(ids[self._max_faces :]) + len(message.ids) - len(given)
        if beyond > 0:
            self.counts['too many faces'] += beyond
            self._warn(f'{beyond} of {len(message.ids)} faces are left out as too many')
        self._set_followed(ids[: self._max_faces])
        if not message.ids:
            self._frames.add_empty(header=message.header, stamp_ns=self._time_ns(message.header))

    def _set_followed(self, face_ids: list[str]) -> None:
        for face_id in self._subscriptions.keys() - set(face_ids):
            self._node.destroy_subscription(self._subscriptions.pop(face_id))
        for face_id in face_ids:
            if face_id not in self._subscriptions:
                self._subscriptions[face_id] = self._node.create_subscription(
                    self._landmarks_type,
                    f'{FACES}/{face_id}/landmarks',
                    partial(self._take, face_id),
                    FACES_QOS,
                    event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
                )
        self._frames.track(self._subscriptions)

    def _take(self, face_id: str, message: Any) -> None:
        """Take the landmarks of a face."""
        if face_id not in self._subscriptions:
            return  # of a subscription that has just been destroyed
        try:
            landmarks, image_size = landmarks_from_message(message)
        except HriMessageError as error:
            self.counts[error.kind] += 1
            self._warn(f'landmarks of face {face_id} left out: {error}')
            return
        self._frames.add(
            face_id,
            landmarks,
            header=message.header,
            stamp_ns=self._time_ns(message.header),
            image_size=image_size,
        )

    def _time_ns(self, header: Any) -> int:
        """Return a header's stamp, or the clock's time if it has none, in nanoseconds."""
        return stamp_ns(header) or int(self._node.get_clock().now().nanoseconds)

    def _warn(self, text: str) -> None:
        self._node.get_logger().warning(text, throttle_duration_sec=WARN_PERIOD_S)
