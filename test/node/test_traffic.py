# SPDX-License-Identifier: Apache-2.0
"""fer_node over real ROS traffic: clips in, expressions out, parameters, clean ends."""

import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')

from node_driver import FIXED, LIMIT_S, PUBLISH, RELIABLE, Listener, image, play  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from fer_msgs.msg import Expression  # noqa: E402
from fer_perception import node_outputs  # noqa: E402
from fer_perception.messages import header_message, ros_message, stamp_ns  # noqa: E402
from fer_perception.node_parameters import PARAMETERS  # noqa: E402
from fer_perception.records import ExpressionRecord  # noqa: E402
from fer_perception.uncertainty.estimate import ExpressionState  # noqa: E402


def encoded(pixels: np.ndarray, number: int, encoding: str) -> Any:
    conversions: dict[str, Callable[[], np.ndarray]] = {
        'bgr8': lambda: pixels,
        '8UC3': lambda: pixels,
        'rgb8': lambda: cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB),
        'bgra8': lambda: cv2.cvtColor(pixels, cv2.COLOR_BGR2BGRA),
        'rgba8': lambda: cv2.cvtColor(pixels, cv2.COLOR_BGR2RGBA),
        'mono8': lambda: cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[..., None],
        'yuv422': lambda: cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_UYVY),
    }
    array = conversions[encoding]()
    message = image(pixels, number)
    message.encoding = encoding
    message.step = array.shape[1] * array.shape[2]
    message.data = array.tobytes()
    return message


SMILE_STARTS_S = 17 / 30  # in the sample clip: the corners of the mouth begin to move


def confidently_happy(record: ExpressionRecord) -> bool:
    return record.expression == 'happiness' and record.state == ExpressionState.CONFIDENT


def test_sample_clip_is_neutral_then_happy(
    sample_clip: Path, listener: Listener, running_node: Callable[..., subprocess.Popen[str]]
) -> None:
    running_node('--ros-args', *FIXED, *RELIABLE)
    play(listener, sample_clip)
    assert listener.wait(lambda: len(listener.landmarks) == 72, 10.0)
    records = listener.records
    assert len(records) == 72
    times = [record.stamp_ns * 1e-9 - 1 for record in records]
    before = [r for t, r in zip(times, records, strict=True) if t < SMILE_STARTS_S]
    assert not [record for record in before if confidently_happy(record)]
    assert {r.expression for r in before if r.state == ExpressionState.CONFIDENT} == {'neutral'}
    smile = [r for t, r in zip(times, records, strict=True) if t > SMILE_STARTS_S + 0.4]
    assert sum(confidently_happy(record) for record in smile) > 0.8 * len(smile)
    assert all(record.latency_ms > 0 and record.mc_samples == 100 for record in records)


def test_a_live_camera_is_answered_with_its_stamps(
    sample_clip: Path, listener: Listener, running_node: Callable[..., subprocess.Popen[str]]
) -> None:
    """How many images are answered depends on the machine; what is answered must be right."""
    running_node('--ros-args', *FIXED, '-r', 'image:=/image_raw')
    camera = running_node(str(sample_clip), '--wait', '60', command=PUBLISH)
    assert listener.wait(lambda: camera.poll() is not None) and camera.returncode == 0
    listener.wait(lambda: False, 1.0)
    records = listener.records
    assert len(records) >= 3
    # The first images may be lost, so the clip is timed from its end, or what was seen of it.
    last_ns = max(stamp_ns(array.header) for array in listener.arrays)
    started_ns = last_ns - 71 / 30 * 1e9
    early = [r for r in records if (r.stamp_ns - started_ns) * 1e-9 < SMILE_STARTS_S - 0.2]
    assert not [record for record in early if confidently_happy(record)]


def test_clip_without_a_face_gives_empty_arrays_only(
    no_face_clip: Path, listener: Listener, running_node: Callable[..., subprocess.Popen[str]]
) -> None:
    running_node('--ros-args', *FIXED, *RELIABLE)
    play(listener, no_face_clip)
    assert len(listener.arrays) > 90
    assert all(len(array.faces) == 0 for array in listener.arrays)
    assert not listener.expressions and not listener.landmarks


def test_two_faces_keep_two_ids_that_do_not_swap(
    shared_data: Path, listener: Listener, running_node: Callable[..., subprocess.Popen[str]]
) -> None:
    running_node('--ros-args', *FIXED, *RELIABLE, '-p', 'mc_samples:=10')
    play(listener, shared_data / 'head-pose-face-detection-female-and-male.gif')
    sides: dict[str, set[bool]] = {}
    for record in listener.records:
        sides.setdefault(record.face_id, set()).add(record.roi[0] + record.roi[2] / 2 < 240)
    assert len(sides) == 2
    assert sorted(sides.values(), key=str) == [{False}, {True}]


def test_every_output_copies_the_header_and_the_picture_is_drawn(
    node_in_process: Callable[..., Any], face_image: np.ndarray
) -> None:
    node_in_process()
    listener = Listener(annotated=True)
    try:
        listener.wait_for_node()
        assert listener.wait(
            lambda: listener.node.count_subscribers('/fer/image_annotated') > 0
        )
        message = image(face_image, 1)
        assert listener.send(message)
        outputs = (listener.arrays, listener.expressions, listener.landmarks, listener.pictures)
        assert listener.wait(lambda: all(outputs))
        for output in outputs:
            assert output[0].header == message.header
        assert listener.arrays[0].faces[0] == listener.expressions[0]
        picture = listener.pictures[0]
        assert (picture.width, picture.height, picture.encoding) == (640, 360, 'bgr8')
        assert picture.data != message.data
        points = listener.landmarks[0].landmarks
        roi = listener.landmarks[0].roi
        middle = (roi.x_offset + roi.width / 2, roi.y_offset + roi.height / 2)
        assert len(points) == 68
        assert abs(np.mean([p.x for p in points]) - middle[0]) < roi.width / 4
        assert abs(np.mean([p.y for p in points]) - middle[1]) < roi.height / 4
    finally:
        listener.close()


def test_nothing_is_drawn_while_nobody_looks(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(node_outputs, 'draw_result', lambda *args: drawn.append(args))
    node_in_process()
    listener.wait_for_node()
    assert listener.send(image(face_image, 1))
    assert drawn == []


def test_all_encodings_show_the_face(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray
) -> None:
    node_in_process()
    listener.wait_for_node()
    encodings = ('bgr8', 'rgb8', 'bgra8', 'rgba8', 'mono8', '8UC3', 'yuv422')
    for number, encoding in enumerate(encodings):
        assert listener.send(encoded(face_image, number, encoding)), encoding
        assert [face.face_id for face in listener.arrays[-1].faces] == ['a0000'], encoding


def test_compressed_images_are_read(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray
) -> None:
    node_in_process(image_transport='compressed')
    listener.wait_for_node(listener.compressed)
    message = CompressedImage(
        header=image(face_image, 1).header,
        format='jpeg',
        data=cv2.imencode('.jpg', face_image)[1].tobytes(),
    )
    assert listener.send(message, listener.compressed)
    assert len(listener.arrays[-1].faces) == 1


def test_an_error_inside_ends_neither_node_nor_worker(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = node_in_process()
    listener.wait_for_node()
    with monkeypatch.context() as patch:
        patch.setattr(node_outputs, 'result_messages', lambda *_: 1 / 0)
        listener.images.publish(image(face_image, 1))
        faults = node.statistics.report
        assert listener.wait(lambda: 'ZeroDivisionError' in faults(0.0).faults, 10.0)
    assert listener.send(image(face_image, 2))


@pytest.mark.parametrize('reliability', ['RELIABLE', 'BEST_EFFORT'])
def test_the_subscription_follows_the_cameras_reliability(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray,
    reliability: str,
) -> None:
    policy = ReliabilityPolicy[reliability]
    listener.node.destroy_publisher(listener.images)
    listener.images = listener.node.create_publisher(
        Image, '/fer/image', QoSProfile(depth=1, reliability=policy)
    )
    node_in_process(image_reliability='auto')
    listener.wait_for_node()

    def matched() -> bool:
        found = listener.node.get_subscriptions_info_by_topic('/fer/image')
        return [info.qos_profile.reliability for info in found] == [policy]

    assert listener.wait(matched, 10.0)
    # Best effort may lose an image, so it gets several tries.
    assert any(listener.send(image(face_image, number)) for number in range(3))
    assert listener.wait(matched, 1.5)  # and it stays so


def test_a_camera_without_stamps_is_read_in_real_time(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray
) -> None:
    node_in_process()
    listener.wait_for_node()
    message = image(face_image, 0)
    message.header.stamp.nanosec = 0

    def answered(number: int) -> bool:
        return len(listener.arrays) > number

    for number in range(3):
        listener.images.publish(message)
        assert listener.wait(partial(answered, number), 10.0)
        time.sleep(0.1)
    assert listener.arrays[-1].faces[0].window_s > 0.1
    assert stamp_ns(listener.arrays[-1].header) == 0


def test_every_parameter_is_described_and_bounded(node_in_process: Callable[..., Any]) -> None:
    node = node_in_process()
    for name, parameter in PARAMETERS.items():
        described = node.describe_parameter(name)
        assert described.description == parameter.description != ''
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
            assert described.integer_range or described.floating_point_range
    refused = node.set_parameters([Parameter('threads', value=2)])[0]
    assert not refused.successful and 'configured' in refused.reason
    assert not node.set_parameters([Parameter('autostart', value=False)])[0].successful
    for name in ('confidence_hold_s', 'deadline_ms', 'abstention_threshold'):
        refused = node.set_parameters([Parameter(name, value=float('nan'))])[0]
        assert not refused.successful and name in refused.reason
    assert not node.set_parameters([Parameter('mc_samples', value=0)])[0].successful
    assert not node.set_parameters([Parameter('abstention_threshold', value=1.5)])[0].successful


def test_the_threshold_applies_at_once(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray
) -> None:
    node = node_in_process()
    listener.wait_for_node()
    states: list[int] = []
    for threshold in (0.0, 1.0):
        changed = node.set_parameters([Parameter('abstention_threshold', value=threshold)])
        assert changed[0].successful
        for number in range(15):
            stamp = 1_000_000_000 * (1 + len(states)) + 40_000_000 * number
            message = image(face_image, 0)
            message.header = header_message(ros_message, stamp_ns=stamp, frame_id='eye')
            assert listener.send(message)
        states.append(listener.arrays[-1].faces[0].state)
    assert states == [Expression.STATE_CONFIDENT, Expression.STATE_UNCERTAIN]


def test_margin_and_hold_apply_at_once(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray
) -> None:
    node = node_in_process()
    listener.wait_for_node()
    states: list[list[int]] = []
    for hold_s in (0.0, 30.0):
        changed = node.set_parameters(
            [
                Parameter('abstention_threshold', value=0.0),
                Parameter('confidence_margin', value=0.0),
                Parameter('confidence_hold_s', value=hold_s),
            ]
        )
        assert all(result.successful for result in changed)
        states.append([])
        for number in range(15):
            # The second time after a gap.
            stamp = 1_000_000_000 * (1 + 5 * len(states)) + 40_000_000 * number
            message = image(face_image, 0)
            message.header = header_message(ros_message, stamp_ns=stamp, frame_id='eye')
            assert listener.send(message)
            states[-1].append(listener.arrays[-1].faces[0].state)
    assert states[0][-1] == Expression.STATE_CONFIDENT
    assert Expression.STATE_UNCERTAIN not in states[0]
    assert states[1][-1] == Expression.STATE_UNCERTAIN
    assert Expression.STATE_CONFIDENT not in states[1]
    for name, value in (('confidence_margin', 1.5), ('confidence_hold_s', -1.0)):
        assert not node.set_parameters([Parameter(name, value=value)])[0].successful


def test_samples_and_deadline_apply_at_once(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray
) -> None:
    node = node_in_process()
    listener.wait_for_node()
    used: list[int] = []
    for number, (name, value) in enumerate(
        [('mc_samples', 30), ('deadline_ms', 0.001), ('deadline_ms', 0.0), ('mc_samples', 60)]
    ):
        assert node.set_parameters([Parameter(name, value=value)])[0].successful
        for part in range(2):  # the first tells what a sample costs
            message = image(face_image, 0)
            stamp = 1_000_000_000 + 40_000_000 * (2 * number + part)
            message.header = header_message(ros_message, stamp_ns=stamp, frame_id='eye')
            assert listener.send(message)
        used.append(listener.arrays[-1].faces[0].mc_samples)
    assert used == [30, 10, 30, 60]


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_node_cleanly(
    how: signal.Signals, listener: Listener,
    running_node: Callable[..., subprocess.Popen[str]],
) -> None:
    process = running_node('--ros-args', *FIXED)
    listener.wait_for_node()
    process.send_signal(how)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0, output
    assert 'Traceback' not in output


def test_a_second_interrupt_does_not_break_off_the_end(
    listener: Listener, running_node: Callable[..., subprocess.Popen[str]]
) -> None:
    """Under ros2 launch, Ctrl-C reaches the node from the terminal and from launch."""
    process = running_node('--ros-args', *FIXED)
    listener.wait_for_node()
    process.send_signal(signal.SIGINT)
    time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0, output
    assert 'Traceback' not in output


def test_stray_words_are_refused(running_node: Callable[..., subprocess.Popen[str]]) -> None:
    process = running_node('happiness')
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2 and 'happiness' in output


@pytest.mark.parametrize('value', ['0', '1001', 'many'])
def test_a_parameter_out_of_its_range_says_why_in_one_line(
    value: str, running_node: Callable[..., subprocess.Popen[str]]
) -> None:
    process = running_node('--ros-args', '-p', f'mc_samples:={value}')
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert 'mc_samples' in output and 'Traceback' not in output


def test_states_of_messages_are_those_of_the_package() -> None:
    named = SimpleNamespace(**{state.name: state for state in ExpressionState})
    assert Expression.STATE_UNKNOWN == named.UNKNOWN
    assert Expression.STATE_WARMING_UP == named.WARMING_UP
    assert Expression.STATE_CONFIDENT == named.CONFIDENT
    assert Expression.STATE_UNCERTAIN == named.UNCERTAIN
