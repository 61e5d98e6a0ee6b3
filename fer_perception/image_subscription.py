# SPDX-License-Identifier: Apache-2.0
"""A subscription to a camera's newest image, as reliable as the camera allows."""

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

RELIABILITIES = ('auto', 'best_effort', 'reliable')
MATCH_PERIOD_S = 0.5  # between two looks at what the cameras offer


class ImageSubscription:
    """Subscribes to a topic; with reliability 'auto' it follows what the publishers offer.

    Best effort works with every camera, but DDS loses most of the large images that it sends
    over UDP in many fragments; reliable images are sent again. So 'auto' begins with best effort
    and subscribes anew, reliably, once every publisher of the topic offers that.
    """

    def __init__(
        self,
        node: Node,
        *,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        reliability: str,
    ) -> None:
        """Subscribe; raises ValueError for a reliability that is none of RELIABILITIES."""
        if reliability not in RELIABILITIES:
            raise ValueError(
                f'image_reliability must be {", ".join(RELIABILITIES)}, not {reliability!r}'
            )
        self._node = node
        self._message_type = message_type
        self._topic = topic
        self._callback = callback
        self._subscription: Any = None
        if reliability == 'reliable':
            self._subscribe(ReliabilityPolicy.RELIABLE)
        else:
            self._subscribe(ReliabilityPolicy.BEST_EFFORT)
        if reliability == 'auto':
            node.create_timer(MATCH_PERIOD_S, self._match_publishers)

    def _match_publishers(self) -> None:
        offers = {
            info.qos_profile.reliability
            for info in self._node.get_publishers_info_by_topic(self._topic)
        }
        if not offers:
            return
        wanted = ReliabilityPolicy.BEST_EFFORT
        if offers == {ReliabilityPolicy.RELIABLE}:
            wanted = ReliabilityPolicy.RELIABLE
        if wanted != self._reliability:
            self._subscribe(wanted)

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._reliability = reliability
        self._subscription = self._node.create_subscription(
            self._message_type,
            self._topic,
            self._callback,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=1,
                reliability=reliability,
                durability=DurabilityPolicy.VOLATILE,
            ),
            qos_overriding_options=QoSOverridingOptions(
                [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]
            ),
        )
