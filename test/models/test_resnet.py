# SPDX-License-Identifier: Apache-2.0
"""ResNet50 is the published one, to the names of its parameters, in both layouts."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_perception.models.resnet import RESNET50_BLOCKS, ResNet50


def with_statistics(network: ResNet50) -> ResNet50:
    """Give its batch norms values that no network starts with."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                assert tensor is not None
                nn.init.uniform_(tensor, -0.2, 0.2)
            for tensor in (module.running_var, module.weight):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    return network.eval()


def test_it_has_the_published_parameters() -> None:
    with torch.device('meta'):
        imagenet, vggface2, without = (ResNet50(classes=count) for count in (1000, 8631, 0))
    counts = [sum(p.numel() for p in item.parameters()) for item in (imagenet, vggface2, without)]
    assert counts == [25_557_032, 25_557_032 + 7631 * 2049, 25_557_032 - 1000 * 2049]
    assert imagenet.feature_size == 2048
    names = imagenet.state_dict().keys()
    for name in ('conv1.weight', 'bn1.running_var', 'layer1.0.conv1.weight', 'fc.bias'):
        assert name in names
    blocks = [
        f'layer{layer + 1}.{block}'
        for layer, count in enumerate(RESNET50_BLOCKS)
        for block in range(count)
    ]
    assert {name.rsplit('.', 2)[0] for name in names if name.endswith('conv3.weight')} == set(
        blocks
    )
    downsampled = {name for name in names if name.endswith('downsample.0.weight')}
    assert downsampled == {f'layer{layer}.0.downsample.0.weight' for layer in (1, 2, 3, 4)}


def test_torchvision_answers_the_same() -> None:
    models = pytest.importorskip('torchvision', reason='torchvision is not installed').models
    torch.manual_seed(1)
    ours = with_statistics(ResNet50())
    theirs = models.resnet50().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
        theirs.fc = nn.Identity()
        assert torch.allclose(ours.pooled_features(images), theirs(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('caffe_layout', [False, True])
def test_both_layouts_are_as_described(caffe_layout: bool) -> None:
    torch.manual_seed(2)
    network = with_statistics(
        ResNet50(classes=5, width=4, blocks=(1, 2, 1, 2), caffe_layout=caffe_layout)
    )
    images = torch.randn(2, 3, 66, 50)
    with torch.no_grad():
        expected = written_out(images, network.state_dict(), (1, 2, 1, 2), caffe=caffe_layout)
        other = written_out(images, network.state_dict(), (1, 2, 1, 2), caffe=not caffe_layout)
        assert torch.allclose(network(images), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(network(images), other, rtol=1e-2)


def test_without_a_last_layer_it_gives_the_features() -> None:
    network = ResNet50(classes=0, width=2, blocks=(1, 1, 1, 1)).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert network(images).shape == (3, network.feature_size) == (3, 64)
        assert torch.equal(network(images), network.pooled_features(images))


def test_it_starts_as_torchvisions() -> None:
    torch.manual_seed(3)
    for module in ResNet50(classes=0, width=16).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            outputs = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.06)


def written_out(
    images: Tensor, weights: dict[str, Tensor], blocks: tuple[int, ...], *, caffe: bool
) -> Tensor:
    """Compute the network operation by operation, as Caffe's model or torchvision's."""

    def normalized(maps: Tensor, name: str) -> Tensor:
        kinds = ('running_mean', 'running_var', 'weight', 'bias')
        mean, variance, scale, shift = (weights[f'{name}.{kind}'][:, None, None] for kind in kinds)
        return (maps - mean) / (variance + 1e-5).sqrt() * scale + shift

    def convolved(maps: Tensor, name: str, stride: int, padding: int) -> Tensor:
        return F.conv2d(maps, weights[f'{name}.weight'], stride=stride, padding=padding)

    maps = normalized(convolved(images, 'conv1', 2, 3), 'bn1').relu()
    if caffe:
        height, width = maps.shape[2:]
        maps = F.pad(maps, (0, (width + 1) % 2, 0, (height + 1) % 2))  # nothing below 0 here
        maps = F.max_pool2d(maps, 3, 2)
    else:
        maps = F.max_pool2d(maps, 3, 2, padding=1)
    for layer, count in enumerate(blocks, 1):
        for block in range(count):
            name = f'layer{layer}.{block}'
            stride = 2 if layer > 1 and block == 0 else 1
            first, second = (stride, 1) if caffe else (1, stride)
            inner = normalized(convolved(maps, f'{name}.conv1', first, 0), f'{name}.bn1').relu()
            inner = normalized(convolved(inner, f'{name}.conv2', second, 1), f'{name}.bn2').relu()
            inner = normalized(convolved(inner, f'{name}.conv3', 1, 0), f'{name}.bn3')
            if block == 0:
                shortcut = convolved(maps, f'{name}.downsample.0', stride, 0)
                maps = normalized(shortcut, f'{name}.downsample.1')
            maps = (maps + inner).relu()
    return F.linear(maps.mean((2, 3)), weights['fc.weight'], weights['fc.bias'])
