# SPDX-License-Identifier: Apache-2.0
"""Streaming computes what the clip network computes, frame by frame."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from models_made import small_network
from scipy import stats

from fer_perception.inference import streaming as streaming_module
from fer_perception.inference.monte_carlo import only_dropout_active
from fer_perception.inference.row_product import native_is_available
from fer_perception.inference.streaming import PRECISIONS, TorchStreamingPstBln
from fer_perception.models.dropout import MASK_KINDS
from fer_perception.models.pst_bln import PstBln

VARIANTS = list(
    product(
        (1, 3),  # subsets
        ((1, 1, 1), (1, 2, 1), (2, 1, 2)),  # strides
        (1, 5, 40),  # window
        ('after', 'before'),
        (False, True),  # reference's input norm and missing first residual
    )
)


def random_clip(frames: int, edges: int = 20) -> np.ndarray:
    return torch.randn(2, frames, edges).numpy()


def clip_logits(network: PstBln, clip: np.ndarray) -> np.ndarray:
    """Compute the logits of the clip network after every frame: (T, classes)."""
    with torch.no_grad():
        logits = network.logits_over_time(torch.from_numpy(clip)[None])[0]  # (T', classes)
    stride = network.config.total_stride
    return logits.repeat_interleave(stride, dim=0)[: clip.shape[1]].numpy()


@pytest.mark.parametrize(('subsets', 'strides', 'window', 'position', 'reference'), VARIANTS)
def test_without_dropout_streaming_equals_the_clip_at_every_frame(
    subsets: int, strides: tuple[int, ...], window: int, position: str, reference: bool
) -> None:
    network = small_network(
        channels=(4, 4, 6, 3),
        edges=20,
        subsets=subsets,
        strides=(*strides, 1),
        window=window,
        dropout_position=position,
        input_norm=reference,
        first_outer_residual=not reference,
    )
    clip = random_clip(30)
    streamed = TorchStreamingPstBln(network, samples=0).stream().clip(clip)
    assert streamed.shape == (30, 1, 7)
    assert np.allclose(streamed[:, 0], clip_logits(network, clip), atol=1e-5)


@pytest.mark.parametrize('channels', [(5,), (15, 10, 15, 5, 5, 10)])
def test_other_topologies_stream_as_well(channels: tuple[int, ...]) -> None:
    network = small_network(channels=channels, edges=20, subsets=3, kernel_size=9, window=12)
    clip = random_clip(70)
    streamed = TorchStreamingPstBln(network, samples=0).stream().clip(clip)
    assert np.allclose(streamed[:, 0], clip_logits(network, clip), atol=1e-5)


@pytest.mark.parametrize('position', ['after', 'before'])
@pytest.mark.parametrize('kind', MASK_KINDS)
@pytest.mark.parametrize('strides', [(1, 1, 1), (1, 2, 1)])
def test_with_given_masks_streaming_equals_the_clip(
    position: str, kind: str, strides: tuple[int, ...]
) -> None:
    rate, samples, frames = 0.3, 3, 13
    network = small_network(
        channels=(4, 4, 3), edges=20, dropout=rate, dropout_position=position,
        dropout_masks=kind, strides=strides,
    )
    clip = random_clip(frames)
    shapes = network.config.mask_shapes(clips=samples, frames=frames)
    masks = [(torch.rand(shape) >= rate).float() for shape in shapes]  # (S, C, T', E) or 1 each

    class Given(torch.nn.Module):
        def __init__(self, mask: torch.Tensor) -> None:
            super().__init__()
            self.mask = mask / (1.0 - rate)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features * self.mask

    network_given = small_network(**{
        name: getattr(network.config, name)
        for name in ('channels', 'edges', 'dropout', 'dropout_position', 'strides')
    })
    network_given.load_state_dict(network.state_dict())
    network_given.dropouts = torch.nn.ModuleList(Given(mask) for mask in masks)
    with torch.no_grad():
        features = torch.from_numpy(clip)[None].expand(samples, -1, -1, -1)
        expected = network_given.logits_over_time(features)  # (S, T', classes)

    def of_frame(t: int) -> list[np.ndarray]:
        """Masks (C, S, E) of the frames that each dropout sees at frame t of the input."""
        found = []
        step = 1
        for mask, stride in zip(masks, strides, strict=True):
            step *= stride if position == 'after' else 1
            column = mask[:, :, min(t // step, mask.shape[2] - 1)]  # (S, C, E)
            found.append(column.transpose(0, 1).numpy())
            step *= 1 if position == 'after' else stride
        return found

    streamed = TorchStreamingPstBln(network, samples=samples).stream().clip(
        clip, masks=[of_frame(t) for t in range(frames)]
    )  # (T, S, classes)
    stride = network.config.total_stride
    by_frame = expected.repeat_interleave(stride, dim=1)[:, :frames].transpose(0, 1).numpy()
    assert np.allclose(streamed, by_frame, atol=1e-5)


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_random_masks_give_the_distribution_of_windowed_dropout(kind: str) -> None:
    """Kolmogorov-Smirnov on every logit; fails once in 10,000 runs if both are the same."""
    network = small_network(channels=(4, 6), edges=20, dropout=0.3, dropout_masks=kind)
    clip = random_clip(12)
    count = 2000
    streamed = TorchStreamingPstBln(network, samples=count, seed=1).stream().clip(clip)[-1]
    with only_dropout_active(network, torch.Generator().manual_seed(2)), torch.no_grad():
        windowed = network(torch.from_numpy(clip)[None].expand(count, -1, -1, -1)).numpy()
    assert streamed.shape == windowed.shape == (count, 7)
    values = [stats.ks_2samp(streamed[:, k], windowed[:, k]).pvalue for k in range(7)]
    assert min(values) > 1e-4 / 7


@pytest.mark.parametrize('compiled', [True, False])
@pytest.mark.parametrize('precision', PRECISIONS)
def test_means_and_spreads_of_logits_are_those_of_torchs_own_dropout(
    precision: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Welch's and Levene's test on every logit; one of both fails once in 5,000 runs.

    In bf16 rounding may move a mean, though not by more than a twentieth of the spread.
    """
    if compiled and not native_is_available():
        pytest.skip('the library was not compiled')
    if not compiled:
        monkeypatch.setattr(streaming_module, 'native_is_available', lambda: False)
    network = small_network(channels=(8, 6, 6), edges=30, dropout=0.3, window=8)
    clip = random_clip(16, edges=30)
    count = 4000
    streamed = (
        TorchStreamingPstBln(network, samples=count, seed=1, precision=precision)
        .stream()
        .clip(clip)[-1]
    )
    network.dropouts = torch.nn.ModuleList(torch.nn.Dropout(0.3).train() for _ in range(3))
    torch.manual_seed(2)
    with torch.no_grad():
        windowed = network(torch.from_numpy(clip)[None].expand(count, -1, -1, -1)).numpy()
    spread = windowed.std(0)
    shift = 0.05 * spread if precision == 'bf16' else 0.0 * spread
    for k in range(7):
        difference = streamed[:, k].mean() - windowed[:, k].mean()
        towards = streamed[:, k] - np.clip(difference, -shift[k], shift[k])
        assert stats.ttest_ind(towards, windowed[:, k], equal_var=False).pvalue > 1e-4 / 7
        assert stats.levene(streamed[:, k], windowed[:, k]).pvalue > 1e-4 / 7


def test_samples_of_one_stream_differ_and_repeat_with_the_seed() -> None:
    network = small_network(edges=20)
    clip = random_clip(6)

    def answers(seed: int) -> np.ndarray:
        return TorchStreamingPstBln(network, samples=4, seed=seed).stream().clip(clip)

    assert np.array_equal(answers(1), answers(1))
    assert not np.array_equal(answers(1), answers(2))
    assert answers(1)[-1].std(0).min() > 0


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_fewer_samples_go_on_as_they_were(kind: str) -> None:
    """With masks that drop next to nothing, all samples are one; none may lose its past."""
    network = small_network(edges=20, dropout=1e-9, dropout_masks=kind)
    clip = random_clip(20)
    expected = clip_logits(network, clip)
    streaming = TorchStreamingPstBln(network, samples=6)
    stream = streaming.stream()
    for t, samples in enumerate([6] * 5 + [2] * 5 + [9] * 5 + [1] * 5):
        streaming.samples = samples
        logits = stream.step(clip[:, t])
        assert logits.shape == (samples, 7)
        assert np.allclose(logits, expected[t], atol=1e-5)


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_added_samples_become_independent(kind: str) -> None:
    # So many feature maps that no two samples drop the same ones.
    network = small_network(edges=20, channels=(16, 16), dropout=0.3, dropout_masks=kind)
    streaming = TorchStreamingPstBln(network, samples=2, seed=1)
    stream = streaming.stream()
    clip = random_clip(10 + streaming.receptive_field)
    for t in range(clip.shape[1]):
        if t == 9:
            streaming.samples = 8
        logits = stream.step(clip[:, t])
    assert len(np.unique(logits[:, 0])) == 8


def test_samples_cannot_change_to_nothing_or_without_dropout() -> None:
    streaming = TorchStreamingPstBln(small_network(edges=20), samples=2)
    with pytest.raises(ValueError, match='1 or more, not 0'):
        streaming.samples = 0
    streaming = TorchStreamingPstBln(small_network(edges=20), samples=0)
    with pytest.raises(ValueError, match='dropout is off'):
        streaming.samples = 5


def test_reset_forgets_everything_and_faces_do_not_mix() -> None:
    network = TorchStreamingPstBln(small_network(edges=20), samples=0)
    clip, other = random_clip(8), random_clip(8)
    alone = network.stream().clip(clip)
    first, second = network.stream(), network.stream()
    interleaved = []
    for t in range(8):
        both = np.stack([clip[:, t], other[:, t]])
        interleaved.append(network.step([first, second], both)[0])
    assert np.allclose(np.stack(interleaved), alone)
    assert first.frames == 5  # of evidence: the window
    first.reset()
    assert first.frames == 0
    assert np.allclose(first.step(clip[:, 0]), alone[0])


def test_receptive_field_is_what_an_answer_depends_on() -> None:
    streaming = TorchStreamingPstBln(small_network(edges=20), samples=0)
    seen = streaming.receptive_field
    assert seen == 1 + 2 * 4 + 4
    clip = random_clip(30)
    changed = clip.copy()
    changed[:, : 30 - seen] = 9.0
    last = streaming.stream().clip(clip)[-1]
    assert np.allclose(streaming.stream().clip(changed)[-1], last, atol=1e-5)
    changed[:, 30 - seen] = 9.0
    assert not np.allclose(streaming.stream().clip(changed)[-1], last, atol=1e-5)


def test_bf16_keeps_the_probabilities() -> None:
    """Dropout aside, no probability of a full-size network moves by more than 0.02."""
    network = small_network(
        channels=(15, 10, 15, 5, 5, 10), edges=181, subsets=3, kernel_size=9, window=30
    )
    clip = 0.3 * random_clip(60, edges=181)
    fp32, bf16 = (
        torch.from_numpy(
            TorchStreamingPstBln(network, samples=0, precision=precision).stream().clip(clip)
        ).softmax(-1)
        for precision in PRECISIONS
    )
    assert 0 < float((fp32 - bf16).abs().max()) < 0.02


def test_memory_of_a_face_does_not_grow() -> None:
    streaming = TorchStreamingPstBln(small_network(edges=20), samples=4)
    stream = streaming.stream()
    before = stream.nbytes
    clip = random_clip(40)
    for t in range(40):
        stream.step(clip[:, t])
    assert stream.nbytes == before == streaming.bytes_per_face


@pytest.mark.parametrize(
    ('changes', 'settings', 'message'),
    [
        ({'padding': 'same'}, {'samples': 0}, 'causal'),
        ({'window': 0}, {'samples': 0}, 'window'),
        ({'dropout': 0.0}, {'samples': 10}, 'dropout'),
        ({}, {'samples': -1}, 'samples'),
        ({}, {'precision': 'fp16'}, "fp32 or bf16, not 'fp16'"),
    ],
)
def test_what_cannot_stream_is_refused(
    changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TorchStreamingPstBln(small_network(**changes), **settings)
