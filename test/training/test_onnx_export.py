# SPDX-License-Identifier: Apache-2.0
"""An exported network computes what torch computes, under any masks, and says what it is."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models_made import description_of, small_network
from safetensors import safe_open

from fer_perception.graph.edges import load_edge_list
from fer_perception.inference.onnx_clips import OnnxMonteCarlo
from fer_perception.models.dropout import MASK_KINDS, SHARED_AXES
from fer_perception.models.model_file import ModelDescription, load_model, save_model
from fer_perception.models.pst_bln import PstBln
from fer_perception.models.tensor_file import DIGEST
from fer_training.cli import main
from fer_training.commands import export as export_command
from fer_training.onnx_export import MaskedPstBln, export_onnx, largest_difference

onnx: Any = pytest.importorskip('onnx', reason='the export needs the extra [onnx]')
pytest.importorskip('onnxruntime', reason='the export needs the extra [onnx]')

EDGES = 12


def tiny_network(**changes: Any) -> PstBln:
    settings: dict[str, Any] = {'channels': (4, 4, 6), 'edges': EDGES}
    return small_network(**(settings | changes))


def tiny_description(network: PstBln, **changes: Any) -> ModelDescription:
    edges = load_edge_list()[: network.config.edges].tolist()
    return description_of(network, edge_list=tuple((a, b) for a, b in edges), **changes)


def exported(network: PstBln, folder: Path, **changes: Any) -> OnnxMonteCarlo:
    path = folder / 'model.onnx'
    export_onnx(network, tiny_description(network), path, **changes)
    return OnnxMonteCarlo(path, seed=1)


def assert_equal(network: PstBln, loaded: OnnxMonteCarlo) -> None:
    """Compare with random masks and with ones, for several numbers of clips and of frames."""
    masked = MaskedPstBln(network)
    longest = network.config.window + 2 * network.config.total_stride + 7
    for clips, frames in ((1, 1), (2, 3), (3, longest)):
        vectors = torch.randn(clips, 2, frames, network.config.edges)
        masks = loaded.draw_masks(clips, frames)
        with torch.no_grad():
            expected = masked(vectors, *(torch.from_numpy(mask) for mask in masks))
            plain = network(vectors)
        np.testing.assert_allclose(
            loaded.logits(vectors.numpy(), masks), expected, rtol=0, atol=1e-5
        )
        ones = [np.ones_like(mask) for mask in masks]
        np.testing.assert_allclose(loaded.logits(vectors.numpy(), ones), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'padding': 'same'},
        {'window': 0},
        {'strides': (1, 2, 1)},
        {'strides': (2, 1, 2), 'padding': 'same', 'window': 0},
        {'subsets': 3},
        {'dropout_position': 'before'},
        {'dropout_position': 'before', 'strides': (2, 2, 1)},
        {'input_norm': True},
        {'first_outer_residual': False},
        {'channels': (5,)},
        {'dropout': 0.0},
        *({'dropout_masks': kind} for kind in MASK_KINDS[1:]),
        {'dropout_masks': 'constant', 'dropout_position': 'before', 'strides': (2, 2, 1)},
        {  # the reference
            'subsets': 3, 'strides': (1, 2, 1), 'padding': 'same', 'dropout_position': 'before',
            'input_norm': True, 'first_outer_residual': False, 'window': 0,
        },
    ],
    ids=str,
)
def test_every_variant_equals_torch(changes: dict[str, Any], tmp_path: Path) -> None:
    network = tiny_network(**changes)
    assert_equal(network, exported(network, tmp_path))


@settings(
    deadline=None, max_examples=8, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_configuration_equals_torch(data: st.DataObject, tmp_path: Path) -> None:
    layers = data.draw(st.integers(1, 3))
    network = tiny_network(
        channels=data.draw(st.tuples(*[st.integers(1, 5)] * layers)),
        strides=data.draw(st.tuples(*[st.integers(1, 3)] * layers)),
        classes=7,
        edges=data.draw(st.integers(1, 9)),
        subsets=data.draw(st.sampled_from((1, 3))),
        kernel_size=data.draw(st.sampled_from((1, 3, 5))),
        padding=data.draw(st.sampled_from(('causal', 'same'))),
        window=data.draw(st.integers(0, 9)),
        dropout=data.draw(st.floats(0.0, 0.9)),
        dropout_position=data.draw(st.sampled_from(('after', 'before'))),
        dropout_masks=data.draw(st.sampled_from(MASK_KINDS)),
        input_norm=data.draw(st.booleans()),
        first_outer_residual=data.draw(st.booleans()),
    )
    assert_equal(network, exported(network, tmp_path))


def test_without_constant_folding_it_is_the_same_network(tmp_path: Path) -> None:
    network = tiny_network(input_norm=True)
    assert_equal(network, exported(network, tmp_path, constant_folding=False))


def test_a_network_in_training_mode_is_exported_in_evaluation_mode_and_left_alone(
    tmp_path: Path,
) -> None:
    network = tiny_network(input_norm=True).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    loaded = exported(network, tmp_path)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert_equal(network.eval(), loaded)


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_given_masks_do_what_drawn_masks_do(kind: str, tmp_path: Path) -> None:
    network = tiny_network(dropout_masks=kind)
    clips = torch.randn(2, 2, 9, EDGES)
    drawn: list[torch.Tensor] = []
    for dropout in network.dropouts:
        dropout.train()
        dropout.register_forward_hook(
            lambda _, inputs, output: drawn.append(
                torch.where(inputs[0] == 0, 0.0, output / inputs[0])
            )
        )
    with torch.no_grad():
        expected = network(clips)
        network.dropouts.eval()
        torch.testing.assert_close(MaskedPstBln(network)(clips, *drawn), expected)
    shapes = network.config.dropout_shapes(clips=2, frames=9)
    assert [tuple(mask.shape) for mask in drawn] == shapes
    # Where a feature is zero its mask cannot be told, but that of one which shares it can.
    masks = [
        mask.amax(SHARED_AXES[kind], keepdim=True) if SHARED_AXES[kind] else mask
        for mask in drawn
    ]
    logits = exported(network, tmp_path).logits(clips.numpy(), [mask.numpy() for mask in masks])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_the_description_comes_back_and_nothing_of_this_machine_is_in_the_file(
    tmp_path: Path,
) -> None:
    network = tiny_network(strides=(1, 2, 1))
    description = tiny_description(network, temperature=1.7, training={'data': 'none', 'f1': 0.5})
    path = tmp_path / 'new' / 'model.onnx'
    export_onnx(network, description, path)
    assert OnnxMonteCarlo(path).description == description
    data = path.read_bytes()
    for folder in (Path.home(), Path(__file__).parents[2], Path(sys.prefix), tmp_path):
        assert str(folder).encode() not in data


def test_the_model_file_and_the_export_hold_the_same_metadata(tmp_path: Path) -> None:
    network = tiny_network()
    save_model(tmp_path / 'm.safetensors', network, tiny_description(network))
    export_onnx(network, tiny_description(network), tmp_path / 'm.onnx')
    with safe_open(tmp_path / 'm.safetensors', framework='pt') as file:
        expected = dict(file.metadata())
    del expected[DIGEST]  # that of the other file's content
    props = onnx.load(str(tmp_path / 'm.onnx')).metadata_props
    assert {entry.key: entry.value for entry in props} == expected


def test_the_description_of_another_network_is_refused(tmp_path: Path) -> None:
    description = tiny_description(tiny_network())
    with pytest.raises(ValueError, match='another network'):
        export_onnx(tiny_network(channels=(3,)), description, tmp_path / 'm.onnx')
    assert not list(tmp_path.iterdir())


def test_a_difference_is_seen(tmp_path: Path) -> None:
    network = tiny_network()
    loaded = exported(network, tmp_path)
    assert largest_difference(network, loaded, frames=(1, 9)) < 1e-5
    with torch.no_grad():
        network.head.bias[0] += 1e-3
    assert largest_difference(network, loaded, frames=(1, 9)) > 1e-4


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / 'model.safetensors'
    network = tiny_network(strides=(1, 2, 1))
    save_model(path, network, tiny_description(network))
    return path


def test_the_command_writes_a_checked_file(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out' / 'model.onnx'
    assert main(['export', '--model', str(model_file), '--out', str(out)]) == 0
    assert 'differ by at most' in capsys.readouterr().out
    assert OnnxMonteCarlo(out).description == load_model(model_file).description
    assert list(out.parent.iterdir()) == [out]


def test_an_export_that_computes_something_else_is_not_kept(
    model_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export_another(network: PstBln, description: ModelDescription, path: Path) -> None:
        export_onnx(tiny_network(seed=2, strides=(1, 2, 1)), description, path)

    monkeypatch.setattr(export_command, 'export_onnx', export_another)
    out = tmp_path / 'out' / 'model.onnx'
    assert main(['export', '--model', str(model_file), '--out', str(out)]) == 1
    assert_one_line(capsys, 'differ by')
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize(
    ('change', 'out', 'message'),
    [
        (lambda path: None, 'model.safetensors', 'must end in .onnx'),
        (lambda path: path.unlink(), 'model.onnx', 'does not exist'),
        (lambda path: path.write_bytes(b'{}'), 'model.onnx', 'no readable safetensors'),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    change: Callable[[Path], object],
    out: str,
    message: str,
    model_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(model_file)
    target = tmp_path / 'out' / out
    assert main(['export', '--model', str(model_file), '--out', str(target)]) == 1
    assert_one_line(capsys, message)
    assert not target.exists()


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
    arguments = ['export', '--model', str(model_file), '--out', str(tmp_path / 'm.onnx')]
    assert main(arguments) == 1
    assert_one_line(capsys, extra)
    assert list(tmp_path.iterdir()) == [model_file]


def assert_one_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


@pytest.mark.parametrize('position', ['after', 'before'])
def test_dropout_shapes_are_what_the_dropouts_see(position: str) -> None:
    network = tiny_network(strides=(2, 1, 3), dropout_position=position)
    seen: list[tuple[int, ...]] = []
    for dropout in network.dropouts:
        dropout.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    for frames in (1, 5, 12):
        seen.clear()
        network(torch.randn(2, 2, frames, EDGES))
        assert seen == network.config.dropout_shapes(clips=2, frames=frames)
