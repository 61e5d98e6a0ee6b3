# SPDX-License-Identifier: Apache-2.0
"""fer_publish is a camera: its own pace, the clock's stamps, raw or compressed, once or looped."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')

from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from fer_perception.images import compressed_to_bgr, to_bgr  # noqa: E402
from fer_perception.messages import stamp_ns  # noqa: E402
from fer_perception.publish import parse_arguments  # noqa: E402


@pytest.fixture(scope='module', autouse=True)
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make ten images, each of another grey; a folder plays at 30 Hz."""
    path = tmp_path_factory.mktemp('images')
    for index in range(10):
        cv2.imwrite(str(path / f'{index}.png'), np.full((48, 64, 3), 20 * index, np.uint8))
    return path


def receive(
    folder: Path, kind: Any, topic: str, *options: str,
    until: Callable[[list[Any]], bool] = lambda messages: False,
) -> tuple[list[Any], subprocess.Popen[str]]:
    node = rclpy.create_node('receiver')
    messages: list[Any] = []
    qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(kind, topic, messages.append, qos)
    command = [sys.executable, '-m', 'fer_perception.publish', str(folder), '--wait', '30']
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + 40
    while process.poll() is None and not until(messages) and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.05)
    quiet = 0
    while quiet < 10 and process.poll() is not None:  # what a busy machine still has under way
        before = len(messages)
        rclpy.spin_once(node, timeout_sec=0.05)
        quiet = quiet + 1 if len(messages) == before else 0
    node.destroy_node()
    return messages, process


def test_every_image_comes_at_its_time(folder: Path) -> None:
    before_ns = time.time_ns()
    messages, process = receive(folder, Image, '/image_raw', '--rate', '0.5')
    assert process.returncode == 0
    assert 'published 10 images' in process.communicate()[0]
    assert [int(to_bgr(m)[0, 0, 0]) for m in messages] == [20 * i for i in range(10)]
    stamps = [stamp_ns(message.header) for message in messages]
    assert before_ns < stamps[0] and stamps[-1] < time.time_ns()
    spacing_s = np.diff(stamps) * 1e-9
    assert np.median(spacing_s) == pytest.approx(1 / 15, rel=0.5)
    assert all(message.header.frame_id == 'camera' for message in messages)


def test_compressed_images_and_an_own_frame_id(folder: Path) -> None:
    messages, process = receive(
        folder, CompressedImage, '/eye/compressed', '--compressed', '--topic', '/eye',
        '--frame-id', 'left_eye',
    )
    assert process.returncode == 0 and len(messages) == 10
    assert messages[3].header.frame_id == 'left_eye'
    assert abs(int(compressed_to_bgr(messages[3])[0, 0, 0]) - 60) < 3


def test_a_loop_goes_on_until_it_is_interrupted(folder: Path) -> None:
    messages, process = receive(
        folder, Image, '/image_raw', '--loop', '--rate', '3', until=lambda m: len(m) > 25
    )
    assert process.poll() is None and len(messages) > 25
    stamps = [stamp_ns(message.header) for message in messages]
    assert stamps == sorted(stamps)
    process.terminate()
    output = process.communicate(timeout=10)[0]
    assert process.returncode == 0 and 'Traceback' not in output
    published = int(output.split('published ')[1].split()[0])
    assert published >= len(messages)


def test_an_interrupt_while_an_error_is_handled_ends_it_in_order(folder: Path) -> None:
    """A signal shuts ROS down first, which lets what is under way fail."""
    interrupted = f"""
import os, signal, sys
from fer_perception import publish
def fail(*arguments):
    def ok():
        os.kill(os.getpid(), signal.SIGINT)
        return True
    publish.rclpy.ok = ok
    raise OSError('publishing failed')
publish.publish_source = fail
sys.argv = ['fer_publish', {str(folder)!r}]
sys.exit(publish.main())
"""
    process = subprocess.run(
        [sys.executable, '-c', interrupted], capture_output=True, text=True, timeout=60
    )
    assert (process.returncode, process.stderr) == (0, '')


def test_a_missing_source_ends_with_one_line() -> None:
    command = [sys.executable, '-m', 'fer_perception.publish', 'nowhere.mp4']
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert 'nowhere.mp4' in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_a_rate_of_zero_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(['x.mp4', '--rate', '0'])
    assert '--rate' in capsys.readouterr().err
