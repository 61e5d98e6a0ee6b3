# SPDX-License-Identifier: Apache-2.0
"""Streaming computes what the clip network computes, frame by frame."""

from itertools import product
from typing import Any

import pytest
import torch
from models_made import small_network
from scipy import stats
from torch import Tensor

from fer_perception.inference.monte_carlo import only_dropout_active
from fer_perception.inference.streaming import StreamingPstBln

VARIANTS = list(
    product(
        (1, 3),  # subsets
        ((1, 1, 1), (1, 2, 1), (2, 1, 2)),  # strides
        (1, 5, 40),  # window
        ('after', 'before'),
        (False, True),  # reference's input norm and missing first residual
    )
)


@pytest.mark.parametrize(('subsets', 'strides', 'window', 'position', 'reference'), VARIANTS)
def test_without_dropout_streaming_equals_the_clip_at_every_frame(
    subsets: int, strides: tuple[int, ...], window: int, position: str, reference: bool
) -> None:
    network = small_network(
        channels=(4, 4, 6),
        edges=20,
        subsets=subsets,
        strides=strides,
        window=window,
        dropout_position=position,
        input_norm=reference,
        first_outer_residual=not reference,
    )
    clip = torch.randn(2, 30, 20)
    with torch.no_grad():
        expected = network.logits_over_time(clip[None])[0]  # (T', classes)
    expected = expected.repeat_interleave(network.config.total_stride, dim=0)[:30]
    streamed = StreamingPstBln(network, samples=0).stream().clip(clip)
    assert streamed.shape == (30, 1, 7)
    assert torch.allclose(streamed[:, 0], expected, atol=1e-5)


def test_with_given_masks_streaming_equals_the_clip() -> None:
    network = small_network(channels=(4, 4, 6), edges=20)
    masks = [(torch.rand(c, 3, 20, 12) > 0.3).float() / 0.7 for c in (4, 4, 6)]  # (C, S, E, T)
    clip = torch.randn(2, 12, 20)
    stream = StreamingPstBln(network, samples=3).stream()
    streamed = []
    for t in range(12):
        due = iter(mask[..., t] for mask in masks)

        def dropout(features: Tensor, due: object = due) -> Tensor:
            return features * next(due)  # type: ignore[call-overload]

        streamed.append(stream.step(clip[:, t], dropout=dropout))
    for sample in range(3):
        features = clip[None]
        for layer, mask in zip(network.layers, masks, strict=True):
            features = layer(features) * mask[:, sample].transpose(1, 2)[None]  # (1, C, T, E)
        for t in range(12):
            window = features[:, :, max(0, t - 4) : t + 1].mean((2, 3))
            assert torch.allclose(streamed[t][sample], network.head(window)[0], atol=1e-5)


def test_masks_drop_their_rate_and_keep_the_mean() -> None:
    network = StreamingPstBln(small_network(dropout=0.2), samples=100, seed=1)
    dropped = network.drop(torch.ones(20, 1, 200))  # 400,000 elements
    assert dropped.shape == (20, 100, 200)
    # Five standard errors: fails once in two million runs.
    assert abs(float((dropped == 0).float().mean()) - 0.2) < 5 * (0.2 * 0.8 / 400_000) ** 0.5
    assert torch.allclose(dropped[dropped != 0], torch.tensor(1.25))


def test_random_masks_give_the_distribution_of_windowed_dropout() -> None:
    """Kolmogorov-Smirnov on every logit; fails once in 10,000 runs if both are the same."""
    network = small_network(channels=(4, 6), edges=20, dropout=0.3)
    clip = torch.randn(2, 12, 20)
    count = 2000
    streamed = StreamingPstBln(network, samples=count, seed=1).stream().clip(clip)[-1]
    with only_dropout_active(network, torch.Generator().manual_seed(2)), torch.no_grad():
        windowed = network(clip[None].expand(count, -1, -1, -1))
    assert streamed.shape == windowed.shape == (count, 7)
    values = [
        stats.ks_2samp(streamed[:, k].numpy(), windowed[:, k].numpy()).pvalue for k in range(7)
    ]
    assert min(values) > 1e-4 / 7


def test_samples_of_one_stream_differ_and_repeat_with_the_seed() -> None:
    network = small_network(edges=20)
    clip = torch.randn(2, 6, 20)

    def answers(seed: int) -> Tensor:
        return StreamingPstBln(network, samples=4, seed=seed).stream().clip(clip)

    assert torch.equal(answers(1), answers(1))
    assert not torch.equal(answers(1), answers(2))
    assert answers(1)[-1].std(0).min() > 0


def test_reset_forgets_everything_and_faces_do_not_mix() -> None:
    network = StreamingPstBln(small_network(edges=20), samples=0)
    clip, other = torch.randn(2, 8, 20), torch.randn(2, 8, 20)
    alone = network.stream().clip(clip)
    first, second = network.stream(), network.stream()
    interleaved = []
    for t in range(8):
        interleaved.append(first.step(clip[:, t]))
        second.step(other[:, t])
    assert torch.allclose(torch.stack(interleaved), alone)
    assert first.frames == 5  # of evidence: the window
    first.reset()
    assert first.frames == 0
    assert torch.allclose(first.step(clip[:, 0]), alone[0])


def test_receptive_field_is_what_an_answer_depends_on() -> None:
    network = small_network(edges=20)
    streaming = StreamingPstBln(network, samples=0)
    seen = streaming.receptive_field
    assert seen == 1 + 2 * 4 + 4
    clip = torch.randn(2, 30, 20)
    changed = clip.clone()
    changed[:, : 30 - seen] = 9.0
    last = streaming.stream().clip(clip)[-1]
    assert torch.allclose(streaming.stream().clip(changed)[-1], last, atol=1e-5)
    changed[:, 30 - seen] = 9.0
    assert not torch.allclose(streaming.stream().clip(changed)[-1], last, atol=1e-5)


@pytest.mark.parametrize(
    ('changes', 'samples', 'message'),
    [
        ({'padding': 'same'}, 0, 'causal'),
        ({'window': 0}, 0, 'window'),
        ({'dropout': 0.0}, 10, 'dropout'),
        ({}, -1, 'samples'),
    ],
)
def test_what_cannot_stream_is_refused(
    changes: dict[str, Any], samples: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingPstBln(small_network(**changes), samples=samples)
