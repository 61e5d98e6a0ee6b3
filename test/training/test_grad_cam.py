# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM computes equations 5 and 6, and shows what a recogniser really looks at."""

from typing import Any

import numpy as np
import pytest
import torch
from image_models_made import small_image_model
from torch import Tensor, nn

from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.part_ensemble import PartEnsemble, PartEnsembleConfig
from fer_training.grad_cam import (
    convolution_maps,
    grad_cam,
    member_grad_cams,
    normalize_maps,
    unite_maps,
)

SIZE = 16


class Tiny(nn.Module):
    """A convolution, and a score that is no plain mean of its maps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convolution = nn.Conv2d(3, 4, 3, stride=2)
        self.activation = nn.ReLU(inplace=True)
        self.weight = nn.Parameter(torch.randn(4, 7, 7))

    def score_of(self, maps: Tensor) -> Tensor:
        return (self.activation(maps) ** 2 * self.weight).sum((1, 2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.score_of(self.convolution(images))


@torch.no_grad()
def test_maps_follow_from_finite_differences() -> None:
    """Derive the score by each value of each map (5), and sum up the maps (6), one by one."""
    network = Tiny().double().eval()
    images = torch.randn(2, 3, 15, 15, dtype=torch.float64)
    found = grad_cam(network.convolution, network, images)
    step = 1e-6
    for image, own in zip(images, found, strict=True):
        maps = network.convolution(image[None])
        height, width = maps.shape[2:]
        combined = torch.zeros(height, width, dtype=torch.float64)
        for k in range(4):
            alpha = 0.0
            for i in range(height):
                for j in range(width):
                    more, less = maps.clone(), maps.clone()
                    more[0, k, i, j] += step
                    less[0, k, i, j] -= step
                    difference = float(network.score_of(more) - network.score_of(less))
                    alpha += difference / (2 * step) / (height * width)
            combined += alpha * maps[0, k]
        expected = nn.functional.interpolate(
            combined.clamp(min=0)[None, None], (15, 15), mode='bilinear'
        )[0, 0]
        assert float(expected.max()) > 0
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_in_the_middle_of_a_network_leaves_no_trace() -> None:
    network = Tiny().eval()
    images = torch.randn(1, 3, 15, 15)
    before = network(images).detach()
    grad_cam(network.convolution, network, images)
    torch.testing.assert_close(network(images).detach(), before)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.convolution._forward_hooks


class LeftHalf(ImageNetwork):
    """Sees the left half of an image only, and the class 1 nowhere."""

    def __init__(self) -> None:
        super().__init__(
            frames=1, image_size=SIZE, members=('left',), member_weights=(1.0,), feature_size=2
        )
        torch.manual_seed(0)
        self.maps = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU())

    def frame_features(self, images: Tensor) -> Tensor:
        mask = torch.zeros(SIZE)
        mask[: SIZE // 2] = 1.0
        # The maps themselves are of the left half, as if the image ended there.
        return (self.maps(images * mask)).mean((2, 3))

    def random_part(self, features: Tensor) -> Tensor:
        total = features[:, 0].sum(-1)
        return torch.stack((total, -total), -1)[:, None]  # (N, 1, 2)


def test_a_network_that_sees_half_of_an_image_has_a_map_there_only() -> None:
    network = LeftHalf().eval()
    convolution = network.maps[0]
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    nn.init.uniform_(convolution.weight, 0.1, 1.0)
    images = torch.rand(2, 3, SIZE, SIZE)
    left = grad_cam(network.maps, lambda x: network(x[:, None])[:, 0, 0], images)
    assert (left[..., : SIZE // 2] > 0).all()
    assert not left[..., SIZE // 2 + 1 :].any()  # a kernel reaches one pixel further
    # All of it speaks against the other class: nothing is left of its map.
    assert not grad_cam(network.maps, lambda x: network(x[:, None])[:, 0, 1], images).any()


@pytest.mark.parametrize('architecture', ['part_ensemble', 'fer_gcn', 'abaw_ensemble'])
def test_every_member_of_every_recogniser_has_maps(architecture: str) -> None:
    changes: dict[str, Any] = {'padding': 'same'} if architecture == 'part_ensemble' else {}
    network = small_image_model(architecture, **changes).network
    size = network.image_size
    torch.manual_seed(1)
    images = torch.randn(2, network.frames, 3, size, size)
    classes = torch.tensor([0, 4])
    assert len(convolution_maps(network)) == len(network.members)
    maps = member_grad_cams(network, images, classes)
    assert maps.shape == (2, len(network.members), network.frames, size, size)
    assert (maps >= 0).all() and maps.any()
    # Sequences do not mix, whatever they are computed with; nor do classes.
    torch.testing.assert_close(member_grad_cams(network, images[1:], classes[1:]), maps[1:])
    assert not torch.allclose(member_grad_cams(network, images, classes.flip(0)), maps)


def test_shared_backbones_serve_all_members() -> None:
    network = small_image_model('abaw_ensemble', shared_backbone=True).network
    modules = convolution_maps(network)
    assert len(modules) == 3 and modules[0] is modules[1] is modules[2]
    maps = member_grad_cams(network, torch.randn(1, 5, 3, 32, 32), torch.tensor([2]))
    assert not torch.allclose(maps[:, 0], maps[:, 1])  # but each asks them something else


def test_maps_of_a_part_are_those_of_its_last_block() -> None:
    config = PartEnsembleConfig(classes=3, image_size=SIZE, channels=(2, 3, 4, 5), padding='same')
    torch.manual_seed(2)
    network = PartEnsemble(config).eval()
    images = torch.randn(1, 3, SIZE, SIZE)
    found = member_grad_cams(network, images[:, None], torch.tensor([1]))[0, :, 0]
    for member, part in enumerate(network.sub_networks):
        extractor = part.extractor
        maps = images
        *earlier, last = extractor.blocks
        for block in earlier:
            maps = extractor.pooling(block(maps))
        maps = last(maps).detach().requires_grad_()  # (1, 5, 2, 2)
        features = extractor.pooling(maps).mean((2, 3))
        part.classification_head(features)[0, 1].backward()
        assert maps.grad is not None
        combined = np.zeros((2, 2))
        for k in range(5):
            alpha = float(maps.grad[0, k].sum()) / 4
            combined += alpha * maps[0, k].detach().numpy()
        expected = nn.functional.interpolate(
            torch.tensor(np.maximum(combined, 0.0), dtype=torch.float32)[None, None],
            (SIZE, SIZE), mode='bilinear',
        )[0, 0]
        torch.testing.assert_close(found[member], expected, rtol=1e-4, atol=1e-6)


def test_a_union_is_as_hot_as_the_hottest_of_its_maps() -> None:
    maps = torch.zeros(3, 4, 4)
    maps[0, 0, 0], maps[0, 1, 1], maps[1, 3, 3] = 2.0, 1.0, 0.001  # the third one is empty
    shown = normalize_maps(maps)
    assert shown[0, 0, 0] == 1 and shown[0, 1, 1] == 0.5 and shown[1, 3, 3] == 1
    assert not shown[2].any()
    union = unite_maps(maps)
    assert union[0, 0] == 1 and union[1, 1] == 0.5 and union[3, 3] == 1
    assert int((union > 0).sum()) == 3


def test_what_has_no_map_is_refused() -> None:
    network = Tiny()
    images = torch.randn(1, 3, 15, 15)
    with pytest.raises(ValueError, match='evaluation mode'):
        grad_cam(network.convolution, network, images)
    network.eval()
    with pytest.raises(ValueError, match='it ran 0 times'):
        grad_cam(nn.Identity().eval(), network, images)
    with pytest.raises(ValueError, match='does not depend'):
        grad_cam(
            network.convolution,
            lambda given: 0.0 * network.convolution(given).detach().sum() + network.weight.sum(),
            images,
        )
    with pytest.raises(ValueError, match='LeftHalf'):
        convolution_maps(LeftHalf())
