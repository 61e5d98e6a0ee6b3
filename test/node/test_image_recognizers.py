# SPDX-License-Identifier: Apache-2.0
"""fer_node reads faces by their images, or by images and landmarks together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')

from image_models_made import SMALL, small_image_model  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from node_driver import Listener, play  # noqa: E402

from fer_perception.models.image_model_file import save_image_model  # noqa: E402

CASES = [*((name, name) for name in SMALL), ('fused', 'fer_gcn')]


@pytest.mark.parametrize(('recognizer', 'architecture'), CASES)
def test_the_sample_clip_is_read_by_every_recogniser(
    recognizer: str,
    architecture: str,
    tmp_path: Path,
    sample_clip: Path,
    listener: Listener,
    node_in_process: Callable[..., Any],
) -> None:
    model = small_image_model(architecture)
    save_image_model(tmp_path / 'a.safetensors', model.network, model.description)
    node_in_process(recognizer=recognizer, image_model=str(tmp_path / 'a.safetensors'))
    listener.wait_for_node()
    play(listener, sample_clip)
    records = listener.records
    assert len(records) > 15
    assert {record.face_id for record in records} == {'a0000'}
    for record in records:
        assert np.isclose(sum(record.probabilities), 1.0, atol=1e-4)
    status = {item.key: item.value for item in listener.status().values}
    assert architecture in status['network']
    assert status['image model'].endswith('a.safetensors')


def test_a_missing_model_leaves_the_node_unconfigured_until_it_is_given(
    tmp_path: Path, listener: Listener, node_in_process: Callable[..., Any]
) -> None:
    node_in_process(recognizer='part_ensemble')
    assert 'needs image_model' in listener.status().message
    model = small_image_model('part_ensemble')
    save_image_model(tmp_path / 'a.safetensors', model.network, model.description)
    assert listener.set_parameter('image_model', str(tmp_path / 'a.safetensors')).successful
    assert listener.change_state(Transition.TRANSITION_CONFIGURE)
    assert listener.state == 'inactive'
