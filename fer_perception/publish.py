# SPDX-License-Identifier: Apache-2.0
"""fer_publish: publishes a video, image folder, rosbag or camera as a camera would."""

import argparse
import signal
import sys
import time

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image

from fer_perception.fast_dds import use_prompt_resends
from fer_perception.messages import header_message, image_message, ros_message
from fer_perception.sources import Source, SourceError, open_source

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
    """Publishes the frames of a source at the pace of their stamps."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__('fer_publish')
        self._options = options
        kind, topic = Image, options.topic
        if options.compressed:
            kind, topic = CompressedImage, f'{topic}/compressed'
        self._images: Publisher = self.create_publisher(kind, topic, CAMERA_QOS)
        self.published = 0

    def wait_for_subscriber(self, limit_s: float) -> None:
        """Wait until somebody subscribes, or until the time is over."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end and rclpy.ok():
            if self._images.get_subscription_count():
                time.sleep(SETTLE_S)
                return
            time.sleep(0.02)

    def publish_source(self, source: Source) -> None:
        """Publish every frame when it is due; the stamps are the clock's at that time."""
        while rclpy.ok():
            start, first_ns = time.monotonic(), None
            for frame in source:
                if not rclpy.ok():
                    return
                first_ns = frame.stamp_ns if first_ns is None else first_ns
                due = start + (frame.stamp_ns - first_ns) * 1e-9 / self._options.rate
                time.sleep(max(0.0, due - time.monotonic()))
                self._publish(frame.image, self._options.frame_id or frame.frame_id)
            if not self._options.loop:
                return
            # The last frame stands for its own period.
            time.sleep(1.0 / ((source.frame_rate or 30.0) * self._options.rate))

    def _publish(self, image: np.ndarray, frame_id: str) -> None:
        header = header_message(
            ros_message, stamp_ns=self.get_clock().now().nanoseconds, frame_id=frame_id
        )
        if self._options.compressed:
            _, data = cv2.imencode('.jpg', image)
            message = ros_message(
                'sensor_msgs/msg/CompressedImage',
                header=header,
                format='bgr8; jpeg compressed bgr8',
                data=data.reshape(-1),  # (bytes,)
            )
        else:
            message = image_message(ros_message, image, header)
        self._images.publish(message)
        self.published += 1


def main() -> int:
    """Publish until the source or the user ends it; return the exit code."""
    options = parse_arguments(remove_ros_args(sys.argv)[1:])
    use_prompt_resends()
    rclpy.init()
    try:
        with open_source(options.source, topic=options.bag_topic) as source:
            node = CameraPublisher(options)
            node.wait_for_subscriber(options.wait)
            node.publish_source(source)
            print(f'fer_publish: published {node.published} images of {source.name}')
    except SourceError as error:
        print(f'fer_publish: {error}', file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:  # publishing into a context that a signal has just shut down
        if rclpy.ok():
            raise
    finally:
        # Under ros2 launch Ctrl-C arrives twice: the second must not break off what follows.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        rclpy.try_shutdown()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # again: ROS has put back the former one
    return 0


if __name__ == '__main__':
    sys.exit(main())
