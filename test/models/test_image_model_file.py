# SPDX-License-Identifier: Apache-2.0
"""A saved image recogniser comes back whole, and a wrong file says what is wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_models_made import SMALL, small_image_model
from safetensors import safe_open
from safetensors.torch import save

from fer_perception.faces.crop import FaceCrop
from fer_perception.models.image_model_file import (
    description_from_metadata,
    description_to_metadata,
    load_image_model,
    save_image_model,
)
from fer_perception.models.model_file import load_model
from fer_perception.models.tensor_file import DIGEST, ModelFileError, digest


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small FER-GCN."""
    path = tmp_path_factory.mktemp('models') / 'small.safetensors'
    model = small_image_model('fer_gcn')
    save_image_model(path, model.network, model.description)
    return path


def rewritten(source: Path, target: Path, **changes: Any) -> Path:
    """Copy a model file with fields of its metadata changed and a digest that agrees."""
    with safe_open(source, framework='pt') as file:
        metadata = {name: text for name, text in file.metadata().items() if name != DIGEST}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, value in changes.items():
        if value is None:
            del metadata[name]
        else:
            metadata[name] = json.dumps(value)
    metadata[DIGEST] = digest(metadata, tensors)
    target.write_bytes(save(tensors, metadata=metadata))
    return target


@pytest.mark.parametrize('architecture', SMALL)
def test_save_and_load_are_equal(architecture: str, tmp_path: Path) -> None:
    model = small_image_model(architecture)
    described = replace(
        model.description, temperature=1.7, abstention_threshold=0.8, licence='none',
        training={'data': 'made'},
    )
    save_image_model(tmp_path / 'a.safetensors', model.network, described)
    loaded = load_image_model(tmp_path / 'a.safetensors')
    assert loaded.description == described
    assert loaded.description.architecture == architecture
    assert not loaded.network.training
    size = model.network.image_size
    images = torch.randn(2, model.network.frames, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.network(images), model.network(images), atol=0, rtol=0
        )


def test_metadata_keep_every_field() -> None:
    for architecture in SMALL:
        description = small_image_model(architecture).description
        metadata = description_to_metadata(description)
        assert metadata['architecture'] == json.dumps(architecture)
        assert description_from_metadata(metadata) == description


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'architecture': 'pst_bln'}, 'architecture'),
        ({'format_version': 4}, 'format_version'),
        ({'classes': ['a', 'b']}, 'classes'),
        ({'classes': ['neutral'] * 7}, 'different'),
        ({'crop': {'size': 64, 'margin': 0.1}}, 'crop'),
        ({'crop': {'size': 32}}, 'margin'),
        ({'normalization': {'grey': 'yes'}}, 'normalization'),
        ({'frame_rate': 0.0}, 'frame_rate'),
        ({'frame_rate': -1.0}, 'frame_rate'),
        ({'temperature': 0.0}, 'temperature'),
        ({'abstention_threshold': 1.5}, 'abstention_threshold'),
        ({'licence': None}, 'licence'),
        ({'extra': 1}, 'extra'),
        ({'network': {'classes': 7}}, 'network'),
        ({'training': []}, 'training'),
    ],
)
def test_wrong_fields_are_named(
    saved: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = rewritten(saved, tmp_path / 'wrong.safetensors', **changes)
    with pytest.raises(ModelFileError, match=reason) as caught:
        load_image_model(path)
    assert 'wrong.safetensors' in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'value'),
    [('frames', 10**9), ('frames', 5000), ('width', 10**12), ('features', 10**9)],
)
def test_a_hostile_size_is_refused_before_anything_is_built(
    saved: Path, tmp_path: Path, name: str, value: int
) -> None:
    with safe_open(saved, framework='pt') as file:
        network = json.loads(file.metadata()['network'])
    path = rewritten(saved, tmp_path / 'huge.safetensors', network={**network, name: value})
    with pytest.raises(ModelFileError, match=name):
        load_image_model(path)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0.0, 1.0), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(saved: Path, tmp_path: Path, place: float, bit: int) -> None:
    content = bytearray(saved.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path = tmp_path / 'flipped.safetensors'
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        load_image_model(path)


def test_each_kind_of_model_file_is_refused_by_the_other_reader(
    saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match='architecture'):
        load_model(saved)
    with pytest.raises(ModelFileError, match='does not exist'):
        load_image_model(tmp_path / 'none.safetensors')


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    model = small_image_model('fer_gcn')
    other = small_image_model('fer_gcn', width=8)
    with pytest.raises(ValueError, match='another network'):
        save_image_model(tmp_path / 'a.safetensors', other.network, model.description)
    with pytest.raises(ValueError, match='crop'):
        replace(model.description, crop=FaceCrop(size=64))
    next(model.network.parameters()).data[0] = float('nan')
    with pytest.raises(ValueError, match='not finite'):
        save_image_model(tmp_path / 'a.safetensors', model.network, model.description)
    assert not (tmp_path / 'a.safetensors').exists()
