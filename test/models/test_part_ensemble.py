# SPDX-License-Identifier: Apache-2.0
"""The part-based ensemble has the paper's sizes and computes its equations."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fer_perception.models.dropout import SeededDropout, seeded_generator
from fer_perception.models.part_ensemble import (
    KINDS,
    LANDMARK_PARTS,
    ConvolutionBlock,
    PartEnsemble,
    PartEnsembleConfig,
)

F = 8  # features of the small networks


def small(**changes: Any) -> PartEnsemble:
    """Make a small ensemble in evaluation mode, whose batch norms are not the identity."""
    settings: dict[str, Any] = {
        'classes': 3, 'image_size': 16, 'channels': (3, 4, 5, F), 'hidden': 6, 'padding': 'same'
    }
    torch.manual_seed(1)
    network = PartEnsemble(PartEnsembleConfig(**(settings | changes)))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return network.eval()


def count(*modules: nn.Module | None) -> int:
    return sum(p.numel() for module in modules if module for p in module.parameters())


@torch.no_grad()
def test_parameters_are_as_many_as_the_paper_says() -> None:
    network = PartEnsemble(PartEnsembleConfig(classes=8))
    nose = network.sub_networks[network.members.index('nose')]
    assert count(nose.extractor) == 294_480  # about 0.29 M
    assert round(count(nose.extractor) / 1e6, 2) == 0.29
    assert round(count(nose.localization_head) / 1e6, 3) == 0.019  # 18 outputs
    assert count(nose.classification_head) == pytest.approx(0.035e6, rel=0.03)
    assert round(nose.parameter_count() / 1e6, 2) == 0.33
    # As Keras counts, with the running statistics of the batch norms.
    statistics = sum(b.numel() for n, b in network.named_buffers() if 'running' in n)
    assert round((network.parameter_count() + statistics) / 1e6, 2) == 1.65
    whole = PartEnsemble(PartEnsembleConfig(classes=8, kind='full')).sub_networks[0]
    assert isinstance(whole.localization_head, nn.Module)
    outputs = whole.localization_head.layers[-1]
    assert isinstance(outputs, nn.Linear) and outputs.out_features == 136
    # The paper says 0.025 M for these 136 outputs; what its own text describes has 0.034 M. With
    # one output for each of the 68 points it would be 0.025 M.
    hidden = 128 * 128 + 128
    assert count(whole.localization_head) == hidden + 128 * 136 + 136
    assert round((hidden + 128 * 68 + 68) / 1e6, 3) == 0.025


def test_the_five_parts_are_the_papers_and_share_out_all_landmarks() -> None:
    sizes = {part: 2 * len(points) for part, points in LANDMARK_PARTS.items()}
    assert sizes == {'eyebrows': 20, 'eyes': 24, 'nose': 18, 'mouth': 40, 'jaw': 34}
    assert sorted(sum(LANDMARK_PARTS.values(), ())) == list(range(68))


def test_each_kind_has_five_members_and_finds_its_landmarks() -> None:
    images = torch.randn(2, 3, 16, 16)
    parts, full, baseline = (small(kind=kind) for kind in KINDS)
    assert parts.members == ('eyebrows', 'eyes', 'nose', 'mouth', 'jaw')
    assert full.members == baseline.members == tuple(f'network_{n}' for n in range(1, 6))
    for network in (parts, full, baseline):
        assert network.member_weights == (0.2,) * 5
        assert network(images[:, None]).shape == (2, 5, 3)
    assert [found.shape[1:] for found in parts.localize(images)] == [
        (10, 2), (12, 2), (9, 2), (20, 2), (17, 2)
    ]
    assert [found.shape for found in full.localize(images)] == [(2, 68, 2)] * 5
    with pytest.raises(ValueError, match='baseline'):
        baseline.localize(images)
    without = count(baseline)
    assert parts.parameter_count() == full.parameter_count() == without < count(parts)


def slow_convolution(maps: np.ndarray, layer: nn.Conv2d, border: int) -> np.ndarray:
    """Compute a 3x3 convolution value by value: (C_i, H, W) to (C_o, H', W')."""
    assert layer.bias is not None
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    padded = np.pad(maps, ((0, 0), (border, border), (border, border)))
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    output = np.empty((len(weight), height, width))
    for channel in range(len(weight)):
        for row in range(height):
            for column in range(width):
                seen = padded[:, row : row + 3, column : column + 3]
                output[channel, row, column] = (seen * weight[channel]).sum() + bias[channel]
    return output


def slow_norm(maps: np.ndarray, layer: nn.BatchNorm2d) -> np.ndarray:
    mean, var, weight, bias = (
        getattr(layer, name).detach().double().numpy()[:, None, None]
        for name in ('running_mean', 'running_var', 'weight', 'bias')
    )
    return np.asarray((maps - mean) / np.sqrt(var + layer.eps) * weight + bias)


def slow_pooling(maps: np.ndarray) -> np.ndarray:
    """Take the greatest of 3x3 about every second value."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    half = [(size + 1) // 2 for size in maps.shape[1:]]
    output = np.empty((len(maps), *half))
    for row in range(half[0]):
        for column in range(half[1]):
            seen = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            output[:, row, column] = seen.max((1, 2))
    return output


@pytest.mark.parametrize(('padding', 'size'), [('same', 18), ('valid', 61)])
@torch.no_grad()
def test_the_extractor_is_four_blocks_of_two_convolutions_each(padding: str, size: int) -> None:
    extractor = small(padding=padding, image_size=size).sub_networks[0].extractor
    image = torch.randn(1, 3, size, size)
    maps = image[0].double().numpy()
    assert len(extractor.blocks) == 4
    for block in extractor.blocks:
        assert isinstance(block, ConvolutionBlock)
        kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
        assert [type(layer) for layer in block] == kinds
        for at in (0, 3):
            convolution, norm = block[at], block[at + 1]
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            maps = slow_convolution(maps, convolution, border=int(padding == 'same'))
            maps = np.maximum(slow_norm(maps, norm), 0.0)
        maps = slow_pooling(maps)
    np.testing.assert_allclose(extractor(image)[0], maps.mean((1, 2)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_heads_are_dense_layers_with_relu_between_them() -> None:
    part = small().sub_networks[0]
    features = torch.randn(4, F)
    for head, shape in ((part.classification_head, (4, 3)), (part.localization_head, (4, 10, 2))):
        assert head is not None
        values = features.double().numpy()
        layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
        for index, layer in enumerate(layers):
            values = values @ layer.weight.double().numpy().T + layer.bias.double().numpy()
            if index < len(layers) - 1:
                values = np.maximum(values, 0.0)
        assert len(layers) == (3 if head is part.classification_head else 2)
        np.testing.assert_allclose(head(features), values.reshape(shape), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_vote_sums_the_members_softmax_outputs() -> None:
    """Equations 3 and 4, number by number."""
    network = small()
    images = torch.randn(3, 1, 3, 16, 16)
    logits = 10.0 * network(images)  # far apart, so that the vote differs from a mean of logits
    votes = network.probabilities(logits)
    for n in range(3):
        total = [0.0] * 3
        for member in range(5):
            scores = [float(value) for value in logits[n, member]]
            below = sum(np.exp(score) for score in scores)
            for k, score in enumerate(scores):
                total[k] += np.exp(score) / below
        assert int(votes[n].argmax()) == int(np.argmax(total))
        np.testing.assert_allclose(votes[n], np.array(total) / 5, rtol=1e-5)
    np.testing.assert_allclose(votes.sum(-1), 1.0, rtol=1e-6)


@torch.no_grad()
def test_every_member_answers_from_its_own_features() -> None:
    network = small()
    images = torch.randn(2, 3, 16, 16)
    features = network.frame_features(images)
    assert features.shape == (2, 5 * F)
    logits = network.random_part(features[:, None])
    for index, part in enumerate(network.sub_networks):
        own = features[:, index * F : (index + 1) * F]
        torch.testing.assert_close(own, part.extractor(images))
        torch.testing.assert_close(logits[:, index], part(images))
    features[:, :F] += 1.0
    changed = (network.random_part(features[:, None]) - logits).abs().amax((0, 2))
    assert changed[0] > 0 and not changed[1:].any()


def test_weights_start_from_he_and_glorot_uniform() -> None:
    torch.manual_seed(0)
    network = PartEnsemble(PartEnsembleConfig(classes=8))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            inputs = module.weight[0].numel()
            most = (6 / inputs) ** 0.5
            if isinstance(module, nn.Linear):
                most = (6 / (inputs + module.out_features)) ** 0.5
            assert_uniform(module.weight.detach(), most)
            assert module.bias is not None and not module.bias.any()


def assert_uniform(values: Tensor, most: float) -> None:
    assert float(values.abs().max()) <= most * (1 + 1e-6)
    assert float(values.abs().max()) > 0.95 * most
    assert float(values.std()) == pytest.approx(most / 3**0.5, rel=0.1)


def test_dropout_acts_in_the_classification_heads_alone() -> None:
    network = small(dropout=0.5)
    images = torch.randn(2, 3, 16, 16)
    dropouts = [module for module in network.modules() if isinstance(module, SeededDropout)]
    assert len(dropouts) == 10
    for dropout in dropouts:
        dropout.train()
    with torch.no_grad():
        features = network.frame_features(images)
        torch.testing.assert_close(features, network.frame_features(images))
        assert not torch.equal(
            network.random_part(features[:, None]), network.random_part(features[:, None])
        )
        torch.testing.assert_close(network.localize(images), network.localize(images))
        answers = []
        for _ in range(2):
            generator = seeded_generator(3, device=torch.device('cpu'))
            for dropout in dropouts:
                dropout.generator = generator
            answers.append(network.random_part(features[:, None]))
        torch.testing.assert_close(*answers)


def test_the_localization_heads_learn_to_find_points() -> None:
    network = small(channels=(4, 6, 8, 16), hidden=16).train()
    torch.manual_seed(0)
    images = torch.zeros(24, 3, 16, 16)
    targets = torch.empty(24, 2)
    for index in range(24):  # a bright square, and all points in its middle
        row, column = (int(value) for value in torch.randint(0, 12, (2,)))
        images[index, :, row : row + 4, column : column + 4] = 1.0
        targets[index] = torch.tensor([column + 2, row + 2]) / 16
    nose = network.sub_networks[2]
    optimizer = torch.optim.Adam(nose.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (nose.localize(images) - targets[:, None]).abs().mean()  # equation 1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    guess = float((targets - targets.median(0).values).abs().mean())
    assert min(losses[-5:]) < 0.5 * guess


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'classes': 0}, 'classes must be at least 1, not 0'),
        ({'kind': 'halves'}, "kind must be parts or full or baseline, not 'halves'"),
        ({'padding': 'some'}, "padding must be valid or same, not 'some'"),
        ({'channels': (1, 2, 3)}, 'channels must be 4 positive numbers'),
        ({'channels': (1, 2, 3, 0)}, 'channels must be 4 positive numbers'),
        ({'hidden': 0}, 'hidden must be at least 1, not 0'),
        ({'dropout': 1.0}, 'dropout must be at least 0 and below 1, not 1.0'),
        ({'image_size': 60}, 'image_size 60 leaves nothing for the last block'),
    ],
)
def test_values_that_make_no_network_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PartEnsembleConfig(**({'classes': 3} | changes))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r'\(N, 1, 3, 16, 16\)'):
        small()(torch.zeros(1, 1, 3, 20, 20))
