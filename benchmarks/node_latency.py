# SPDX-License-Identifier: Apache-2.0
"""Measure whether fer_node keeps up with a 640x480 camera at 30 Hz over real DDS.

    python benchmarks/node_latency.py --out node_latency.json

A process of its own publishes the sample clip, scaled to 640x480, in a loop; this one listens.
Reported: the share of images answered, latency_ms as the node says it, and the time from the
image's stamp to the receipt of its array.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile

from fer_msgs.msg import ExpressionArray
from fer_perception.assets import asset_path
from fer_perception.messages import stamp_ns
from fer_perception.sources import open_source
from fer_perception.video_file import VideoFile

SIZE = (640, 480)
WARM_UP_S = 3.0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=20.0, help='(%(default)s)')
    parser.add_argument('--mc-samples', type=int, default=100, help='(%(default)s)')
    parser.add_argument(
        '--reliability',
        choices=['auto', 'reliable', 'best_effort'],
        default='auto',
        help='of the subscription; best effort may lose large raw images (%(default)s)',
    )
    parser.add_argument('--out', type=Path, help='JSON file (printed otherwise)')
    return parser.parse_args()


def scaled_clip(folder: Path) -> Path:
    """Write the sample clip at 640x480 and 30 fps; a video, for it loops without a gap."""
    path = folder / 'clip.mp4'
    with (
        open_source(str(asset_path('single_face.mp4'))) as source,
        VideoFile(path, frame_rate=30.0) as video,
    ):
        for frame in source:
            video.write(cv2.resize(frame.image, SIZE))
    return path


def measure(options: argparse.Namespace, clip: Path) -> dict[str, Any]:
    """Run node and camera for a while and return the figures."""
    node = subprocess.Popen(
        [sys.executable, '-m', 'fer_perception.node', '--ros-args', '-r', 'image:=/image_raw']
        + ['-p', f'mc_samples:={options.mc_samples}']
        + ['-p', f'image_reliability:={options.reliability}']
    )
    camera = subprocess.Popen(
        [sys.executable, '-m', 'fer_perception.publish', str(clip), '--loop', '--wait', '60']
    )
    received: list[tuple[float, float, float]] = []  # receipt (s), delay (ms), processing (ms)
    listener = Node('fer_benchmark')

    def take(message: ExpressionArray) -> None:
        delay_ms = (time.time_ns() - stamp_ns(message.header)) * 1e-6
        for face in message.faces[:1]:
            received.append((time.monotonic(), delay_ms, face.latency_ms))

    listener.create_subscription(ExpressionArray, '/fer/expressions', take, QoSProfile(depth=100))
    try:
        while not received and node.poll() is None and camera.poll() is None:
            rclpy.spin_once(listener, timeout_sec=0.1)
        end = time.monotonic() + WARM_UP_S + options.seconds
        while time.monotonic() < end and node.poll() is None and camera.poll() is None:
            rclpy.spin_once(listener, timeout_sec=0.1)
    finally:
        for process in (camera, node):
            process.send_signal(signal.SIGINT)
            process.wait(10.0)
    kept = [row for row in received if row[0] > end - options.seconds]
    if not kept:
        raise RuntimeError('the node answered nothing')
    rates = np.percentile([row[1:] for row in kept], [50, 95, 99], axis=0)  # (3, 2)
    return {
        'benchmark': 'node_latency',
        'machine': {'processor': platform.processor(), 'cores': os.cpu_count()},
        'image_size': SIZE,
        'camera_hz': 30.0,
        'mc_samples': options.mc_samples,
        'reliability': options.reliability,
        'seconds': options.seconds,
        'answered': len(kept) / (30.0 * options.seconds),
        'latency_ms': dict(zip(('p50', 'p95', 'p99'), rates[:, 1].round(2).tolist(), strict=True)),
        'stamp_to_receipt_ms': dict(
            zip(('p50', 'p95', 'p99'), rates[:, 0].round(2).tolist(), strict=True)
        ),
    }


def main() -> int:
    """Measure, write or print the figures; return the exit code."""
    options = parse_arguments()
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    rclpy.init()
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(options, scaled_clip(Path(folder)))
    finally:
        rclpy.try_shutdown()
    text = json.dumps(figures, indent=2)
    if options.out:
        options.out.write_text(text + '\n', encoding='utf-8')
    print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
