# SPDX-License-Identifier: Apache-2.0
"""fer_publish: publishes a video, image folder, rosbag or camera as a camera would."""

import argparse
import signal
import sys
import time

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image

from fer_perception.fast_dds import use_prompt_resends
from fer_perception.messages import (
    compressed_image_message,
    header_message,
    image_message,
    ros_message,
)
from fer_perception.pacing import paced
from fer_perception.sources import FALLBACK_FRAME_RATE, Source, SourceError, open_source

CAMERA_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE
)
SETTLE_S = 0.5  # between the first match and the first image, for others to match as well


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='fer_publish', description='Publish images from a file or camera as a camera does.'
    )
    parser.add_argument('source', help='video, image folder, rosbag2, or camera number')
    parser.add_argument('--topic', default='image_raw', help='topic to publish on (%(default)s)')
    parser.add_argument('--bag-topic', help='image topic of a bag that has several')
    parser.add_argument('--rate', type=float, default=1.0, help='speed factor (%(default)s)')
    parser.add_argument('--loop', action='store_true', help='start again at the end')
    parser.add_argument('--compressed', action='store_true', help='JPEG on TOPIC/compressed')
    parser.add_argument('--frame-id', help="frame_id of the header (the source's own)")
    parser.add_argument(
        '--wait', type=float, default=0.0, metavar='SECONDS', help='wait for a subscriber first'
    )
    options = parser.parse_args(arguments)
    if not options.rate > 0:
        parser.error(f'--rate must be above 0, not {options.rate}')
    return options


class CameraPublisher(Node):
    """Publishes images as a camera does, raw or as JPEG on TOPIC/compressed."""

    def __init__(
        self,
        *,
        topic: str,
        compressed: bool = False,
        name: str = 'fer_publish',
        context: Context | None = None,
    ) -> None:
        """Advertise the topic; name: of the node."""
        super().__init__(name, context=context)
        self._message = compressed_image_message if compressed else image_message
        self._images: Publisher = self.create_publisher(
            CompressedImage if compressed else Image,
            f'{topic}/compressed' if compressed else topic,
            CAMERA_QOS,
        )
        self.published = 0

    @property
    def topic(self) -> str:
        """The full name of the topic."""
        return str(self._images.topic_name)

    def wait_for_subscriber(self, limit_s: float) -> bool:
        """Wait until somebody subscribes, or until the time is over; tell which it was."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end and self.context.ok():
            if self._images.get_subscription_count():
                time.sleep(SETTLE_S)
                return True
            time.sleep(0.02)
        return False

    def publish_image(self, image: np.ndarray, *, stamp_ns: int, frame_id: str) -> int:
        """Publish an image (H, W, 3) uint8 BGR; return time.monotonic_ns() of handing it over.

        Raises ValueError for an image that JPEG cannot hold.
        """
        header = header_message(ros_message, stamp_ns=stamp_ns, frame_id=frame_id)
        message = self._message(ros_message, image, header)
        now_ns = time.monotonic_ns()
        self._images.publish(message)
        self.published += 1
        return now_ns


def publish_source(camera: CameraPublisher, source: Source, options: argparse.Namespace) -> None:
    """Publish every frame when it is due; the stamps are the clock's at that time."""
    while camera.context.ok():
        for frame in paced(source, rate=options.rate):
            if not camera.context.ok():
                return
            camera.publish_image(
                frame.image,
                stamp_ns=camera.get_clock().now().nanoseconds,
                frame_id=options.frame_id or frame.frame_id,
            )
        # The last frame stands for its own period: whoever ends at once may take it along.
        time.sleep(1.0 / ((source.frame_rate or FALLBACK_FRAME_RATE) * options.rate))
        if not options.loop:
            return


def run(options: argparse.Namespace) -> int:
    """Publish the source that the options name; return the exit code."""
    rclpy.init()
    try:
        with open_source(options.source, topic=options.bag_topic) as source:
            camera = CameraPublisher(topic=options.topic, compressed=options.compressed)
            try:
                camera.wait_for_subscriber(options.wait)
                publish_source(camera, source, options)
            finally:  # a loop is always ended by a signal
                print(f'fer_publish: published {camera.published} images of {source.name}')
    except (SourceError, ValueError) as error:
        print(f'fer_publish: {error}', file=sys.stderr)
        return 1
    except ExternalShutdownException:
        pass
    except Exception:  # publishing into a context that a signal has just shut down
        if rclpy.ok():
            raise
    return 0


def main() -> int:
    """Publish until the source or the user ends it; return the exit code."""
    options = parse_arguments(remove_ros_args(sys.argv)[1:])
    use_prompt_resends()
    try:
        return run(options)
    except KeyboardInterrupt:  # at any moment, also while an error is handled
        return 0
    finally:
        # Under ros2 launch Ctrl-C arrives twice: the second must not break off what follows.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        rclpy.try_shutdown()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # again: ROS has put back the former one


if __name__ == '__main__':
    sys.exit(main())
