# SPDX-License-Identifier: Apache-2.0
"""Monte Carlo dropout by ONNX Runtime samples as torch does; what is no model is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_made import description_of, small_network
from scipy import stats

from fer_perception.graph.edges import load_edge_list
from fer_perception.inference.monte_carlo import MonteCarloDropout
from fer_perception.inference.onnx_clips import OnnxMonteCarlo
from fer_perception.models.dropout import MASK_KINDS, mask_shape
from fer_perception.models.model_file import ModelDescription
from fer_perception.models.pst_bln import PstBln
from fer_perception.models.tensor_file import ModelFileError
from fer_training.onnx_export import export_onnx

onnx: Any = pytest.importorskip('onnx', reason='ONNX models need the extra [onnx]')
pytest.importorskip('onnxruntime', reason='ONNX models need the extra [onnx]')

EDGES = 12
TEMPERATURE = 1.6


def tiny_network(**changes: Any) -> PstBln:
    return small_network(**({'edges': EDGES, 'dropout': 0.4} | changes))


def tiny_description(network: PstBln) -> ModelDescription:
    edges = tuple((a, b) for a, b in load_edge_list()[:EDGES].tolist())
    return description_of(network, edge_list=edges, temperature=TEMPERATURE)


def write(network: PstBln, path: Path) -> Path:
    export_onnx(network, tiny_description(network), path)
    return path


@pytest.fixture(scope='module')
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tiny_network(), tmp_path_factory.mktemp('onnx') / 'model.onnx')


def clips(count: int, frames: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2, frames, EDGES)).astype(np.float32)


def test_samples_are_probabilities_of_every_clip(model_path: Path) -> None:
    onnx_clips = OnnxMonteCarlo(model_path, samples=11)
    for count, frames in ((1, 1), (3, 9), (2, 300)):
        samples = onnx_clips(clips(count, frames))
        assert samples.shape == (11, count, 7)
        assert samples.dtype == np.float32
        np.testing.assert_allclose(samples.sum(-1), 1.0, atol=1e-6)
        assert samples.std(0).min() > 0


@pytest.mark.parametrize(
    ('position', 'kind'), [('before', 'element'), *(('after', kind) for kind in MASK_KINDS)]
)
def test_samples_are_distributed_as_torchs(position: str, kind: str, tmp_path: Path) -> None:
    """The law, mean and spread of every class.

    Kolmogorov-Smirnov, Welch and Levene tests of 7 classes and 2 clips, 42 in all: other seeds
    would fail once in 10,000 runs if both are the same.
    """
    network = tiny_network(dropout_position=position, dropout_masks=kind)
    path = write(network, tmp_path / 'model.onnx')
    vectors = clips(2, 7)
    ours = OnnxMonteCarlo(path, samples=1500, seed=1)(vectors)
    torchs = MonteCarloDropout(network, samples=1500, temperature=TEMPERATURE, seed=2)(
        torch.from_numpy(vectors)
    ).numpy()
    values = [
        value
        for clip in range(2)
        for k in range(7)
        for value in (
            stats.ks_2samp(ours[:, clip, k], torchs[:, clip, k]).pvalue,
            stats.ttest_ind(ours[:, clip, k], torchs[:, clip, k], equal_var=False).pvalue,
            stats.levene(ours[:, clip, k], torchs[:, clip, k]).pvalue,
        )
    ]
    assert min(values) > 1e-4 / 42


def test_every_sample_and_every_clip_has_masks_of_its_own(model_path: Path) -> None:
    samples = OnnxMonteCarlo(model_path, samples=60, seed=1)(np.repeat(clips(1, 50), 2, axis=0))
    rows = samples.reshape(120, 7)  # (S * N, classes)
    assert len(np.unique(rows, axis=0)) == 120


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_masks_keep_the_mean_and_drop_the_rate(kind: str, tmp_path: Path) -> None:
    network = tiny_network(dropout_masks=kind)
    loaded = OnnxMonteCarlo(write(network, tmp_path / 'model.onnx'), seed=1)
    for mask, width in zip(loaded.draw_masks(200, 40), network.config.channels, strict=True):
        assert mask.shape == mask_shape(kind, (200, width, 40, EDGES))
        assert mask.dtype == np.float32
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.6)}
        # Five standard errors; another seed would fail once in two million runs.
        assert abs((mask == 0).mean() - 0.4) < 5 * (0.4 * 0.6 / mask.size) ** 0.5


def test_same_seed_same_samples(model_path: Path) -> None:
    vectors = clips(2, 9)
    first = OnnxMonteCarlo(model_path, samples=5, seed=3)(vectors)
    np.testing.assert_array_equal(first, OnnxMonteCarlo(model_path, samples=5, seed=3)(vectors))
    assert (first != OnnxMonteCarlo(model_path, samples=5, seed=4)(vectors)).any()
    assert (first != OnnxMonteCarlo(model_path, samples=5)(vectors)).any()


def test_single_pass_is_torch_in_evaluation_mode_before_and_after_samples(
    model_path: Path,
) -> None:
    onnx_clips = OnnxMonteCarlo(model_path, samples=3)
    vectors = clips(50, 40)  # several passes
    with torch.no_grad():
        logits = tiny_network()(torch.from_numpy(vectors))
    expected = (logits / TEMPERATURE).softmax(-1).numpy()
    first = onnx_clips.single_pass(vectors)
    np.testing.assert_allclose(first, expected, atol=1e-5)
    onnx_clips(vectors[:2])
    np.testing.assert_array_equal(onnx_clips.single_pass(vectors), first)


def test_one_clip_serves_many_masks(model_path: Path) -> None:
    onnx_clips = OnnxMonteCarlo(model_path, seed=1)
    vectors, masks = clips(1, 9), onnx_clips.draw_masks(6, 9)
    np.testing.assert_allclose(
        onnx_clips.logits(vectors, masks),
        onnx_clips.logits(np.repeat(vectors, 6, axis=0), masks),
        atol=1e-6,
    )


def test_other_number_types_and_memory_layouts_are_read(model_path: Path) -> None:
    onnx_clips = OnnxMonteCarlo(model_path)
    vectors = clips(2, 9)
    expected = onnx_clips.single_pass(vectors)
    np.testing.assert_array_equal(onnx_clips.single_pass(vectors.astype(float)), expected)
    turned = np.asfortranarray(vectors)
    np.testing.assert_array_equal(onnx_clips.single_pass(turned), expected)


@pytest.mark.parametrize('shape', [(2, 9, 12), (1, 3, 9, 12), (1, 2, 9, 13), (0, 2, 9, 12),
                                   (1, 2, 0, 12)])
def test_clips_of_another_shape_are_refused(model_path: Path, shape: tuple[int, ...]) -> None:
    onnx_clips = OnnxMonteCarlo(model_path)
    for method in (onnx_clips, onnx_clips.single_pass):
        with pytest.raises(ValueError, match='the input must'):
            method(np.zeros(shape))


def test_masks_of_another_shape_are_refused(model_path: Path) -> None:
    onnx_clips = OnnxMonteCarlo(model_path)
    good = onnx_clips.draw_masks(2, 9)
    for masks in ([], good[:1], [good[0], good[1][:, :, :5]], onnx_clips.draw_masks(3, 9)):
        with pytest.raises(ValueError, match='masks for 2 clips'):
            onnx_clips.logits(clips(2, 9), masks)


def test_what_cannot_be_sampled_is_refused(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='samples'):
        OnnxMonteCarlo(model_path, samples=0)
    with pytest.raises(ValueError, match='threads'):
        OnnxMonteCarlo(model_path, threads=0)
    without = OnnxMonteCarlo(write(tiny_network(dropout=0.0), tmp_path / 'without.onnx'))
    with pytest.raises(ValueError, match='with dropout'):
        without(clips(1, 9))
    assert without.single_pass(clips(1, 9)).shape == (1, 7)


def test_providers_that_this_machine_lacks_fall_back_to_the_processor(model_path: Path) -> None:
    with pytest.warns(UserWarning, match='no NeverExecutionProvider'):
        onnx_clips = OnnxMonteCarlo(
            model_path, providers=['NeverExecutionProvider', 'CPUExecutionProvider']
        )
    assert onnx_clips.providers == ['CPUExecutionProvider']
    np.testing.assert_array_equal(
        onnx_clips.single_pass(clips(2, 9)), OnnxMonteCarlo(model_path).single_pass(clips(2, 9))
    )


def test_threads_do_not_change_the_answer(model_path: Path) -> None:
    np.testing.assert_allclose(
        OnnxMonteCarlo(model_path, threads=2).single_pass(clips(2, 9)),
        OnnxMonteCarlo(model_path).single_pass(clips(2, 9)),
        atol=1e-6,
    )


def test_without_onnxruntime_the_extra_is_named(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match=r'\[onnx\]'):
        OnnxMonteCarlo(model_path)


def set_metadata(model: Any, **values: str | None) -> None:
    props = {entry.key: entry.value for entry in model.metadata_props} | values
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {k: v for k, v in props.items() if v is not None})


def set_weights(model: Any, value: float) -> None:
    bias = next(item for item in model.graph.initializer if item.name.endswith('head.bias'))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(7, value, 'f4'), bias.name))


def rename_input(model: Any, name: str) -> None:
    for node in model.graph.node:
        node.input[:] = [name if item == model.graph.input[0].name else item
                         for item in node.input]
    model.graph.input[0].name = name


def read_other_files(model: Any) -> None:
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, 'elsewhere')
    tensor.ClearField('raw_data')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda m: m.ClearField('metadata_props'), 'no description'),
        (lambda m: set_metadata(m, format_version='99'), 'format_version is 99'),
        (lambda m: set_metadata(m, format_version=None), 'format_version is None'),
        (lambda m: set_metadata(m, architecture='"cnn"'), "'cnn'"),
        (lambda m: set_metadata(m, colour='"red"'), 'unknown fields: colour'),
        (lambda m: set_metadata(m, edge_list=None), 'lacks fields: edge_list'),
        (lambda m: set_metadata(m, classes='{not json'), "'classes' is no JSON"),
        (lambda m: set_metadata(m, temperature='NaN'), 'temperature'),
        (lambda m: set_metadata(m, network='[]'), "'network'"),
        (lambda m: change_network(m, channels=[4, 5]), 'mask_1 is'),
        (lambda m: change_network(m, channels=[4] * 3, strides=[1] * 3), 'has the inputs'),
        (lambda m: change_network(m, strides=[2, 1]), 'cannot be run'),
        (lambda m: change_network(m, dropout_masks='edge'), 'mask_0 is'),
        (lambda m: change_network(m, dropout_masks='constant'), 'mask_0 is'),
        (lambda m: rename_input(m, 'input.1'), 'has the inputs input.1'),
        (lambda m: set_weights(m, np.nan), 'no finite logits'),
        (read_other_files, 'no ONNX file that can be run'),
        (lambda m: m.graph.node[0].__setattr__('op_type', 'Nothing'), 'can be run'),
    ],
)
def test_every_defect_is_refused_by_name_in_one_line(
    model_path: Path,
    tmp_path: Path,
    change: Callable[[Any], Any],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = onnx.load(str(model_path))
    change(model)
    path = tmp_path / 'changed.onnx'
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=message) as refusal:
        OnnxMonteCarlo(path)
    assert path.name in str(refusal.value) and '\n' not in str(refusal.value)
    output = capfd.readouterr()
    assert not output.out and not output.err  # nor does ONNX Runtime log anything


def change_network(model: Any, **values: object) -> None:
    (text,) = [entry.value for entry in model.metadata_props if entry.key == 'network']
    set_metadata(model, network=json.dumps(json.loads(text) | values))


def test_foreign_truncated_and_missing_files_are_refused(
    model_path: Path, tmp_path: Path
) -> None:
    whole = model_path.read_bytes()
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node('Relu', ['x'], ['y'])],
            'foreign',
            [onnx.helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1, 3])],
            [onnx.helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, [1, 3])],
        ),
        ir_version=8,
        opset_imports=[onnx.helper.make_opsetid('', 17)],
    )
    for name, data in (
        ('foreign', foreign.SerializeToString()),
        ('truncated', whole[: len(whole) // 2]),
        ('text', b'no model at all'),
        ('empty', b''),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=name) as refusal:
            OnnxMonteCarlo(path)
        assert '\n' not in str(refusal.value)
    with pytest.raises(ModelFileError, match='does not exist'):
        OnnxMonteCarlo(tmp_path / 'nowhere')


@settings(deadline=None, max_examples=40, derandomize=True)
@given(position=st.integers(1, 1500), value=st.integers(0, 255))
def test_a_damaged_description_never_loads_as_what_does_not_work(
    model_path: Path, tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    data = bytearray(model_path.read_bytes())
    data[-position] = value  # the description is at the end
    path = tmp_path_factory.mktemp('damaged') / 'model.onnx'
    path.write_bytes(data)
    try:
        loaded = OnnxMonteCarlo(path)
    except ModelFileError:
        return
    assert loaded.single_pass(clips(1, 3)).shape == (1, 7)
