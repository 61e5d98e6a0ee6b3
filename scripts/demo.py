# SPDX-License-Identifier: Apache-2.0
"""Show the whole system at work: a camera, the node and this listener, three processes over DDS.

make demo                     the sample clip
make demo VIDEO=path          a video of your own
make demo CAMERA=0            a camera of this machine, until Ctrl-C

Leaves expressions.jsonl, annotated.mp4 and timeline.png in the --out folder.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from processes import start, stop  # beside this file
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from fer_msgs.msg import Expression, ExpressionArray
from fer_perception.assets import AssetError, asset_path
from fer_perception.images import to_bgr
from fer_perception.messages import record_from_message
from fer_perception.records import ExpressionRecord
from fer_perception.sources import FALLBACK_FRAME_RATE, SourceError, open_source
from fer_perception.timeline import draw_timeline
from fer_perception.video_file import VideoFile

START_LIMIT_S = 60.0  # for the node to load its models
SILENCE_S = 1.5  # without an image, after the last one was published

HEADER = (
    f'{"time":>7}  {"face":5}  {"expression":10}  {"confidence":>10}  {"std. dev.":>9}  '
    f'{"mutual inf.":>11}  state'
)


class DemoError(Exception):
    """Say why the demo showed nothing."""


class Listener(Node):
    """Prints every update and keeps what the files need."""

    def __init__(self, *, video: VideoFile, lines: Any) -> None:
        super().__init__('fer_demo')
        self.records: list[ExpressionRecord] = []
        self.images = 0
        self.fault = ''  # why the node could not be configured
        self.last_image_s = time.monotonic()
        self._first_ns: int | None = None
        self._video = video
        self._lines = lines
        reliable = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        self.create_subscription(ExpressionArray, '/fer/expressions', self._on_image, reliable)
        self.create_subscription(Expression, '/fer/expression', self._on_expression, reliable)
        self.create_subscription(Image, '/fer/image_annotated', self._on_picture, reliable)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_image(self, message: ExpressionArray) -> None:
        self.images += 1
        self.last_image_s = time.monotonic()

    def _on_expression(self, message: Expression) -> None:
        record = record_from_message(message)
        self.records.append(record)
        print(record.to_json(), file=self._lines)
        if self._first_ns is None:
            self._first_ns = record.stamp_ns
            print(HEADER)
        best = record.labels.index(record.expression)
        print(
            f'{(record.stamp_ns - self._first_ns) * 1e-9:6.2f}s  {record.face_id:5}  '
            f'{record.expression:10}  {record.confidence:10.2f}  '
            f'{record.standard_deviations[best]:9.3f}  {record.mutual_information:11.4f}  '
            f'{record.state.name}',
            flush=True,
        )

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            is_error = status.level == DiagnosticStatus.ERROR
            if is_error and status.message.startswith('unconfigured'):
                self.fault = status.message

    def _on_picture(self, message: Image) -> None:
        self._video.write(to_bgr(message))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Show the whole system at work.')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--video', help='video, image folder or rosbag (the sample clip)')
    source.add_argument('--camera', type=int, help='number of a camera, until Ctrl-C')
    parser.add_argument('--out', type=Path, default=Path('out/demo'), help='(%(default)s)')
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Run the demo; raises DemoError if nothing was published."""
    source = str(asset_path('single_face.mp4')) if options.video is None else options.video
    frame_rate = FALLBACK_FRAME_RATE
    if options.camera is not None:
        source = str(options.camera)
    else:
        with open_source(source) as opened:  # a wrong path is said before anything starts
            frame_rate = opened.frame_rate or frame_rate
    # A domain of the demo's own, so that no robot nearby mixes in.
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    print(f'{source} -> fer_publish -> fer_node -> demo, ROS domain {os.environ["ROS_DOMAIN_ID"]}')
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ('expressions.jsonl', 'annotated.mp4', 'timeline.png'):
        (options.out / name).unlink(missing_ok=True)

    # From the first image on: nothing but the node's own pace shall drop one.
    reliable = 'image_reliability:=reliable'
    node = start(
        'fer_perception.node', '--ros-args', '-r', 'image:=/image_raw', '-p', reliable
    )
    processes = [node]
    rclpy.init()
    try:
        with (
            (options.out / 'expressions.jsonl').open('w', encoding='utf-8') as lines,
            VideoFile(options.out / 'annotated.mp4', frame_rate=frame_rate) as video,
        ):
            listener = Listener(video=video, lines=lines)
            try:
                wait_for_node(listener, node)
                camera = start('fer_perception.publish', source, '--wait', str(START_LIMIT_S))
                processes.append(camera)
                listen(listener, node, camera)
            except (KeyboardInterrupt, ExternalShutdownException):
                print()
    finally:
        for process in reversed(processes):
            stop(process)
        rclpy.try_shutdown()
    if not listener.images:
        raise DemoError('the node published nothing: it received no image')
    if not listener.records:
        raise DemoError(f'no expression was published: {listener.images} images, no face in any')
    title = f'Demo: {Path(source).name}'
    draw_timeline(listener.records, options.out / 'timeline.png', title=title)
    report(listener, options.out)


def wait_for_node(listener: Listener, node: subprocess.Popen[bytes]) -> None:
    """Wait until the node can be heard, so that the first image is shown as well."""
    end = time.monotonic() + START_LIMIT_S
    while not listener.count_publishers('/fer/image_annotated'):
        take_messages(listener, node)
        if time.monotonic() > end:
            raise DemoError(f'fer_node did not come up within {START_LIMIT_S:.0f} s')


def take_messages(listener: Listener, node: subprocess.Popen[bytes]) -> None:
    """Take what has come, for a moment; raises DemoError if the node has ended."""
    rclpy.spin_once(listener, timeout_sec=0.1)
    if node.poll() is not None:
        raise DemoError(f'fer_node ended with exit code {node.returncode}, see above')
    if listener.fault:
        raise DemoError(f'fer_node is {listener.fault}')


def listen(
    listener: Listener, node: subprocess.Popen[bytes], camera: subprocess.Popen[bytes]
) -> None:
    """Take messages until the camera has ended and the node has read its last image."""
    while True:
        take_messages(listener, node)
        if camera.poll() is None:
            continue
        if camera.returncode:
            raise DemoError(f'fer_publish ended with exit code {camera.returncode}, see above')
        if time.monotonic() - listener.last_image_s > SILENCE_S:
            return


def report(listener: Listener, out: Path) -> None:
    """Say in short what came out and where it is."""
    latencies = sorted(record.latency_ms for record in listener.records)
    faces = {record.face_id for record in listener.records}
    print(
        f'{listener.images} images, {len(listener.records)} updates, {len(faces)} face(s), '
        f'processing {latencies[len(latencies) // 2]:.1f} ms (median)'
    )
    for name in ('expressions.jsonl', 'annotated.mp4', 'timeline.png'):
        print(f'  {out / name}')


def main() -> int:
    """Run the demo; return the exit code."""
    try:
        run(parse_arguments())
    except (AssetError, DemoError, OSError, SourceError) as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
