# SPDX-License-Identifier: Apache-2.0
"""The life cycle of fer_node over real ROS: every transition, what it takes and gives back."""

import gc
import os
import subprocess
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from node_driver import FIXED, RELIABLE, Listener, image  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from fer_perception.pipeline import Pipeline  # noqa: E402

CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
)


def faces(listener: Listener) -> list[str]:
    return [face.face_id for face in listener.arrays[-1].faces]


def test_the_whole_life_by_hand(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray
) -> None:
    node = node_in_process(autostart=False)
    assert listener.state == 'unconfigured'
    assert listener.node.count_publishers('/fer/expressions') == 0
    assert listener.change_state(CONFIGURE) and listener.state == 'inactive'
    assert listener.node.count_subscribers('/fer/image') == 0
    for life in range(2):
        assert listener.change_state(ACTIVATE) and listener.state == 'active'
        listener.wait_for_node()
        assert listener.send(image(face_image, life))
        assert faces(listener) == [f'a000{life}']  # deactivating forgets the faces
        assert listener.change_state(DEACTIVATE) and listener.state == 'inactive'
        assert listener.wait(lambda: listener.images.get_subscription_count() == 0, 10.0)
    models = weakref.ref(node._pipeline)
    assert listener.change_state(CLEANUP) and listener.state == 'unconfigured'
    gc.collect()
    assert models() is None, 'cleaning up frees the models'
    assert listener.wait(lambda: listener.node.count_publishers('/fer/expressions') == 0, 10.0)
    assert listener.change_state(CONFIGURE) and listener.change_state(ACTIVATE)
    listener.wait_for_node()
    assert listener.send(image(face_image, 9))
    threads = {thread.name for thread in threading.enumerate()}
    assert 'fer_worker' in threads
    assert listener.change_state(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert listener.state == 'finalized'
    assert 'fer_worker' not in {thread.name for thread in threading.enumerate()}


def test_by_itself_it_becomes_active(
    node_in_process: Callable[..., Any], listener: Listener
) -> None:
    node_in_process()
    assert listener.state == 'active'


@pytest.mark.parametrize(
    ('parameter', 'bad', 'good', 'words'),
    [
        ('landmark_model', '/nowhere.dat', '', '/nowhere.dat'),
        ('model', '/nowhere.safetensors', '', '/nowhere.safetensors'),
        ('model', 'broken', '', 'broken.safetensors'),
        ('device', 'tpu', 'cpu', 'tpu'),
        ('backend', 'onnxruntime', 'auto', 'fer_train export --streaming'),
        ('image_transport', 'smoke', 'raw', 'smoke'),
        ('image_reliability', 'hopeful', 'reliable', 'hopeful'),
        ('hri_mode', 'friendly', 'off', 'friendly'),
    ],
)
def test_what_cannot_be_configured_says_why_and_can_be_mended(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray,
    tmp_path: Path, parameter: str, bad: str, good: Any, words: str,
) -> None:
    if bad == 'broken':
        bad = str(tmp_path / 'broken.safetensors')
        Path(bad).write_bytes(os.urandom(1000))
    node_in_process(**{parameter: bad})
    assert listener.state == 'unconfigured'
    status = listener.status()
    assert status.level == b'\x02' and words in status.message
    assert not listener.change_state(CONFIGURE) and listener.state == 'unconfigured'
    assert listener.set_parameter(parameter, good).successful
    assert listener.change_state(CONFIGURE) and listener.change_state(ACTIVATE)
    listener.wait_for_node()
    assert listener.send(image(face_image, 1)) and faces(listener) == ['a0000']
    # Not at once: a status from before the image was read calls a busy node slow.
    assert listener.wait(lambda: listener.status().level == b'\x00')


def test_models_stay_while_the_node_uses_them(
    node_in_process: Callable[..., Any], listener: Listener
) -> None:
    node_in_process()
    refused = listener.set_parameter('model', '/other.safetensors')
    assert not refused.successful and 'lifecycle' in refused.reason
    assert listener.change_state(DEACTIVATE)
    assert not listener.set_parameter('model', '/other.safetensors').successful
    assert listener.change_state(CLEANUP)
    assert listener.set_parameter('model', '/other.safetensors').successful


def test_an_error_nobody_expected_leads_back_to_unconfigured(
    node_in_process: Callable[..., Any], listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    node_in_process()
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, 'reset', lambda _: 1 / 0)
        assert not listener.change_state(DEACTIVATE)
    assert listener.state == 'unconfigured'
    assert listener.change_state(CONFIGURE) and listener.change_state(ACTIVATE)


def test_a_transition_that_the_state_has_not_is_refused(
    node_in_process: Callable[..., Any], listener: Listener
) -> None:
    node_in_process()
    for transition in (CONFIGURE, CLEANUP, 99):
        assert not listener.change_state(transition)
    named = Transition(label='configure')
    assert not listener.call(ChangeState, 'change_state', transition=named).success
    assert listener.state == 'active'


def test_a_pause_stops_reading_and_a_reset_forgets(
    node_in_process: Callable[..., Any], listener: Listener, face_image: np.ndarray
) -> None:
    node_in_process()
    listener.wait_for_node()
    assert listener.send(image(face_image, 1)) and faces(listener) == ['a0000']
    assert listener.send(image(face_image, 2)) and faces(listener) == ['a0000']
    assert listener.call(Trigger, 'reset').success
    assert listener.send(image(face_image, 3)) and faces(listener) == ['a0001']

    paused = listener.call(SetBool, 'enable', data=False)
    assert paused.success and paused.message == 'paused'
    assert listener.wait(lambda: listener.images.get_subscription_count() == 0, 10.0)
    assert 'reads no images' in listener.status().message
    assert listener.call(SetBool, 'enable', data=True).success
    listener.wait_for_node()
    assert listener.send(image(face_image, 4)) and faces(listener) == ['a0002']


def test_a_pause_outlives_the_states(
    node_in_process: Callable[..., Any], listener: Listener
) -> None:
    node_in_process(autostart=False)
    answer = listener.call(SetBool, 'enable', data=False)
    assert answer.success and 'when the node is active' in answer.message
    assert listener.change_state(CONFIGURE) and listener.change_state(ACTIVATE)
    assert listener.node.count_subscribers('/fer/image') == 0
    assert listener.call(SetBool, 'enable', data=True).success
    listener.wait_for_node()


def test_two_cameras_by_namespace(
    listener: Listener, running_node: Callable[..., subprocess.Popen[str]]
) -> None:
    for side in ('left', 'right'):
        running_node('--ros-args', *FIXED, *RELIABLE, '-r', f'__ns:=/{side}/fer')
    names = {f'fer_node: expressions of /{side}/fer/fer_node' for side in ('left', 'right')}
    assert listener.wait(
        lambda: names <= {array.status[0].name for array in listener.diagnostics}
    )
    count = listener.node.count_publishers
    topics = ('/left/fer/expressions', '/right/fer/expressions')
    assert listener.wait(lambda: [count(topic) for topic in topics] == [1, 1])
    for side in ('left', 'right'):
        assert listener.node.count_subscribers(f'/{side}/fer/image') == 1
