# SPDX-License-Identifier: Apache-2.0
"""The backend is chosen by file, device and precision, and says what it chose."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_made import description_of, small_network

from fer_perception.inference import backend
from fer_perception.inference.backend import (
    BF16_BOUND,
    BackendConfig,
    bf16_deviation,
    choose_device,
    cpu_has_bf16,
    open_backend,
)
from fer_perception.models.model_file import LoadedModel, save_model
from fer_perception.models.tensor_file import ModelFileError


def loaded(**changes: Any) -> LoadedModel:
    network = small_network()
    return LoadedModel(network, description_of(network, **changes))


def test_a_model_file_is_read_by_torch(tmp_path: Path) -> None:
    model = loaded()
    path = tmp_path / 'model.safetensors'
    save_model(path, model.network, model.description)
    network, description = open_backend(path, BackendConfig(device='cpu', precision='fp32'))
    assert network.description.startswith('torch fp32 on cpu')
    assert (network.samples, description) == (100, model.description)
    assert network.stream().step(np.zeros((2, 181), np.float32)).shape == (100, 7)


def test_auto_takes_bf16_only_where_it_is_there_and_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = loaded()
    deviation = bf16_deviation(model)
    assert 0 < deviation <= BF16_BOUND
    network, _ = open_backend(model, BackendConfig(device='cpu'))
    assert network.description.startswith(f'torch {"bf16" if cpu_has_bf16() else "fp32"} on cpu')
    monkeypatch.setattr(backend, 'BF16_BOUND', deviation / 2)
    network, _ = open_backend(model, BackendConfig(device='cpu'))
    assert network.description.startswith('torch fp32 on cpu')


def test_bf16_is_close_for_the_shipped_model(shipped_model: LoadedModel) -> None:
    assert bf16_deviation(shipped_model) <= BF16_BOUND


def test_a_model_of_whole_clips_is_refused() -> None:
    with pytest.raises(ValueError, match='whole clips of 16 frames'):
        open_backend(loaded(frame_rate=0.0, clip_frames=16), BackendConfig())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match='nothing.safetensors'):
        open_backend(tmp_path / 'nothing.safetensors', BackendConfig())


@pytest.mark.parametrize(
    ('name', 'value'), [('backend', 'tensorflow'), ('device', 'tpu'), ('precision', 'fp8')]
)
def test_unknown_names_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f'{name} must be .*, not {value!r}'):
        BackendConfig(**{name: value})  # type: ignore[arg-type]


def test_a_backend_that_does_not_fit_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='fer_train export --streaming'):
        open_backend(loaded(), BackendConfig(backend='onnxruntime'))
    with pytest.raises(ValueError, match="use backend 'onnxruntime' or 'auto'"):
        open_backend(tmp_path / 'model.onnx', BackendConfig(backend='torch'))


def test_an_onnx_file_is_read_by_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='needs the extra [onnx]')
    pytest.importorskip('onnx', reason='needs the extra [training]')
    from fer_training.onnx_step_export import export_step_network

    model = loaded()
    path = tmp_path / 'model.onnx'
    export_step_network(model.network, model.description, path)
    network, description = open_backend(path, BackendConfig(device='cpu', samples=3))
    assert network.description == 'onnxruntime fp32 by CPUExecutionProvider'
    assert description == model.description
    assert network.stream().step(np.zeros((2, 181), np.float32)).shape == (3, 7)
    with pytest.raises(ValueError, match="'bf16' is for PyTorch"):
        open_backend(path, BackendConfig(precision='bf16'))


def test_devices_are_chosen_by_name() -> None:
    assert choose_device('auto') in ('cpu', 'cuda')
    assert choose_device('cpu') == 'cpu'
    with pytest.raises(ValueError, match='tpu'):
        choose_device('tpu')
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match='finds no CUDA'):
            choose_device('cuda')
