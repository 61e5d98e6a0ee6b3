# SPDX-License-Identifier: Apache-2.0
"""The batch of all faces computes what each face's own stream does.

On the CPU the same operations run without a CUDA graph; the tests with a graph need a GPU.
"""

import gc
from itertools import product

import numpy as np
import pytest
import torch
from models_made import small_network
from scipy import stats

from fer_perception.inference.batched_streaming import BatchedStream, BatchedStreamingPstBln
from fer_perception.inference.monte_carlo import only_dropout_active
from fer_perception.inference.streaming import TorchStreamingPstBln
from fer_perception.models.dropout import MASK_KINDS

DEVICES = [
    'cpu',
    pytest.param(
        'cuda',
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU'),
    ),
]
pytestmark = pytest.mark.parametrize('device', DEVICES)
VARIANTS = list(
    product(
        (1, 3),  # subsets
        ((1, 1, 1, 1), (2, 1, 2, 1)),  # strides
        (1, 5, 40),  # window
        ('after', 'before'),
        (False, True),  # reference's input norm and missing first residual
    )
)


def random_clip(frames: int) -> np.ndarray:
    return torch.randn(2, frames, 20).numpy()


@pytest.mark.parametrize(('subsets', 'strides', 'window', 'position', 'reference'), VARIANTS)
def test_without_dropout_it_equals_a_stream_of_its_own(
    subsets: int,
    strides: tuple[int, ...],
    window: int,
    position: str,
    reference: bool,
    device: str,
) -> None:
    network = small_network(
        channels=(4, 4, 6, 3),
        edges=20,
        subsets=subsets,
        strides=strides,
        window=window,
        dropout_position=position,
        input_norm=reference,
        first_outer_residual=not reference,
    )
    clip = random_clip(25)
    expected = TorchStreamingPstBln(network, samples=0).stream().clip(clip)
    batched = BatchedStreamingPstBln(network, samples=0, device=device).stream().clip(clip)
    assert batched.shape == (25, 1, 7)
    assert np.allclose(batched, expected, atol=1e-5)


@pytest.mark.parametrize('kind', MASK_KINDS)
@pytest.mark.parametrize('position', ['after', 'before'])
def test_with_given_masks_it_equals_a_stream_of_its_own(
    kind: str, position: str, device: str
) -> None:
    network = small_network(
        channels=(4, 6, 3), edges=20, dropout_masks=kind, dropout_position=position
    )
    clip = random_clip(12)
    shapes = network.config.mask_shapes(clips=3, frames=1)
    masks = [
        [
            (torch.rand(channels, samples, edges) > 0.3).float().numpy()
            for samples, channels, _, edges in shapes
        ]
        for _ in range(12)
    ]
    expected = TorchStreamingPstBln(network, samples=3).stream().clip(clip, masks=masks)
    batched = BatchedStreamingPstBln(network, samples=3, device=device)
    assert np.allclose(batched.stream().clip(clip, masks=masks), expected, atol=1e-5)


def test_faces_come_and_go_without_touching_each_other(device: str) -> None:
    """Five faces, each present for other frames, in one batch and each by itself."""
    network = small_network(channels=(4, 4, 6), edges=20, strides=(1, 2, 1))
    batched = BatchedStreamingPstBln(network, samples=0, device=device)
    clips = [random_clip(30) for _ in range(5)]
    present = [range(0, 30), range(3, 9), range(5, 30), range(5, 20), range(6, 28)]
    streams: dict[int, BatchedStream] = {}
    got: dict[int, list[np.ndarray]] = {face: [] for face in range(5)}
    for t in range(30):
        here = [face for face in range(5) if t in present[face] and (t + face) % 4]
        for face in list(streams):
            if t >= present[face].stop:
                del streams[face]
        for face in here:
            streams.setdefault(face, batched.stream())
        frames = np.stack([clips[face][:, t] for face in here]) if here else np.empty((0, 2, 20))
        answers = batched.step([streams[face] for face in here], frames)
        for face, answer in zip(here, answers, strict=True):
            got[face].append(answer)
    for face, clip in enumerate(clips):
        times = [t for t in present[face] if (t + face) % 4]
        alone = TorchStreamingPstBln(network, samples=0).stream().clip(clip[:, times])
        assert np.allclose(np.stack(got[face]), alone, atol=1e-5), face


def test_slots_follow_the_number_of_faces(device: str) -> None:
    batched = BatchedStreamingPstBln(small_network(edges=20), samples=2, device=device)
    frame = random_clip(1)[:, 0]
    streams = [batched.stream() for _ in range(9)]
    batched.step(streams, np.stack([frame] * 9))
    assert batched._slots.count == 16
    del streams[2:]
    gc.collect()
    batched.step(streams, np.stack([frame] * 2))
    assert batched._slots.count == 2
    assert batched.bytes_per_face * 2 == batched._slots.nbytes


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_random_masks_give_the_distribution_of_windowed_dropout(kind: str, device: str) -> None:
    """Kolmogorov-Smirnov on every logit; fails once in 10,000 runs if both are the same."""
    network = small_network(channels=(4, 6), edges=20, dropout=0.3, dropout_masks=kind)
    clip = random_clip(12)
    count = 2000
    batched = BatchedStreamingPstBln(network, samples=count, seed=1, device=device)
    streamed = batched.stream().clip(clip)[-1]
    with only_dropout_active(network, torch.Generator().manual_seed(2)), torch.no_grad():
        windowed = network(torch.from_numpy(clip)[None].expand(count, -1, -1, -1)).numpy()
    values = [stats.ks_2samp(streamed[:, k], windowed[:, k]).pvalue for k in range(7)]
    assert min(values) > 1e-4 / 7


@pytest.mark.parametrize('kind', MASK_KINDS)
def test_other_numbers_of_samples_go_on_as_they_were(kind: str, device: str) -> None:
    """With masks that drop next to nothing, all samples are one; none may lose its past."""
    network = small_network(edges=20, dropout=1e-9, dropout_masks=kind)
    clip = random_clip(20)
    expected = TorchStreamingPstBln(network, samples=0).stream().clip(clip)
    batched = BatchedStreamingPstBln(network, samples=6, device=device)
    stream = batched.stream()
    for t, samples in enumerate([6] * 5 + [2] * 5 + [9] * 5 + [1] * 5):
        batched.samples = samples
        logits = stream.step(clip[:, t])
        assert logits.shape == (samples, 7)
        assert np.allclose(logits, expected[t], atol=1e-5)


def test_a_reset_between_numbers_of_samples_forgets_too(device: str) -> None:
    network = small_network(edges=20, dropout=1e-9, dropout_masks='constant')
    clip = random_clip(8)
    batched = BatchedStreamingPstBln(network, samples=3, device=device)
    stream = batched.stream()
    stream.clip(clip[:, ::-1].copy())
    batched.samples = 5
    expected = TorchStreamingPstBln(network, samples=0).stream().clip(clip)
    assert np.allclose(stream.clip(clip), expected, atol=1e-5)


def test_seeds_repeat_and_reset_forgets(device: str) -> None:
    network = small_network(edges=20)
    clip = random_clip(6)

    def answers(seed: int) -> np.ndarray:
        batched = BatchedStreamingPstBln(network, samples=4, seed=seed, device=device)
        return batched.stream().clip(clip)

    assert np.array_equal(answers(1), answers(1))
    assert not np.array_equal(answers(1), answers(2))
    stream = BatchedStreamingPstBln(network, samples=0, device=device).stream()
    first = stream.clip(clip)
    assert stream.frames == 5
    assert np.allclose(stream.clip(clip), first, atol=1e-6)
