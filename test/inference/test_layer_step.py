# SPDX-License-Identifier: Apache-2.0
"""The compiled step of a layer computes what its products compute one after the other."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_made import small_network
from torch import Tensor

from fer_perception.inference.folding import FoldedLayer, FoldedPstBln
from fer_perception.inference.layer_step import LayerStep, layer_step_is_available, padded_edges
from fer_perception.inference.row_product import Kernel, RandomMask, row_product

BF16_STEP = 2.0**-8  # relative distance of neighbouring numbers


@pytest.fixture(autouse=True)
def needs_step() -> Iterator[None]:
    if not layer_step_is_available():
        pytest.skip('the library was not compiled, or this processor has no AMX')
    yield


def folded_layer(channels: tuple[int, int], **changes: Any) -> FoldedLayer:
    network = small_network(
        in_channels=channels[0], channels=channels[1:], topology_init='constant', **changes
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    return FoldedPstBln.fold(network, with_dropout=True).layers[0]


def filled_buffer(layer: FoldedLayer, streams: int, edges: int, seed: int = 1) -> Tensor:
    """Make the ring and the input of a layer, with numbers in all places: (rows, S * E)."""
    generator = torch.Generator().manual_seed(seed)
    rows = layer.kernel_size * layer.out_channels + layer.in_channels
    return torch.randn(rows, streams * edges, generator=generator).bfloat16()


def direct_step(
    layer: FoldedLayer, buffer: Tensor, position: int, edges: int
) -> tuple[Tensor, Tensor]:
    """Compute slot and output, (C_out, S, E), in float64; what lies between is rounded to bf16."""

    def rounded(values: Tensor) -> Tensor:
        return values.bfloat16().double()

    real_edges = layer.topology.shape[-1]
    topology = torch.zeros(layer.subsets, edges, edges, dtype=torch.float64)
    topology[:, :real_edges, :real_edges] = rounded(layer.topology)
    ring_rows = layer.kernel_size * layer.out_channels
    features = buffer.double().view(len(buffer), -1, edges)  # (rows, S, E)
    inputs = features[ring_rows:]
    mixing, bias = layer.mixing.double(), layer.mixing_bias.double()[:, None, None]
    if layer.mixes_first:
        mixed = torch.einsum('oi,ise->ose', mixing, inputs)
        bias = torch.cat([bias, torch.zeros(len(mixed) - len(bias), 1, 1)])
        first, *others = rounded(mixed + bias).split(layer.out_channels)
        slot = first + sum(part @ u for part, u in zip(others, topology, strict=True))
    else:
        mapped = [inputs, *(rounded(inputs @ u) for u in topology)]
        slot = torch.einsum('oi,ise->ose', mixing, torch.cat(mapped)) + bias
    slot = rounded(slot.relu())
    features[position * layer.out_channels : (position + 1) * layer.out_channels] = slot
    rows = features if layer.has_outer_residual else features[:ring_rows]
    temporal = layer.temporal[position].double()
    out = torch.einsum('or,rse->ose', temporal, rows) + layer.temporal_bias.double()[:, None, None]
    return slot, out.relu()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    error = (actual.double() - expected).abs().max()
    assert error <= 2 * BF16_STEP * expected.abs().max(), float(error)


@settings(max_examples=30, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    streams=st.integers(1, 70),
    edges=st.integers(1, 70),
    subsets=st.integers(1, 3),
    kernel_size=st.sampled_from([1, 3, 9]),
    outer=st.booleans(),
    data=st.data(),
)
def test_step_equals_the_products_in_float64(
    channels: tuple[int, int],
    streams: int,
    edges: int,
    subsets: int,
    kernel_size: int,
    outer: bool,
    data: st.DataObject,
) -> None:
    layer = folded_layer(
        channels, edges=edges, subsets=subsets, kernel_size=kernel_size, first_outer_residual=outer
    )
    padded = padded_edges(edges)
    buffer = filled_buffer(layer, streams, padded)
    position = data.draw(st.integers(0, kernel_size - 1))
    slot, expected = direct_step(layer, buffer, position, padded)
    out = torch.full((layer.out_channels, streams * padded), 7.0, dtype=torch.bfloat16)
    untouched = buffer.clone()
    LayerStep(layer)(buffer, position=position, out=out, threads=1)
    written = slice(position * layer.out_channels, (position + 1) * layer.out_channels)
    assert_close(buffer[written].view(slot.shape), slot)
    assert_close(out.view(expected.shape), expected)
    untouched[written] = buffer[written]
    assert torch.equal(buffer, untouched)


@pytest.mark.parametrize('channels', [(15, 10), (10, 15)], ids=['mixes_first', 'mixes_last'])
def test_threads_and_neighbours_change_nothing(channels: tuple[int, int]) -> None:
    layer = folded_layer(channels, edges=181, kernel_size=9)
    step, padded, streams = LayerStep(layer), padded_edges(181), 100
    buffer = filled_buffer(layer, streams, padded)
    outs = []
    for threads in (1, 2, 5):
        out = torch.empty(layer.out_channels, streams * padded, dtype=torch.bfloat16)
        step(buffer.clone(), position=4, out=out, threads=threads)
        outs.append(out)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    own = slice(37 * padded, 38 * padded)
    alone = torch.empty(layer.out_channels, padded, dtype=torch.bfloat16)
    step(buffer[:, own].contiguous(), position=4, out=alone, threads=1)
    assert torch.equal(alone, outs[0][:, own])


@pytest.mark.parametrize('rows', ['each', 'all'])
def test_masks_drop_what_they_say(rows: str) -> None:
    layer = folded_layer((10, 5), edges=50)
    step, padded, streams = LayerStep(layer), padded_edges(50), 40
    columns = streams * padded
    buffer = filled_buffer(layer, streams, padded)

    def out_with(mask: Tensor | RandomMask | None) -> Tensor:
        out = torch.empty(layer.out_channels, columns, dtype=torch.bfloat16)
        step(buffer.clone(), position=0, out=out, mask=mask)
        return out

    plain = out_with(None)
    given_rows = layer.out_channels if rows == 'each' else 1
    mask = (torch.rand(given_rows, columns) > 0.3).bfloat16()
    assert torch.equal(out_with(mask), plain * mask)
    # A mask that is drawn is the one that a row product draws of the same seed.
    drawn = RandomMask(seed=5, rate=0.3)
    ones = torch.ones(1, columns, dtype=torch.bfloat16)
    kept = torch.empty_like(plain)
    row_product(
        torch.ones(len(plain), 1), None, ones, kept, relu=False, mask=drawn, kernel=Kernel.AMX
    )
    assert torch.equal(out_with(drawn), plain * kept)
    assert 0.6 < float(kept.float().mean()) < 0.8


def test_nothing_is_put_out_between_strides() -> None:
    layer = folded_layer((5, 10), edges=32)
    buffer, other = filled_buffer(layer, 3, 32), filled_buffer(layer, 3, 32)
    step = LayerStep(layer)
    step(buffer, position=2, out=None)
    step(other, position=2, out=torch.empty(10, 96, dtype=torch.bfloat16))
    assert torch.equal(buffer, other)


def test_arguments_that_do_not_fit_are_refused() -> None:
    layer = folded_layer((5, 10), edges=50)
    step = LayerStep(layer)
    buffer = filled_buffer(layer, 3, 64)
    out = torch.empty(10, 192, dtype=torch.bfloat16)
    for wrong in (buffer[:-1], buffer[:, :-1], buffer.float(), buffer.T.contiguous().T):
        with pytest.raises(ValueError, match='buffer must be'):
            step(wrong, position=0, out=out)
    with pytest.raises(ValueError, match='position must be 0 to 4, not 5'):
        step(buffer, position=5, out=out)
    for wrong in (out[:-1], out[:, :-1], out.float()):
        with pytest.raises(ValueError, match='out must be'):
            step(buffer, position=0, out=wrong)
    with pytest.raises(ValueError, match='mask must be'):
        step(buffer, position=0, out=out, mask=out[:3])
