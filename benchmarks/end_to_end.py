# SPDX-License-Identifier: Apache-2.0
"""Measure fer_node from a camera's image to its message, over real DDS at 30 Hz.

    python benchmarks/end_to_end.py --out end_to_end.json

A process of its own publishes the sample clip, at 640x480 and 1280x720, with one face and with
four, in a loop; the node reads it, and this process listens. Reported for each: the time from the
image's stamp to the receipt of its array, latency_ms as the node says it, the share of images
answered and with all faces, the images that the node dropped for newer ones, and the processor
share and memory of the node's process.

Each case is measured with the camera's DDS settings as they come, as another package's camera has
them, and with those of fer_perception/fast_dds.xml, which the node and fer_publish have by
themselves.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from clips import sample_frames, tiled
from rclpy.node import Node
from rclpy.qos import QoSProfile

from fer_msgs.msg import ExpressionArray
from fer_perception.fast_dds import PROFILES, PROFILES_VARIABLE
from fer_perception.messages import stamp_ns
from fer_perception.video_file import VideoFile

CAMERA_HZ = 30.0
FACE_COUNTS = (1, 4)
WARM_UP_S = 3.0
START_LIMIT_S = 60.0
NO_PROFILES = '<dds xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"/>'
DROPPED = re.compile(r'(\d+) dropped for newer ones')
PERCENTILES = {'p50': 50, 'p95': 95, 'p99': 99}


class Usage:
    """The processor time and memory that a process has taken, from /proc (Linux)."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self._folder = Path('/proc') / str(process.pid)

    def processor_s(self) -> float:
        """Return the processor time in seconds, of all threads since the start."""
        # The fields after the name of the program, which may hold blanks: utime is the 14th.
        fields = (self._folder / 'stat').read_text('utf-8').rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def memory_mib(self, kind: str) -> float:
        """Return the memory in MiB: VmRSS is what it holds now, VmHWM the most it ever held."""
        for line in (self._folder / 'status').read_text('utf-8').splitlines():
            if line.startswith(kind):
                return round(int(line.split()[1]) / 1024, 1)
        raise ValueError(f'/proc tells no {kind}')


def parse_size(text: str) -> tuple[int, int]:
    """Read a size such as 640x480."""
    match = re.fullmatch(r'([1-9]\d{1,3})x([1-9]\d{1,3})', text)
    if match is None:
        raise argparse.ArgumentTypeError(f'a size is WIDTHxHEIGHT, such as 640x480, not {text!r}')
    return int(match[1]), int(match[2])


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=20.0, help='of each case (%(default)s)')
    parser.add_argument('--mc-samples', type=int, default=100, help='(%(default)s)')
    parser.add_argument(
        '--sizes', type=parse_size, nargs='+', default=[(640, 480), (1280, 720)], metavar='WxH',
        help='(640x480 1280x720)',
    )
    parser.add_argument(
        '--faces', type=int, nargs='+', default=FACE_COUNTS, help='square numbers (1 4)'
    )
    parser.add_argument(
        '--reliability',
        choices=['auto', 'reliable', 'best_effort'],
        default='auto',
        help='of the subscription; best effort may lose large raw images (%(default)s)',
    )
    parser.add_argument('--out', type=Path, help='JSON file (printed otherwise)')
    options = parser.parse_args()
    if not options.seconds > 0:
        parser.error(f'--seconds must be above 0, not {options.seconds}')
    return options


def percentiles(values: list[float]) -> dict[str, float]:
    """Return the median, 95th and 99th percentile."""
    found = np.percentile(values, list(PERCENTILES.values()))
    return dict(zip(PERCENTILES, found.round(2).tolist(), strict=True))


def measure(
    options: argparse.Namespace, clip: Path, *, faces: int, camera_profiles: Path
) -> dict[str, Any]:
    """Run node and camera for a while and return the figures; RuntimeError without an answer."""
    environment = {**os.environ, PROFILES_VARIABLE: str(camera_profiles)}
    node = subprocess.Popen(
        [sys.executable, '-m', 'fer_perception.node', '--ros-args', '-r', 'image:=/image_raw']
        + ['-p', f'mc_samples:={options.mc_samples}']
        + ['-p', f'image_reliability:={options.reliability}'],
        stderr=subprocess.PIPE,
        text=True,
    )
    camera = subprocess.Popen(
        [sys.executable, '-m', 'fer_perception.publish', str(clip), '--loop', '--wait', '60'],
        env=environment,
    )
    usage = Usage(node)
    received: list[tuple[float, int, float, int]] = []  # delay (ms), stamp (ns), latency, faces
    listener = Node('fer_benchmark')

    def take(message: ExpressionArray) -> None:
        stamp = stamp_ns(message.header)
        latency_ms = message.faces[0].latency_ms if message.faces else np.nan
        delay_ms = (time.time_ns() - stamp) * 1e-6
        received.append((delay_ms, stamp, latency_ms, len(message.faces)))

    listener.create_subscription(ExpressionArray, '/fer/expressions', take, QoSProfile(depth=100))

    def listen(seconds: float, *, until_answered: bool = False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and node.poll() is None and camera.poll() is None:
            if until_answered and received:
                return
            rclpy.spin_once(listener, timeout_sec=0.1)

    errors = ''
    try:
        listen(START_LIMIT_S, until_answered=True)
        listen(WARM_UP_S)
        received.clear()
        if node.poll() is None:
            started, before = time.monotonic(), usage.processor_s()
            listen(options.seconds)
        if node.poll() is None:
            processor = (usage.processor_s() - before) / (time.monotonic() - started)
            memory = {'now': usage.memory_mib('VmRSS'), 'most': usage.memory_mib('VmHWM')}
    finally:
        for process in (camera, node):
            process.send_signal(signal.SIGINT)
        camera.wait(10.0)
        _, errors = node.communicate(timeout=10.0)
        listener.destroy_node()
    if not received or node.returncode != 0:
        raise RuntimeError(f'the node answered nothing, or failed:\n{errors}')
    dropped = DROPPED.search(errors)
    assert dropped is not None
    span = (received[-1][1] - received[0][1]) * 1e-9 * CAMERA_HZ + 1  # images, first to last
    return {
        'faces': faces,
        'camera_profiles': camera_profiles.name,
        'answered': round(min(len(received) / span, 1.0), 4),
        'with_all_faces': round(sum(row[3] == faces for row in received) / len(received), 4),
        'dropped_by_node_since_start': int(dropped[1]),
        'stamp_to_receipt_ms': percentiles([row[0] for row in received]),
        'latency_ms': percentiles([row[2] for row in received if row[3]]),
        'processor_share': round(processor, 3),
        'memory_mib': memory,
    }


def write_clip(path: Path, frames: list[np.ndarray]) -> None:
    """Write frames at the camera's rate; a video, for it loops without a gap."""
    with VideoFile(path, frame_rate=CAMERA_HZ) as video:
        for frame in frames:
            video.write(frame)


def main() -> int:
    """Measure, write or print the figures; return the exit code."""
    options = parse_arguments()
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    frames = sample_frames()
    rows = []
    rclpy.init()
    try:
        with tempfile.TemporaryDirectory() as folder:
            unset = Path(folder) / 'as_they_come.xml'
            unset.write_text(NO_PROFILES, 'utf-8')
            for size in options.sizes:
                for faces in options.faces:
                    clip = Path(folder) / f'{size[0]}x{size[1]}_{faces}.mp4'
                    write_clip(clip, tiled(frames, size, faces))
                    for profiles in (unset, PROFILES):
                        print(f'end_to_end: {clip.stem}, {profiles.name}', file=sys.stderr)
                        row = measure(options, clip, faces=faces, camera_profiles=profiles)
                        rows.append({'image_size': size, **row})
    except (RuntimeError, ValueError) as error:
        print(f'end_to_end: {error}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    figures = {
        'benchmark': 'end_to_end',
        'machine': {'processor': platform.processor(), 'cores': os.cpu_count()},
        'camera_hz': CAMERA_HZ,
        'mc_samples': options.mc_samples,
        'reliability': options.reliability,
        'seconds': options.seconds,
        'rows': rows,
    }
    text = json.dumps(figures, indent=2)
    if options.out:
        options.out.write_text(text + '\n', encoding='utf-8')
    print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
