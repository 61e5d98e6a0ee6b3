# SPDX-License-Identifier: Apache-2.0
"""A subscription to a camera's newest image, as reliable as the camera allows."""

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

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
        """Subscribe; reliability is 'auto', 'best_effort' or 'reliable'."""
        self._node = node
        self._message_type = message_type
        self._topic = topic
        self._callback = callback
        self._subscription: Any = None
        if reliability == 'reliable':
            self._subscribe(ReliabilityPolicy.RELIABLE)
        else:
            self._subscribe(ReliabilityPolicy.BEST_EFFORT)
        self._timer: Any = None
        if reliability == 'auto':
            self._timer = node.create_timer(
                MATCH_PERIOD_S,
                self._match_publishers,
                clock=Clock(clock_type=ClockType.STEADY_TIME),
            )

    @property
    def topic(self) -> str:
        """The full name of the topic."""
        return self._topic

    def describe_publishers(self) -> str:
        """Say who publishes the topic and with what QoS, and what the subscription asks for."""
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        offers = [
            f'{info.node_namespace.rstrip("/")}/{info.node_name} offers {_quality(info)}'
            + ('' if info.topic_type == _type_name(self._message_type) else f' {info.topic_type}')
            for info in publishers
        ]
        wants = self._reliability.name.lower()
        return f'{"; ".join(offers) or "nobody publishes it"}; this node takes {wants}'

    def close(self) -> None:
        """Unsubscribe."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)

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


def _quality(info: Any) -> str:
    qos = info.qos_profile
    return f'{qos.reliability.name.lower()}, {qos.durability.name.lower()}'


def _type_name(message_type: Any) -> str:
    package, kind, _ = message_type.__module__.split('.', 2)
    return f'{package}/{kind}/{message_type.__name__}'
