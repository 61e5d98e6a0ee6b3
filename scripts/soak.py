# SPDX-License-Identifier: Apache-2.0
"""Let a camera of 30 Hz and the node run for long, and see whether anything grows or gets lost.

make soak                     ten minutes of the sample clip, over and over
make soak MINUTES=600         a night

Ends with 0 if the node answered what it was sent and its memory stayed flat, with 1 if not.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from processes import start, stop  # beside this file
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from tqdm import tqdm

from fer_msgs.msg import ExpressionArray
from fer_perception.assets import AssetError, asset_path

START_LIMIT_S = 60.0  # for the node to answer its first image
SAMPLE_PERIOD_S = 1.0
WARM_UP_SHARE = 0.25  # of the time, in which memory may still grow
CAMERA_HZ = 30.0
MOST_GROWTH_MIB = 8.0  # of the memory, from the end of the warm-up to the end


class SoakError(Exception):
    """Say what did not hold."""


class Counter(Node):
    """Counts the answers and what is in them."""

    def __init__(self) -> None:
        super().__init__('fer_soak')
        self.answers = 0
        self.faces: set[str] = set()
        self.create_subscription(
            ExpressionArray, '/fer/expressions', self._count, QoSProfile(depth=100)
        )

    def _count(self, message: ExpressionArray) -> None:
        self.answers += 1
        self.faces.update(face.face_id for face in message.faces)


def memory_mib(process: subprocess.Popen[bytes]) -> float:
    """Return the resident memory of a process, in MiB (Linux)."""
    pages = int(Path(f'/proc/{process.pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def growth_mib(times_s: list[float], memory: list[float]) -> float:
    """Return by how much memory grew after the warm-up: the slope of a line times its time."""
    start_s = times_s[0] + WARM_UP_SHARE * (times_s[-1] - times_s[0])
    late = [(at, used) for at, used in zip(times_s, memory, strict=True) if at >= start_s]
    at, used = np.array(late).T  # (n,), (n,)
    return float(np.polyfit(at, used, 1)[0] * (at[-1] - at[0]))


def watch(
    counter: Counter, node: subprocess.Popen[bytes], *, seconds: float, least_answered: float
) -> None:
    """Watch a node that answers; raises SoakError if something did not hold."""
    times_s: list[float] = []
    memory: list[float] = []
    answers, start_s = counter.answers, time.monotonic()
    with tqdm(total=round(seconds), unit='s', disable=not sys.stderr.isatty()) as bar:
        while (passed_s := time.monotonic() - start_s) < seconds:
            rclpy.spin_once(counter, timeout_sec=0.1)
            if node.poll() is not None:
                raise SoakError(f'fer_node ended with exit code {node.returncode}, see above')
            if passed_s >= len(times_s) * SAMPLE_PERIOD_S:
                times_s.append(passed_s)
                memory.append(memory_mib(node))
                bar.update()
    answered = (counter.answers - answers) / (CAMERA_HZ * seconds)
    growth = growth_mib(times_s, memory)
    print(
        f'{seconds / 60:.1f} minutes: {answered:.1%} of the images answered, '
        f'{len(counter.faces)} face ids, memory {memory[0]:.1f} MiB at the start, '
        f'{memory[-1]:.1f} at the end, {growth:+.2f} after the warm-up'
    )
    if answered < least_answered:
        raise SoakError(f'only {answered:.1%} of the images were answered')
    if growth > MOST_GROWTH_MIB:
        raise SoakError(f'memory grew by {growth:.1f} MiB after the warm-up')


def run(*, minutes: float, least_answered: float) -> None:
    """Run camera and node; raises SoakError if something did not hold."""
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    clip = asset_path('single_face.mp4')
    node = start('fer_perception.node', '--ros-args', '-r', 'image:=/image_raw')
    camera = start('fer_perception.publish', str(clip), '--loop', '--wait', str(START_LIMIT_S))
    rclpy.init()
    try:
        counter = Counter()
        end_s = time.monotonic() + START_LIMIT_S
        while not counter.answers:
            rclpy.spin_once(counter, timeout_sec=0.1)
            if time.monotonic() > end_s:
                raise SoakError(f'the node answered nothing within {START_LIMIT_S:.0f} s')
        watch(counter, node, seconds=minutes * 60.0, least_answered=least_answered)
    finally:
        for process in (camera, node):
            stop(process)
        rclpy.try_shutdown()
    if node.returncode:
        raise SoakError(f'fer_node ended with exit code {node.returncode}, see above')


def main() -> int:
    """Soak; return the exit code."""
    parser = argparse.ArgumentParser(description='Let camera and node run for long.')
    parser.add_argument('--minutes', type=float, default=10.0, help='(%(default)s)')
    parser.add_argument('--least-answered', type=float, default=0.9, metavar='SHARE',
                        help="of the camera's images (%(default)s)")
    options = parser.parse_args()
    if not options.minutes > 0.1:
        parser.error(f'--minutes must be more than 0.1, not {options.minutes}')
    try:
        run(minutes=options.minutes, least_answered=options.least_answered)
    except (AssetError, SoakError) as error:
        print(f'soak: {error}', file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
