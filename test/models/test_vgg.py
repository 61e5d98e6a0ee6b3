# SPDX-License-Identifier: Apache-2.0
"""VGG16 with batch norm is the published one, to the names of its parameters."""

import pytest
import torch
from torch import nn

from fer_perception.models.vgg import Vgg16Bn, vgg16_bn_features

CONVOLUTIONS = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)  # in torchvision's `features`


def test_it_has_the_published_parameters() -> None:
    with torch.device('meta'):
        imagenet, vggface = Vgg16Bn(), Vgg16Bn(classes=2622)
    counts = [sum(p.numel() for p in network.parameters()) for network in (imagenet, vggface)]
    assert counts == [138_365_992, 138_365_992 + 1622 * 4097]
    names = set(imagenet.state_dict())
    expected = {
        f'features.{index}.{kind}' for index in CONVOLUTIONS for kind in ('weight', 'bias')
    }
    expected |= {
        f'features.{index + 1}.{kind}'
        for index in CONVOLUTIONS
        for kind in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    }
    expected |= {
        f'classifier.{index}.{kind}' for index in (0, 3, 6) for kind in ('weight', 'bias')
    }
    assert names == expected
    assert imagenet.state_dict()['features.40.weight'].shape == (512, 512, 3, 3)


def test_torchvision_answers_the_same() -> None:
    vgg = pytest.importorskip('torchvision', reason='torchvision is not installed').models.vgg
    torch.manual_seed(1)
    theirs = vgg.VGG(vgg.make_layers(vgg.cfgs['D'], batch_norm=True), init_weights=False).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.02, 0.1)
    with torch.device('meta'):
        ours = Vgg16Bn().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        expected = theirs(images)
        assert expected.std() > 1e-3
        assert torch.allclose(ours(images), expected, rtol=1e-4, atol=1e-6)


def test_its_features_stand_alone_down_to_the_smallest_images() -> None:
    features = vgg16_bn_features(2).eval()
    with torch.no_grad():
        assert features(torch.randn(2, 3, 32, 32)).shape == (2, 16, 1, 1)
        assert features(torch.randn(2, 3, 100, 64)).shape == (2, 16, 3, 2)
        assert Vgg16Bn(classes=5, width=2).eval()(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_it_starts_as_torchvisions() -> None:
    torch.manual_seed(2)
    network = Vgg16Bn(width=8)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels >= 32:
            deviation = (2 / (9 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(deviation, rel=0.05)
            assert module.bias is not None and not module.bias.any()
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)
            assert not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any()
