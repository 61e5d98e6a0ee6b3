# SPDX-License-Identifier: Apache-2.0
"""A step network streams what the clip network computes; what is no step network is refused."""

import io
import json
import pickle
import sys
from collections.abc import Callable
from itertools import product
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
from fer_perception.inference.monte_carlo import only_dropout_active
from fer_perception.inference.onnx_clips import OnnxMonteCarlo
from fer_perception.inference.onnx_streaming import (
    FRAME,
    LOGITS,
    POSITIONS,
    OnnxStreamingPstBln,
    mask,
    ring_in,
    ring_out,
)
from fer_perception.inference.streaming import TorchStreamingPstBln
from fer_perception.models.dropout import MASK_KINDS, lasts
from fer_perception.models.model_file import ModelDescription
from fer_perception.models.pst_bln import PstBln
from fer_perception.models.tensor_file import ModelFileError
from fer_training.onnx_export import export_onnx
from fer_training.onnx_step_export import (
    export_step_network,
    largest_step_difference,
    masks_at,
)

onnx: Any = pytest.importorskip('onnx', reason='ONNX models need the extra [onnx]')
pytest.importorskip('onnxruntime', reason='ONNX models need the extra [onnx]')

# A file that draws its masks is for a GPU, which warns on the CPU; one test expects that.
pytestmark = pytest.mark.filterwarnings('ignore:.*draws its masks itself')

EDGES = 12
VARIANTS = list(
    product(
        (1, 3),  # subsets
        ((1, 1, 1), (1, 2, 1), (2, 1, 2)),  # strides
        (1, 5, 40),  # window
        ('after', 'before'),
        (False, True),  # reference's input norm and missing first residual
    )
)


def tiny_network(**changes: Any) -> PstBln:
    return small_network(**({'edges': EDGES, 'dropout': 0.3} | changes))


def tiny_description(network: PstBln) -> ModelDescription:
    edges = tuple((a, b) for a, b in load_edge_list()[: network.config.edges].tolist())
    return description_of(network, edge_list=edges, temperature=1.6)


def write(network: PstBln, path: Path, *, draw_masks: bool = False) -> Path:
    export_step_network(network, tiny_description(network), path, draw_masks=draw_masks)
    return path


@pytest.fixture(scope='module')
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tiny_network(), tmp_path_factory.mktemp('onnx') / 'step.onnx')


@pytest.fixture(scope='module')
def drawing_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tiny_network(), tmp_path_factory.mktemp('onnx') / 'draw.onnx', draw_masks=True)


def random_clip(frames: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, frames, EDGES)).astype(np.float32)


def clip_logits(network: PstBln, clip: np.ndarray) -> np.ndarray:
    """Compute the logits of the clip network after every frame: (T, classes)."""
    with torch.no_grad():
        logits = network.logits_over_time(torch.from_numpy(clip)[None])[0]  # (T', classes)
    stride = network.config.total_stride
    return logits.repeat_interleave(stride, dim=0)[: clip.shape[1]].numpy()


def assert_streams_as_clips(network: PstBln, path: Path, *, frames: int = 30) -> None:
    """Compare every frame with dropout off and, if there is dropout, under random masks."""
    write(network, path)
    for samples in (0, 3) if network.config.dropout else (0,):
        streaming = OnnxStreamingPstBln(path, samples=samples)
        assert largest_step_difference(network, streaming, frames=frames) < 1e-5
    clip = random_clip(frames)
    streamed = OnnxStreamingPstBln(path, samples=0).stream().clip(clip)
    assert streamed.shape == (frames, 1, 7) and streamed.dtype == np.float32
    np.testing.assert_allclose(streamed[:, 0], clip_logits(network, clip), rtol=0, atol=1e-5)


@pytest.mark.parametrize(('subsets', 'strides', 'window', 'position', 'reference'), VARIANTS)
def test_streaming_equals_the_clip_at_every_frame(
    subsets: int,
    strides: tuple[int, ...],
    window: int,
    position: str,
    reference: bool,
    tmp_path: Path,
) -> None:
    network = tiny_network(
        channels=(4, 4, 6, 3),  # the topology comes first, and W
        subsets=subsets,
        strides=(*strides, 1),
        window=window,
        dropout_position=position,
        input_norm=reference,
        first_outer_residual=not reference,
    )
    assert_streams_as_clips(network, tmp_path / 'step.onnx')


@pytest.mark.parametrize(
    'changes',
    [
        {'channels': (5,)},
        {'channels': (1,), 'strides': (3,), 'dropout_position': 'before'},
        {'channels': (2, 2), 'strides': (1, 3)},
        {'channels': (15, 10, 15, 5, 5, 10), 'subsets': 3, 'kernel_size': 9, 'window': 12},
        {'kernel_size': 1},
        {'dropout': 0.0},
        {'dropout': 0.0, 'strides': (2, 1)},
        {'dropout': 0.9},
        *({'dropout_masks': kind} for kind in MASK_KINDS[1:]),
        {'dropout_masks': 'constant', 'dropout_position': 'before', 'strides': (2, 2)},
    ],
    ids=str,
)
def test_other_networks_stream_as_well(changes: dict[str, Any], tmp_path: Path) -> None:
    assert_streams_as_clips(tiny_network(**changes), tmp_path / 'step.onnx', frames=70)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(data=st.data())
def test_any_configuration_streams(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    layers = data.draw(st.integers(1, 4))
    network = tiny_network(
        channels=data.draw(st.tuples(*[st.integers(1, 5)] * layers)),
        strides=data.draw(st.tuples(*[st.integers(1, 3)] * layers)),
        subsets=data.draw(st.sampled_from((1, 2, 3))),
        kernel_size=data.draw(st.integers(1, 9)),
        window=data.draw(st.integers(1, 20)),
        dropout=data.draw(st.floats(0.0, 0.9)),
        dropout_position=data.draw(st.sampled_from(('after', 'before'))),
        dropout_masks=data.draw(st.sampled_from(MASK_KINDS)),
        input_norm=data.draw(st.booleans()),
        first_outer_residual=data.draw(st.booleans()),
    )
    assert_streams_as_clips(network, tmp_path_factory.mktemp('any') / 'step.onnx')


@pytest.mark.parametrize('position', ['after', 'before'])
@pytest.mark.parametrize('kind', MASK_KINDS)
@pytest.mark.parametrize('strides', [(1, 1, 1), (1, 2, 1)])
def test_under_given_masks_it_equals_torch(
    position: str, kind: str, strides: tuple[int, ...], tmp_path: Path
) -> None:
    network = tiny_network(
        channels=(4, 4, 3), dropout_position=position, dropout_masks=kind, strides=strides
    )
    frames, samples = 13, 3
    shapes = network.config.mask_shapes(clips=samples, frames=frames)
    generator = np.random.default_rng(1)
    of_clip = [(generator.random(shape) >= 0.3).astype('f4') for shape in shapes]
    masks = [masks_at(network, of_clip, frame=t) for t in range(frames)]
    path = write(network, tmp_path / 'step.onnx')
    ours = OnnxStreamingPstBln(path, samples=samples).stream()
    torchs = TorchStreamingPstBln(network, samples=samples).stream()
    clip = random_clip(frames)
    np.testing.assert_allclose(
        ours.clip(clip, masks=masks), torchs.clip(clip, masks=masks), rtol=0, atol=1e-5
    )


def test_a_mask_for_all_samples_or_channels_or_edges_is_broadcast(model_path: Path) -> None:
    stream = OnnxStreamingPstBln(model_path, samples=3).stream()
    clip, whole = random_clip(8), (4, 3, EDGES)
    for shape in ((1, 1, 1), (4, 1, EDGES), (1, 3, EDGES), (4, 3, 1), whole):
        kept = np.random.default_rng(1).random(shape) >= 0.3
        given_masks = [[kept, kept]] * 8
        spread = [[np.broadcast_to(kept, whole).astype('f8')] * 2] * 8
        np.testing.assert_array_equal(
            stream.clip(clip, masks=given_masks), stream.clip(clip, masks=spread)
        )


@pytest.mark.parametrize(
    ('kind', 'draw_masks'),
    [(kind, drawn) for kind in MASK_KINDS for drawn in (False, True)[: 2 - lasts(kind)]],
)
def test_random_masks_give_the_distribution_of_windowed_dropout(
    kind: str, draw_masks: bool, tmp_path: Path
) -> None:
    """Kolmogorov-Smirnov on every logit; fails once in 10,000 runs if both are the same."""
    network = tiny_network(channels=(4, 6), dropout_masks=kind)
    path = write(network, tmp_path / 'step.onnx', draw_masks=draw_masks)
    clip, count = random_clip(12), 2000
    streamed = OnnxStreamingPstBln(path, samples=count, seed=1).stream().clip(clip)[-1]
    with only_dropout_active(network, torch.Generator().manual_seed(2)), torch.no_grad():
        windowed = network(torch.from_numpy(clip)[None].expand(count, -1, -1, -1)).numpy()
    assert streamed.shape == windowed.shape == (count, 7)
    values = [stats.ks_2samp(streamed[:, k], windowed[:, k]).pvalue for k in range(7)]
    assert min(values) > 1e-4 / 7


def test_masks_that_the_graph_draws_fall_on_every_sample_and_layer_anew(
    drawing_path: Path,
) -> None:
    streaming = OnnxStreamingPstBln(drawing_path, samples=50, seed=1)
    clip = np.repeat(random_clip(1), 40, axis=1)
    logits = streaming.stream().clip(clip)
    assert len(np.unique(logits[-1], axis=0)) == 50
    assert len(np.unique(logits[:, 0], axis=0)) == 40


@pytest.mark.parametrize('strides', [(1, 1), (2, 1)])
def test_a_network_that_draws_its_masks_has_none_with_dropout_off(
    strides: tuple[int, ...], tmp_path: Path
) -> None:
    network = tiny_network(strides=strides)
    path = write(network, tmp_path / 'step.onnx', draw_masks=True)
    streaming = OnnxStreamingPstBln(path, samples=0)
    assert largest_step_difference(network, streaming, frames=20) < 1e-5


@pytest.mark.parametrize('draw_masks', [False, True])
def test_samples_differ_and_repeat_with_the_seed(
    draw_masks: bool, model_path: Path, drawing_path: Path
) -> None:
    path = drawing_path if draw_masks else model_path
    clip = random_clip(6)

    def answers(seed: int | None) -> np.ndarray:
        return OnnxStreamingPstBln(path, samples=4, seed=seed).stream().clip(clip)

    assert np.array_equal(answers(1), answers(1))
    assert not np.array_equal(answers(1), answers(2))
    assert not np.array_equal(answers(None), answers(None))
    assert answers(1)[-1].std(0).min() > 0


@pytest.mark.parametrize(
    ('kind', 'draw_masks'),
    [('element', False), ('element', True), ('constant', False), ('feature_map', False)],
)
def test_other_numbers_of_samples_go_on_as_they_were(
    kind: str, draw_masks: bool, tmp_path: Path
) -> None:
    """With masks that drop next to nothing, all samples are one; none may lose its past."""
    network = tiny_network(dropout=1e-9, dropout_masks=kind)
    path = write(network, tmp_path / 'step.onnx', draw_masks=draw_masks)
    clip = random_clip(20)
    expected = clip_logits(network, clip)
    streaming = OnnxStreamingPstBln(path, samples=6)
    stream = streaming.stream()
    for t, samples in enumerate([6] * 5 + [2] * 5 + [9] * 5 + [1] * 5):
        streaming.samples = samples
        logits = stream.step(clip[:, t])
        assert logits.shape == (samples, 7)
        assert np.allclose(logits, expected[t], atol=1e-5)


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_samples_that_stay_keep_their_past_and_added_ones_become_independent(
    kind: str, tmp_path: Path
) -> None:
    path = write(tiny_network(dropout_masks=kind), tmp_path / 'step.onnx')
    streaming = OnnxStreamingPstBln(path, samples=2, seed=1)
    stream = streaming.stream()
    clip = random_clip(10 + streaming.receptive_field)
    ones = [np.ones((1, 1, 1), 'f4')] * 2
    for t in range(clip.shape[1]):
        if t == 9:
            before = stream.step(clip[:, 0], masks=ones)
            streaming.samples = 8
        logits = stream.step(clip[:, t])
        if t == 9:  # one frame of five is new
            assert np.abs(logits[:2] - before).max() < np.abs(before).max()
    assert len(np.unique(logits[:, 0])) == 8


def test_what_cannot_be_sampled_is_refused(model_path: Path, tmp_path: Path) -> None:
    streaming = OnnxStreamingPstBln(model_path, samples=2)
    with pytest.raises(ValueError, match='1 or more, not 0'):
        streaming.samples = 0
    streaming = OnnxStreamingPstBln(model_path, samples=0)
    with pytest.raises(ValueError, match='dropout is off'):
        streaming.samples = 5
    with pytest.raises(ValueError, match='samples'):
        OnnxStreamingPstBln(model_path, samples=-1)
    with pytest.raises(ValueError, match='threads'):
        OnnxStreamingPstBln(model_path, threads=0)
    without = write(tiny_network(dropout=0.0), tmp_path / 'without.onnx')
    with pytest.raises(ValueError, match='needs a model with dropout'):
        OnnxStreamingPstBln(without, samples=1)
    assert OnnxStreamingPstBln(without, samples=0).stream().clip(random_clip(3)).shape == (3, 1, 7)


def test_frames_and_masks_of_another_shape_are_refused(
    model_path: Path, drawing_path: Path
) -> None:
    stream = OnnxStreamingPstBln(model_path, samples=2).stream()
    frame, ones = random_clip(1)[:, 0], np.ones((4, 2, EDGES))
    for shape in ((2, EDGES + 1), (3, EDGES), (2, 1, EDGES)):
        with pytest.raises(ValueError, match='a frame must'):
            stream.step(np.zeros(shape))
    for masks, message in (
        ([], '2 masks, not 0'),
        ([ones], '2 masks, not 1'),
        ([ones] * 3, '2 masks, not 3'),
        ([ones, ones[0]], 'broadcast'),
        ([ones, np.ones((4, 3, EDGES))], 'broadcast'),
        ([ones, np.ones((4, 2, EDGES + 1))], 'broadcast'),
        ([ones, np.ones((5, 2, EDGES))], 'broadcast'),
    ):
        with pytest.raises(ValueError, match=message):
            stream.step(frame, masks=masks)
    with pytest.raises(ValueError, match='draws its masks itself'):
        OnnxStreamingPstBln(drawing_path).stream().step(frame, masks=[ones, ones])


def test_reset_forgets_everything_and_faces_do_not_mix(model_path: Path) -> None:
    network = OnnxStreamingPstBln(model_path, samples=0)
    clip, other = random_clip(8), random_clip(8, seed=2)
    alone = network.stream().clip(clip)
    first, second = network.stream(), network.stream()
    interleaved = []
    for t in range(8):
        both = np.stack([clip[:, t], other[:, t]])
        interleaved.append(network.step([first, second], both)[0])
    np.testing.assert_allclose(np.stack(interleaved), alone, atol=1e-6)
    assert first.frames == 5  # of evidence: the window
    first.reset()
    assert first.frames == 0
    np.testing.assert_allclose(first.step(clip[:, 0]), alone[0], atol=1e-6)


def test_other_number_types_and_memory_layouts_are_read(model_path: Path) -> None:
    stream = OnnxStreamingPstBln(model_path, samples=0).stream()
    clip = random_clip(7)
    expected = stream.clip(clip)
    np.testing.assert_array_equal(stream.clip(clip.astype(float)), expected)
    np.testing.assert_array_equal(stream.clip(np.asfortranarray(clip)), expected)


def test_answers_are_not_overwritten_by_later_ones(model_path: Path) -> None:
    stream = OnnxStreamingPstBln(model_path, samples=4).stream()
    clip = random_clip(6)
    first = stream.step(clip[:, 0])
    copy = first.copy()
    for t in range(1, 6):
        stream.step(clip[:, t])
    np.testing.assert_array_equal(first, copy)


def test_receptive_field_is_what_an_answer_depends_on(model_path: Path) -> None:
    streaming = OnnxStreamingPstBln(model_path, samples=0)
    seen = streaming.receptive_field
    assert seen == 1 + 2 * 4 + 4
    clip = random_clip(30)
    changed = clip.copy()
    changed[:, : 30 - seen] = 9.0
    last = streaming.stream().clip(clip)[-1]
    assert np.allclose(streaming.stream().clip(changed)[-1], last, atol=1e-5)
    changed[:, 30 - seen] = 9.0
    assert not np.allclose(streaming.stream().clip(changed)[-1], last, atol=1e-5)


def test_memory_of_a_face_is_stated_and_does_not_grow(model_path: Path) -> None:
    streaming = OnnxStreamingPstBln(model_path, samples=4)
    stream = streaming.stream()
    rings = 5 * 4 * (1 + 4) * EDGES * 4  # the first layer is shared by the samples
    window = 5 * 4 * 7 * 4 + 4 * 7 * 8
    assert stream.nbytes == streaming.bytes_per_face == rings + window
    clip = random_clip(40)
    for t in range(40):
        stream.step(clip[:, t])
    assert stream.nbytes == rings + window
    streaming.samples = 1
    stream.step(clip[:, 0])
    assert stream.nbytes == streaming.bytes_per_face < rings


def test_the_graph_is_a_function_of_the_state_that_goes_in(model_path: Path) -> None:
    """Run by any other program that copies the states, it computes the same."""
    streaming = OnnxStreamingPstBln(model_path, samples=0)
    clip = random_clip(6)
    expected = streaming.stream().clip(clip)
    rings = [np.zeros((5, 4, 1, EDGES), 'f4') for _ in range(2)]
    masks = {mask(i): np.full((1, 1, 1), 0.7, 'f4') for i in range(2)}
    answers = []
    names = [LOGITS, ring_out(0), ring_out(1)]
    for t in range(6):
        inputs = {FRAME: clip[:, t], POSITIONS: np.full((2, 1), t % 5), **masks}
        inputs |= {ring_in(i): ring for i, ring in enumerate(rings)}
        before = [ring.copy() for ring in rings]
        logits, *after = streaming.session.run(names, inputs)
        for old, same, new in zip(before, rings, after, strict=True):
            np.testing.assert_array_equal(same, old)
            others = np.arange(5) != t % 5
            np.testing.assert_array_equal(new[others], old[others])
        rings = after
        answers.append(logits)
        np.testing.assert_allclose(np.mean(answers[-5:], axis=0), expected[t], atol=1e-5)


def test_it_says_what_it_is_and_runs_on(model_path: Path) -> None:
    streaming = OnnxStreamingPstBln(model_path)
    assert streaming.description == 'onnxruntime fp32 by CPUExecutionProvider'
    assert streaming.model == tiny_description(tiny_network())
    assert streaming.config == streaming.model.network
    assert streaming.samples == 100


def test_providers_that_this_machine_lacks_fall_back_to_the_processor(model_path: Path) -> None:
    with pytest.warns(UserWarning, match='no NeverExecutionProvider'):
        streaming = OnnxStreamingPstBln(
            model_path, samples=0, providers=['NeverExecutionProvider', 'CPUExecutionProvider']
        )
    assert streaming.description.endswith('by CPUExecutionProvider')


def test_a_network_that_draws_its_masks_warns_on_the_processor(drawing_path: Path) -> None:
    with pytest.warns(UserWarning, match='export without --draw-masks'):
        OnnxStreamingPstBln(drawing_path, samples=2)


def test_threads_do_not_change_the_answer(model_path: Path) -> None:
    clip = random_clip(9)
    np.testing.assert_allclose(
        OnnxStreamingPstBln(model_path, samples=5, seed=1, threads=2).stream().clip(clip),
        OnnxStreamingPstBln(model_path, samples=5, seed=1).stream().clip(clip),
        atol=1e-6,
    )


def test_without_onnxruntime_the_extra_is_named(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match=r'\[onnx\]'):
        OnnxStreamingPstBln(model_path)


def set_metadata(model: Any, **values: str | None) -> None:
    props = {entry.key: entry.value for entry in model.metadata_props} | values
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {k: v for k, v in props.items() if v is not None})


def change_network(model: Any, **values: object) -> None:
    (text,) = [entry.value for entry in model.metadata_props if entry.key == 'network']
    set_metadata(model, network=json.dumps(json.loads(text) | values))


def spoil_weights(model: Any) -> None:
    bias = next(item for item in model.graph.initializer if list(item.dims) == [7])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(7, np.nan, 'f4'), bias.name))


def read_other_files(model: Any) -> None:
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, 'elsewhere')
    tensor.ClearField('raw_data')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda m: m.ClearField('metadata_props'), 'no description'),
        (lambda m: set_metadata(m, step_network=None), 'no step network but one of whole clips'),
        (lambda m: set_metadata(m, step_network='{'), 'JSON|Expecting'),
        (lambda m: set_metadata(m, step_network='{}'), 'must hold draws_masks'),
        (lambda m: set_metadata(m, step_network='[]'), 'must hold draws_masks'),
        (lambda m: set_metadata(m, step_network='[' * 100_000), "'step_network' is no JSON"),
        (lambda m: set_metadata(m, classes='[' * 100_000), "'classes' is no JSON"),
        (lambda m: change_network(m, edges=10**9), 'edges 1000000000, at most 10000'),
        (lambda m: change_network(m, window=10**6, classes=10), 'remembers'),
        (lambda m: set_metadata(m, step_network='{"draws_masks": 1}'), 'true or false, not 1'),
        (lambda m: set_metadata(m, step_network='{"draws_masks": true}'), 'has the inputs'),
        (lambda m: set_metadata(m, format_version='99'), 'format_version is 99'),
        (lambda m: set_metadata(m, colour='"red"'), 'unknown fields: colour'),
        (lambda m: set_metadata(m, network='[]'), "'network'"),
        (lambda m: change_network(m, padding='same'), 'causal'),
        (lambda m: change_network(m, window=0), 'window'),
        (lambda m: change_network(m, channels=[4, 5]), 'ring_1 is'),
        (lambda m: change_network(m, kernel_size=4), 'ring_0 is'),
        (lambda m: change_network(m, channels=[4] * 3, strides=[1] * 3), 'has the inputs'),
        (lambda m: change_network(m, strides=[2, 1]), 'has the inputs'),
        (lambda m: change_network(m, dropout_position='before'), 'ring_0'),
        (lambda m: change_network(m, dropout=0.0), 'has the inputs|needs a model with dropout'),
        (spoil_weights, 'no finite logits'),
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
    with pytest.raises(ValueError, match=message) as refusal:
        OnnxStreamingPstBln(path, samples=2)
    assert path.name in str(refusal.value) and '\n' not in str(refusal.value)
    output = capfd.readouterr()
    assert not output.out and not output.err  # nor does ONNX Runtime log anything


def test_networks_of_clips_and_of_steps_are_not_taken_for_one_another(
    model_path: Path, tmp_path: Path
) -> None:
    clips = tmp_path / 'clips.onnx'
    export_onnx(tiny_network(), tiny_description(tiny_network()), clips)
    with pytest.raises(ModelFileError, match='whole clips.*--streaming') as refusal:
        OnnxStreamingPstBln(clips)
    assert '\n' not in str(refusal.value)
    with pytest.raises(ModelFileError, match='step network.*without --streaming') as refusal:
        OnnxMonteCarlo(model_path)
    assert '\n' not in str(refusal.value)


def test_foreign_truncated_and_missing_files_are_refused(
    model_path: Path, tmp_path: Path
) -> None:
    whole = model_path.read_bytes()
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    torch.save({'head.weight': torch.zeros(1)}, archive)
    for name, data in (
        ('truncated', whole[: len(whole) // 2]),
        ('text', b'no model at all'),
        ('empty', b''),
        ('pickle', pickle.dumps({'head.weight': [1.0]})),
        ('array', array.getvalue()),
        ('archive', archive.getvalue()),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=name) as refusal:
            OnnxStreamingPstBln(path)
        assert '\n' not in str(refusal.value)
    with pytest.raises(ModelFileError, match='does not exist'):
        OnnxStreamingPstBln(tmp_path / 'nowhere')


def test_names_that_are_no_text_are_refused(model_path: Path, tmp_path: Path) -> None:
    data = model_path.read_bytes()
    for name in (b'input', b'logits'):
        damaged = bytearray(data)
        place = damaged.rindex(name)  # the last is in the list of inputs and outputs
        damaged[place] = 0x80
        path = tmp_path / 'step.onnx'
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match='step.onnx'):
            OnnxStreamingPstBln(path, samples=2)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(position=st.integers(1, 1500), value=st.integers(0, 255))
def test_a_damaged_description_never_loads_as_what_does_not_work(
    model_path: Path, tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    data = bytearray(model_path.read_bytes())
    data[-position] = value  # the description is at the end
    path = tmp_path_factory.mktemp('damaged') / 'step.onnx'
    path.write_bytes(data)
    try:
        loaded = OnnxStreamingPstBln(path, samples=2)
    except ModelFileError:
        return
    assert loaded.stream().clip(random_clip(3)).shape == (3, 2, 7)
