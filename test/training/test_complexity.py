# SPDX-License-Identifier: Apache-2.0
"""Operations are counted by the papers' formulas, and agree with the figures they tell."""

from typing import Any

import pytest
import torch
from torch import nn

from fer_perception.inference.folding import FoldedPstBln
from fer_perception.models.abaw_ensemble import AbawEnsemble, AbawEnsembleConfig
from fer_perception.models.fer_gcn import FerGcn, FerGcnConfig
from fer_perception.models.part_ensemble import PartEnsemble, PartEnsembleConfig
from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_training.complexity import (
    Operations,
    count_operations,
    measure_complexity,
    pst_bln_operations,
)


def convolution_flops(c_in: int, k: int, c_out: int, width: int, height: int) -> int:
    """Equation 7, one multiplication and one addition after another."""
    count = 0
    for _ in range(width):
        for _ in range(height):
            count += 2 * c_in * k**2 * c_out
    return count


def dense_flops(inputs: int, outputs: int) -> int:
    """Equation 8, likewise."""
    count = 0
    for _ in range(outputs):
        for _ in range(inputs):
            count += 2
    return count


def pooling_flops(width: int, height: int, stride: int, channels: int) -> float:
    """Equation 9."""
    return width / stride * (height / stride) * channels


def run(module: nn.Module, *shape: int) -> Operations:
    return count_operations(module, lambda: module(torch.zeros(shape)))


def test_layers_count_by_the_equations() -> None:
    counted = run(nn.Conv2d(3, 5, 3, padding=1), 1, 3, 12, 10)
    assert counted == Operations(convolution=convolution_flops(3, 3, 5, 10, 12))
    # The map that goes in counts, although what comes out is smaller.
    counted = run(nn.Conv2d(3, 5, 3), 1, 3, 12, 10)
    assert counted == Operations(convolution=convolution_flops(3, 3, 5, 10, 12))
    assert run(nn.Linear(7, 4), 1, 7) == Operations(dense=dense_flops(7, 4))
    counted = run(nn.MaxPool2d(3, stride=2), 1, 4, 12, 10)
    assert counted == Operations(pooling=round(pooling_flops(10, 12, 2, 4)))
    nothing = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    assert run(nothing, 1, 3, 12, 10) == Operations()


def test_every_item_of_a_batch_and_every_step_count() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)
    assert run(layer, 4, 3, 8, 8).convolution == 4 * run(layer, 1, 3, 8, 8).convolution
    assert run(nn.Linear(7, 4), 2, 3, 7).dense == 6 * dense_flops(7, 4)


@pytest.mark.parametrize(('kind', 'gates'), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_layers_count_as_the_dense_layers_of_their_gates(
    kind: type[nn.LSTM] | type[nn.GRU], gates: int
) -> None:
    layer = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True)
    first = gates * (dense_flops(6, 5) + dense_flops(5, 5))
    second = gates * (dense_flops(10, 5) + dense_flops(5, 5))
    counted = run(layer, 2, 7, 6)  # 2 sequences of 7 steps
    assert counted == Operations(recurrent=2 * 7 * 2 * (first + second))


def test_products_of_matrices_count_once() -> None:
    class Attention(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return (values @ values.transpose(-1, -2)).softmax(-1) @ values

    counted = run(Attention(), 3, 4, 5)
    assert counted == Operations(products=3 * (2 * 4 * 5 * 4 + 2 * 4 * 4 * 5))


def test_the_part_ensemble_costs_what_the_paper_says() -> None:
    complexity = measure_complexity(PartEnsemble(PartEnsembleConfig(classes=8)))
    assert round(complexity.stored_values / 1e6, 2) == 1.65
    assert round(complexity.stored_values / 5 / 1e6, 2) == 0.33
    # The paper says 6.3 MB for a sub-network, but five of them have as much.
    assert round(complexity.stored_bytes / 2**20, 1) == 6.3
    assert complexity.new_frame == complexity.sequence  # of one frame
    total = complexity.new_frame
    assert total.total / 5 == pytest.approx(0.555e9, rel=0.01)  # it is 0.550
    assert total.total == pytest.approx(2.775e9, rel=0.01)
    assert total.convolution_share == pytest.approx(0.9998, abs=0.0003)
    # Layer by layer: three unpadded blocks of two convolutions, each followed by pooling.
    side, inputs, expected = 160, 3, 0.0
    for channels in (16, 32, 64, 128):
        expected += convolution_flops(inputs, 3, channels, side, side)
        expected += convolution_flops(channels, 3, channels, side - 2, side - 2)
        expected += pooling_flops(side - 4, side - 4, 2, channels)
        side, inputs = (side - 3) // 2, channels
    expected += 2 * dense_flops(128, 128) + dense_flops(128, 8)
    assert total.total == pytest.approx(5 * expected, abs=5)


def test_the_part_ensemble_as_its_authors_published_it_costs_more() -> None:
    network = PartEnsemble(PartEnsembleConfig(classes=8, padding='same'))
    complexity = measure_complexity(network)
    assert round(complexity.stored_values / 1e6, 2) == 1.65
    assert round(complexity.new_frame.total / 5 / 1e9, 3) == 0.671


def test_a_sequence_costs_its_frames_and_one_answer() -> None:
    network = FerGcn(FerGcnConfig(classes=3, image_size=32, frames=4, features=6, width=2))
    complexity = measure_complexity(network)
    assert complexity.frames == 4
    assert complexity.parameters == network.parameter_count()
    whole = count_operations(network, lambda: network(torch.zeros(1, 4, 3, 32, 32)))
    assert complexity.sequence == whole
    assert complexity.new_frame.total < complexity.sequence.total
    # The graph: two modules of T x T by T x d, and the fusion of T x d.
    assert complexity.answer.products == 2 * (2 * 4 * 4 * 6) + 2 * 4 * 6
    assert complexity.answer.recurrent > 0 and complexity.frame.pooling > 0


def test_vgg16_costs_what_is_known_of_it() -> None:
    """Fifteen and a half thousand million multiplications, a hundredth more or less."""
    with torch.device('meta'):
        network = FerGcn(FerGcnConfig(classes=7))
    image = torch.zeros(1, 3, 224, 224, device='meta')
    counted = count_operations(network, lambda: network.features(image))
    assert counted.convolution / 2 == pytest.approx(15.35e9, rel=0.01)


def test_resnet50_costs_what_is_known_of_it() -> None:
    """Four thousand million multiplications at 224 pixels: strides are taken into account."""
    with torch.device('meta'):
        network = AbawEnsemble(AbawEnsembleConfig(classes=7))
    image = torch.zeros(1, 3, 224, 224, device='meta')
    counted = count_operations(network, lambda: network.backbones[0](image))
    assert counted.convolution / 2 == pytest.approx(4.09e9, rel=0.01)


def test_measuring_leaves_a_network_as_it_was() -> None:
    config = PartEnsembleConfig(classes=3, image_size=16, channels=(2, 2, 2, 2), padding='same')
    network = PartEnsemble(config).train()
    network.parts[1].eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    measure_complexity(network)
    assert modes == [module.training for module in network.modules()]
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, state[name])
    assert not any(module._forward_hooks for module in network.modules())


def pst_bln(**changes: Any) -> PstBlnConfig:
    settings: dict[str, Any] = {
        'channels': (4, 4, 6, 3), 'classes': 5, 'edges': 7, 'window': 5, 'kernel_size': 3
    }
    return PstBlnConfig(**(settings | changes))


@pytest.mark.parametrize('position', ['after', 'before'])
@pytest.mark.parametrize('subsets', [1, 3])
def test_pst_bln_counts_the_products_of_its_stream(position: str, subsets: int) -> None:
    """Every weight that the stream multiplies with, times the columns it is multiplied with."""
    config = pst_bln(subsets=subsets, dropout_position=position)
    folded = FoldedPstBln.fold(PstBln(config, quiet=True), with_dropout=True)
    expected = 0
    for index, layer in enumerate(folded.layers):
        streams = 1 if index == 0 and position == 'after' else 20
        columns = streams * config.edges
        narrow = layer.out_channels if layer.mixes_first else layer.in_channels
        expected += 2 * layer.topology.numel() * narrow * streams
        expected += 2 * layer.mixing.numel() * columns
        expected += 2 * layer.temporal[0].numel() * columns
    expected += 2 * folded.head.numel() * 20
    assert pst_bln_operations(config, samples=20).total == expected


def test_pst_bln_behind_a_stride_computes_every_second_frame() -> None:
    each = pst_bln_operations(pst_bln(channels=(4, 4)), samples=0)
    first = pst_bln_operations(pst_bln(channels=(4,)), samples=0)
    strided = pst_bln_operations(pst_bln(channels=(4, 4), strides=(2, 1)), samples=0)
    second = each.products - first.products
    assert strided.products == first.products + second / 2
    alone = pst_bln_operations(pst_bln(channels=(4, 4)), samples=1)
    assert alone == each  # one sample costs what none does


def test_pst_bln_that_cannot_stream_is_refused() -> None:
    with pytest.raises(ValueError, match='streams'):
        pst_bln_operations(pst_bln(padding='same'), samples=10)
