# SPDX-License-Identifier: Apache-2.0
"""ExpressionClient over real ROS traffic: the right callbacks, and a robot's faults survived."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')

from expressions_made import made_array, made_record  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

from fer_msgs.msg import ExpressionArray  # noqa: E402
from fer_perception.client import ExpressionClient  # noqa: E402
from fer_perception.uncertainty.estimate import ExpressionState  # noqa: E402

LIMIT_S = 10.0
NS = 1_000_000_000


class Robot:
    """A robot's node with a client, which notes its calls, and a camera's node beside it."""

    def __init__(self, **settings: Any) -> None:
        self.node = rclpy.create_node('robot')
        self.camera = rclpy.create_node('camera')
        self.publisher = self.camera.create_publisher(ExpressionArray, '/fer/expressions', 10)
        self.calls: list[tuple[Any, ...]] = []
        callbacks: dict[str, Callable[..., object]] = {
            'on_appear': lambda *given: self.calls.append(('appear', *given)),
            'on_change': lambda *given: self.calls.append(('change', *given)),
            'on_leave': lambda *given: self.calls.append(('leave', *given)),
        }
        self.client = ExpressionClient(self.node, **(callbacks | settings))
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.camera)
        assert self.wait(lambda: self.publisher.get_subscription_count() == 1)
        assert self.wait(lambda: self.node.count_publishers('/fer/expressions') == 1)

    def wait(self, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        end = time.monotonic() + limit_s
        while not condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return condition()

    def see(self, time_s: float, *faces: Any) -> None:
        """Publish what an image shows, and let the robot take it."""
        self.publisher.publish(made_array(round(time_s * NS), *faces))
        assert self.publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=LIMIT_S))
        for _ in range(5):  # it is there: acknowledged
            self.executor.spin_once(timeout_sec=0.01)

    def close(self) -> None:
        self.client.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.camera.destroy_node()


@pytest.fixture(scope='module', autouse=True)
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def robot() -> Iterator[Callable[..., Robot]]:
    made: list[Robot] = []

    def make(**settings: Any) -> Robot:
        made.append(Robot(**settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Read what has been logged since; ROS logs past Python's streams."""
    return lambda: capfd.readouterr().err


def test_each_person_is_called_back_for_on_their_own(robot: Callable[..., Robot]) -> None:
    there = robot(hold_s=0.5)
    ann, bob = made_record('annie'), made_record('bobby', state=ExpressionState.UNCERTAIN)
    for time_s in (100.0, 100.3, 100.6):
        there.see(time_s, ann, bob)
    there.see(100.7, made_record('annie', state=ExpressionState.UNCERTAIN), bob)
    assert there.client.faces.keys() == {'annie', 'bobby'}
    assert there.client.faces['annie'].record.roi == ann.roi
    for time_s in (101.0, 102.0, 103.0):
        there.see(time_s, bob)
    assert there.calls == [
        ('appear', 'annie'),
        ('appear', 'bobby'),
        ('change', 'annie', None, 'happiness'),
        ('change', 'annie', 'happiness', None),
        ('leave', 'annie'),
    ]
    assert there.client.faces.keys() == {'bobby'}


def test_silence_lets_all_leave_by_itself_and_is_told_once(
    robot: Callable[..., Robot], logged: Callable[[], str]
) -> None:
    there = robot(hold_s=0.0, leave_s=1.0)
    there.see(5.0, made_record('annie'))
    assert there.calls == [('appear', 'annie'), ('change', 'annie', None, 'happiness')]
    there.calls.clear()
    logged()
    assert there.wait(lambda: len(there.calls) == 2)
    assert there.calls == [('change', 'annie', 'happiness', None), ('leave', 'annie')]
    there.wait(lambda: False, 1.5)
    text = logged()
    assert text.count('no expressions on /fer/expressions for 1.0 s') == 1
    assert '1 publishers' in text
    # A camera that returns is followed again, and its silence noticed again.
    there.calls.clear()
    there.see(6.0, made_record('annie'))
    assert there.calls[0] == ('appear', 'annie')
    assert there.wait(lambda: there.calls[-1] == ('leave', 'annie'))


def test_a_camera_without_stamps_is_timed_by_the_clock(robot: Callable[..., Robot]) -> None:
    there = robot(hold_s=0.3)
    end = time.monotonic() + LIMIT_S
    while len(there.calls) < 2 and time.monotonic() < end:
        there.see(0.0, made_record('annie'))
    assert there.calls == [('appear', 'annie'), ('change', 'annie', None, 'happiness')]


@pytest.mark.parametrize('name', ['on_appear', 'on_change', 'on_leave'])
def test_a_callback_that_raises_is_logged_and_the_others_are_called(
    robot: Callable[..., Robot], logged: Callable[[], str], name: str
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError('the arm is stuck')

    there = robot(hold_s=0.0, leave_s=1.0, **{name: fail})
    there.see(10.0, made_record('annie'))
    there.see(11.0)
    assert [call[0] for call in there.calls] == [
        kind for kind in ('appear', 'change', 'change', 'leave') if f'on_{kind}' != name
    ]
    text = logged()
    assert 'the arm is stuck' in text and 'Traceback' in text and 'annie' in text


def test_a_face_that_cannot_be_read_costs_no_other(
    robot: Callable[..., Robot], logged: Callable[[], str]
) -> None:
    there = robot(hold_s=0.0)
    message = made_array(NS, made_record('annie'), made_record('bobby'))
    message.faces[0].state = 77
    there.publisher.publish(message)
    assert there.wait(lambda: len(there.calls) == 2)
    assert there.calls == [('appear', 'bobby'), ('change', 'bobby', None, 'happiness')]
    text = logged()
    assert 'annie' in text and '77' in text


def test_no_callback_is_needed(robot: Callable[..., Robot]) -> None:
    there = robot(on_appear=None, on_change=None, on_leave=None)
    there.see(1.0, made_record('annie'))
    assert there.client.faces.keys() == {'annie'} and not there.calls


def test_no_callback_comes_after_close(robot: Callable[..., Robot]) -> None:
    there = robot()

    def close(face_id: str) -> None:
        there.calls.append(('appear', face_id))
        there.client.close()
        there.client.close()

    there.client.close()
    there.client = ExpressionClient(
        there.node, hold_s=0.0, on_appear=close, on_change=lambda *_: there.calls.append(('no',))
    )
    assert there.wait(lambda: there.publisher.get_subscription_count() == 1)
    there.see(1.0, made_record('annie'), made_record('bobby'))
    assert there.calls == [('appear', 'annie')]
    assert there.wait(lambda: there.publisher.get_subscription_count() == 0)


def test_impossible_times_are_refused_before_anything_is_subscribed(
    robot: Callable[..., Robot]
) -> None:
    there = robot()
    with pytest.raises(ValueError, match='hold_s must be 0 or more seconds, not -1'):
        ExpressionClient(there.node, topic='/other', hold_s=-1.0)
    assert there.node.count_subscribers('/other') == 0
