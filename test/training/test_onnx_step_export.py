# SPDX-License-Identifier: Apache-2.0
"""The export of one step is checked, says what it is, and is refused where nothing can stream.

That it computes what the clip network computes is in test/inference/test_onnx_streaming.py.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models_made import description_of, small_network
from safetensors import safe_open

from fer_perception.graph.edges import load_edge_list
from fer_perception.inference.onnx_clips import STEP_NETWORK
from fer_perception.inference.onnx_streaming import OnnxStreamingPstBln
from fer_perception.models.model_file import ModelDescription, load_model, save_model
from fer_perception.models.pst_bln import PstBln
from fer_perception.models.tensor_file import DIGEST
from fer_training.cli import main
from fer_training.commands import export as export_command
from fer_training.onnx_step_export import export_step_network, largest_step_difference

onnx: Any = pytest.importorskip('onnx', reason='the export needs the extra [onnx]')
pytest.importorskip('onnxruntime', reason='the export needs the extra [onnx]')

EDGES = 12


def tiny_network(**changes: Any) -> PstBln:
    settings: dict[str, Any] = {'channels': (4, 4, 6), 'edges': EDGES, 'strides': (1, 2, 1)}
    return small_network(**(settings | changes))


def tiny_description(network: PstBln, **changes: Any) -> ModelDescription:
    edges = load_edge_list()[: network.config.edges].tolist()
    return description_of(network, edge_list=tuple((a, b) for a, b in edges), **changes)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / 'model.safetensors'
    network = tiny_network()
    save_model(path, network, tiny_description(network))
    return path


@pytest.mark.parametrize('draw_masks', [False, True])
def test_the_metadata_are_the_model_files_and_what_kind_of_network_it_is(
    draw_masks: bool, model_file: Path, tmp_path: Path
) -> None:
    network = tiny_network()
    path = tmp_path / 'new' / 'step.onnx'
    export_step_network(network, tiny_description(network), path, draw_masks=draw_masks)
    with safe_open(model_file, framework='pt') as file:
        expected = dict(file.metadata())
    del expected[DIGEST]  # that of the other file's content
    props = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert props.pop(STEP_NETWORK) == f'{{"draws_masks": {str(draw_masks).lower()}}}'
    assert props == expected
    data = path.read_bytes()
    for folder in (Path.home(), Path(__file__).parents[2], Path(sys.prefix), tmp_path):
        assert str(folder).encode() not in data


def test_the_whole_description_comes_back(tmp_path: Path) -> None:
    network = tiny_network()
    description = tiny_description(network, temperature=1.7, training={'data': 'none', 'f1': 0.5})
    export_step_network(network, description, tmp_path / 'step.onnx')
    assert OnnxStreamingPstBln(tmp_path / 'step.onnx').model == description


def test_a_network_in_training_mode_is_exported_in_evaluation_mode_and_left_alone(
    tmp_path: Path,
) -> None:
    network = tiny_network(input_norm=True).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_step_network(network, tiny_description(network), tmp_path / 'step.onnx')
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    loaded = OnnxStreamingPstBln(tmp_path / 'step.onnx', samples=2)
    assert largest_step_difference(network, loaded, frames=20) < 1e-5


@pytest.mark.parametrize(
    ('network', 'described', 'draw_masks', 'message'),
    [
        ({}, {'window': 7}, False, 'another network'),
        ({'padding': 'same'}, {}, False, 'causal'),
        ({'window': 0}, {}, False, 'window'),
        ({'dropout': 0.0}, {}, True, 'no masks to draw'),
        ({'dropout_masks': 'constant'}, {}, True, 'drawn once for each face'),
        ({'dropout_masks': 'feature_map'}, {}, True, 'drawn once for each face'),
    ],
)
def test_what_cannot_stream_is_refused(
    network: dict[str, Any],
    described: dict[str, Any],
    draw_masks: bool,
    message: str,
    tmp_path: Path,
) -> None:
    description = tiny_description(tiny_network(**(network | described)))
    with pytest.raises(ValueError, match=message):
        export_step_network(
            tiny_network(**network), description, tmp_path / 'step.onnx', draw_masks=draw_masks
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('samples', [0, 3])
def test_a_difference_is_seen(samples: int, tmp_path: Path) -> None:
    network = tiny_network()
    export_step_network(network, tiny_description(network), tmp_path / 'step.onnx')
    loaded = OnnxStreamingPstBln(tmp_path / 'step.onnx', samples=samples)
    assert largest_step_difference(network, loaded, frames=20) < 1e-5
    with torch.no_grad():
        network.head.bias[0] += 1e-2
    assert largest_step_difference(network, loaded, frames=20) > 1e-5


@pytest.mark.parametrize('changes', [{}, {'dropout': 0.0}, {'dropout_masks': 'edge'}])
def test_the_command_writes_a_checked_file(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = tiny_network(**changes)
    model_file = tmp_path / 'model.safetensors'
    save_model(model_file, network, tiny_description(network))
    out = tmp_path / 'out' / 'step.onnx'
    assert main(['export', '--streaming', '--model', str(model_file), '--out', str(out)]) == 0
    printed = capsys.readouterr().out
    assert 'differ by at most' in printed
    assert ('under the same random masks' in printed) == (network.config.dropout > 0)
    loaded = OnnxStreamingPstBln(out, samples=0)
    assert loaded.model == load_model(model_file).description
    assert not loaded.signature.draws_masks
    assert list(out.parent.iterdir()) == [out]


def test_the_command_writes_a_network_that_draws_its_masks(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out' / 'step.onnx'
    arguments = ['export', '--model', str(model_file), '--out', str(out), '--draw-masks']
    assert main(arguments) == 1
    assert_one_line(capsys, '--draw-masks needs --streaming')
    assert main([*arguments, '--streaming']) == 0
    assert 'without dropout' in capsys.readouterr().out
    assert OnnxStreamingPstBln(out, samples=0).signature.draws_masks


def test_an_export_that_computes_something_else_is_not_kept(
    model_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export_another(
        network: PstBln, description: ModelDescription, path: Path, *, draw_masks: bool
    ) -> None:
        export_step_network(tiny_network(seed=2), description, path, draw_masks=draw_masks)

    monkeypatch.setattr(export_command, 'export_step_network', export_another)
    out = tmp_path / 'out' / 'step.onnx'
    assert main(['export', '--streaming', '--model', str(model_file), '--out', str(out)]) == 1
    assert_one_line(capsys, 'differ by')
    assert not list(out.parent.iterdir())


def test_a_model_of_whole_clips_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = tiny_network()
    model_file = tmp_path / 'model.safetensors'
    save_model(model_file, network, tiny_description(network, frame_rate=0.0, clip_frames=9))
    out = tmp_path / 'step.onnx'
    assert main(['export', '--streaming', '--model', str(model_file), '--out', str(out)]) == 1
    assert_one_line(capsys, 'whole clips of 9 frames')
    assert not out.exists()


@pytest.mark.parametrize(
    ('package', 'extra'), [('onnx', '[training]'), ('onnxruntime', '[onnx]')]
)
def test_a_missing_package_is_named_with_its_extra(
    package: str,
    extra: str,
    model_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / 'step.onnx'
    assert main(['export', '--streaming', '--model', str(model_file), '--out', str(out)]) == 1
    assert_one_line(capsys, extra)
    assert list(tmp_path.iterdir()) == [model_file]


def assert_one_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
