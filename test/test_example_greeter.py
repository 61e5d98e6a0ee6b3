# SPDX-License-Identifier: Apache-2.0
"""The example robot answers a smile that holds, each person's once, and ends cleanly."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')

from expressions_made import made_array, made_record  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from fer_msgs.msg import ExpressionArray  # noqa: E402
from fer_perception.uncertainty.estimate import ExpressionState  # noqa: E402

LIMIT_S = 30.0
FRAME_NS = 100_000_000


class Camera:
    """Publishes what fer_node would, and listens to what the robot says."""

    def __init__(self) -> None:
        self.node = rclpy.create_node('camera')
        self.publisher = self.node.create_publisher(ExpressionArray, '/fer/expressions', 10)
        self.said: list[str] = []
        self.node.create_subscription(
            String, '/say', lambda message: self.said.append(message.data), 10
        )
        self._stamp_ns = 1_000_000_000

    def wait(self, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        end = time.monotonic() + limit_s
        while not condition() and time.monotonic() < end:
            rclpy.spin_once(self.node, timeout_sec=0.02)
        return condition()

    def show(self, images: int, *faces: Any) -> None:
        """Publish images 0.1 s apart by their stamps."""
        for _ in range(images):
            self._stamp_ns += FRAME_NS
            self.publisher.publish(made_array(self._stamp_ns, *faces))
            self.wait(lambda: False, 0.05)

    def show_until_said(self, count: int, *faces: Any) -> bool:
        end = time.monotonic() + LIMIT_S
        while len(self.said) < count and time.monotonic() < end:
            self.show(1, *faces)
        return len(self.said) == count


@pytest.fixture
def camera() -> Iterator[Camera]:
    rclpy.init()
    made = Camera()
    yield made
    made.node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture
def greeter() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, '-m', 'fer_perception.examples.greeter', *arguments]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_smile_that_holds_is_answered_once_for_each_person(
    camera: Camera, greeter: Callable[..., subprocess.Popen[str]]
) -> None:
    process = greeter('--ros-args', '-p', 'hold_s:=0.5')
    assert camera.wait(
        lambda: camera.publisher.get_subscription_count() == 1
        and camera.node.count_publishers('/say') == 1
    )
    smile = made_record('annie')
    doubted = made_record('annie', state=ExpressionState.UNCERTAIN)
    calm = made_record('bobby', expression='neutral')
    camera.show(5, smile, calm)  # 0.4 s
    camera.show(1, doubted, calm)
    camera.show(5, smile, calm)
    camera.show(1, doubted, calm)
    assert not camera.wait(lambda: bool(camera.said), 1.0)
    assert camera.show_until_said(1, smile, calm)
    assert camera.said[0].startswith('annie: ')
    # Not again at once, but another person at once.
    camera.show(1, doubted, calm)
    assert camera.show_until_said(2, smile, made_record('bobby'))
    assert not camera.wait(lambda: len(camera.said) > 2, 1.0)
    assert camera.said[1].startswith('bobby: ')
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0 and 'Traceback' not in output, output
    assert 'annie: None -> happiness' in output and 'bobby: None -> neutral' in output


@pytest.mark.parametrize('value', ['-1.0', 'long'])
def test_an_impossible_hold_is_refused_in_one_line(
    greeter: Callable[..., subprocess.Popen[str]], value: str
) -> None:
    process = greeter('--ros-args', '-p', f'hold_s:={value}')
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert 'hold_s' in output and 'Traceback' not in output
