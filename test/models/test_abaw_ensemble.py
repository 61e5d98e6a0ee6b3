# SPDX-License-Identifier: Apache-2.0
"""The ABAW ensemble's members are what they are called, and the middle frame is answered."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fer_perception.models.abaw_ensemble import (
    AbawEnsemble,
    AbawEnsembleConfig,
    EncoderLayer,
    GruHead,
    TransformerHead,
    sinusoidal_positions,
)
from fer_perception.models.dropout import SeededDropout, seeded_generator
from fer_perception.models.resnet import ResNet50

BLOCKS = (1, 1, 1, 1)


def small(**changes: object) -> AbawEnsembleConfig:
    config = AbawEnsembleConfig(
        classes=3,
        image_size=32,
        frames=5,
        features=8,
        heads=2,
        feedforward=16,
        width=1,
        blocks=BLOCKS,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {k: v.detach().double().numpy() for k, v in module.state_dict().items()}


def copied_into_pytorchs(layer: nn.Module, *, sizes: tuple[int, int, int]) -> nn.Module:
    """Copy the weights of an EncoderLayer of (features, heads, feedforward) into PyTorch's."""
    theirs = nn.TransformerEncoderLayer(*sizes, 0.0, 'gelu', batch_first=True, norm_first=True)
    ours = layer.state_dict()
    names = {
        'queries_keys_values.weight': 'self_attn.in_proj_weight',
        'queries_keys_values.bias': 'self_attn.in_proj_bias',
        'attention_output': 'self_attn.out_proj',
        'attention_norm': 'norm1',
        'feedforward_norm': 'norm2',
        'feedforward.0': 'linear1',
        'feedforward.3': 'linear2',
    }
    weights = {}
    for name, tensor in ours.items():
        stem = next(stem for stem in names if name.startswith(stem))
        weights[name.replace(stem, names[stem])] = tensor
    theirs.load_state_dict(weights, strict=True)
    return theirs


def test_positions_are_those_of_attention_is_all_you_need() -> None:
    positions = sinusoidal_positions(9, 12)
    assert positions.shape == (9, 12)
    for position in range(9):
        for i in range(6):
            angle = position / 10000 ** (2 * i / 12)
            assert positions[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert positions[position, 2 * i + 1].item() == pytest.approx(
                math.cos(angle), abs=1e-6
            )


def test_pytorchs_encoder_layer_answers_the_same_without_dropout() -> None:
    torch.manual_seed(1)
    layer = EncoderLayer(features=12, heads=3, feedforward=20, dropout=0.5).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs = copied_into_pytorchs(layer, sizes=(12, 3, 20))
    frames = torch.randn(4, 9, 12)
    # Theirs in training mode, where PyTorch takes no shortcut
    assert torch.allclose(layer(frames), theirs(frames), atol=1e-5)
    assert not torch.allclose(layer(frames), frames, atol=0.1)


def test_attention_is_the_softmax_of_scaled_products_head_by_head() -> None:
    torch.manual_seed(2)
    layer = EncoderLayer(features=8, heads=2, feedforward=4, dropout=0.0).eval()
    nn.init.zeros_(layer.feedforward[3].weight)  # type: ignore[arg-type]
    nn.init.zeros_(layer.feedforward[3].bias)  # type: ignore[arg-type]
    frames = torch.randn(1, 5, 8)
    weights = arrays(layer)
    rows = frames[0].double().numpy()
    normed = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    parts = normed @ weights['queries_keys_values.weight'].T + weights['queries_keys_values.bias']
    queries, keys, values = np.split(parts, 3, axis=1)
    mixed = np.zeros((5, 8))
    for head in (slice(0, 4), slice(4, 8)):
        for t in range(5):
            scores = [np.exp(queries[t, head] @ keys[s, head] / 2.0) for s in range(5)]
            for s in range(5):
                mixed[t, head] += scores[s] / sum(scores) * values[s, head]
    expected = rows + mixed @ weights['attention_output.weight'].T
    expected += weights['attention_output.bias']
    assert np.allclose(layer(frames)[0].detach(), expected, atol=1e-5)


def test_transformer_is_positions_layers_norm_and_head() -> None:
    torch.manual_seed(3)
    config = small(layers=2)
    member = TransformerHead(config).eval()
    layers = [copied_into_pytorchs(layer, sizes=(8, 2, 16)) for layer in member.layers]
    frames = torch.randn(2, 5, 8)
    encoded = frames + sinusoidal_positions(5, 8)
    for layer in layers:
        encoded = layer(encoded)
    expected = member.head.linear(nn.functional.layer_norm(encoded, (8,)))
    assert torch.allclose(member(frames), expected, atol=1e-5)
    turned = member(frames.flip(1)).flip(1)
    assert not torch.allclose(turned, expected, atol=1e-3)  # it knows the order


def test_gru_has_two_layers_that_run_both_ways() -> None:
    torch.manual_seed(4)
    member = GruHead(small()).eval()
    weights = arrays(member)

    def sigmoid(values: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-values))

    def direction(suffix: str, frames: list[np.ndarray]) -> list[np.ndarray]:
        state, states = np.zeros(4), []
        for frame in frames:
            into = weights[f'gru.weight_ih_{suffix}'] @ frame + weights[f'gru.bias_ih_{suffix}']
            held = weights[f'gru.weight_hh_{suffix}'] @ state + weights[f'gru.bias_hh_{suffix}']
            (r_in, z_in, n_in), (r_held, z_held, n_held) = np.split(into, 3), np.split(held, 3)
            reset, update = sigmoid(r_in + r_held), sigmoid(z_in + z_held)
            state = (1 - update) * np.tanh(n_in + reset * n_held) + update * state
            states.append(state)
        return states

    frames = torch.randn(1, 5, 8)
    rows = list(frames[0].double().numpy())
    for layer in range(2):
        ahead = direction(f'l{layer}', rows)
        back = direction(f'l{layer}_reverse', rows[::-1])[::-1]
        rows = [np.r_[a, b] for a, b in zip(ahead, back, strict=True)]
    expected = np.maximum(rows, 0) @ weights['head.linear.weight'].T + weights['head.linear.bias']
    assert np.allclose(member(frames)[0].detach(), expected, atol=1e-5)
    assert not [name for name in weights if 'l2' in name]


def test_answer_is_that_of_the_middle_frame() -> None:
    torch.manual_seed(5)
    network = AbawEnsemble(small()).eval()
    features = torch.randn(2, 5, network.feature_size)
    over_time = network.logits_over_time(features)
    assert over_time.shape == (2, 5, 3, 3)
    assert torch.allclose(network.random_part(features), over_time[:, 2], atol=1e-6)
    changed = features.clone()
    changed[:, [0, 4]] *= -2.0
    cnn, gru, transformer = network.random_part(changed).unbind(1)
    before = network.random_part(features)
    assert torch.equal(cnn, before[:, 0])  # it alone reads no other frame
    assert not torch.allclose(gru, before[:, 1], atol=1e-4)
    assert not torch.allclose(transformer, before[:, 2], atol=1e-4)


@pytest.mark.parametrize('shared', [False, True])
def test_every_member_has_its_own_backbone_unless_they_share_one(shared: bool) -> None:
    torch.manual_seed(6)
    network = AbawEnsemble(small(shared_backbone=shared)).eval()
    assert len(network.backbones) == (1 if shared else 3)
    images = torch.randn(2, 3, 32, 32)
    pooled = [network.backbones[0 if shared else index](images) for index in range(3)]
    kept = network.frame_features(images)
    assert kept.shape == (2, network.feature_size) == (2, 32 + 8 + 8)
    assert torch.allclose(kept[:, :32], pooled[0], atol=1e-6)
    assert torch.allclose(kept[:, 32:40], network.gru_projection(pooled[1]).relu(), atol=1e-6)
    assert torch.allclose(kept[:, 40:], network.transformer_projection(pooled[2]), atol=1e-6)


def test_parts_make_the_whole_and_members_vote_by_their_weights() -> None:
    torch.manual_seed(7)
    network = AbawEnsemble(small(weights=(0.5, 0.2, 0.3))).eval()
    images = torch.randn(2, 5, 3, 32, 32)
    with torch.no_grad():
        logits = network(images)
        features = network.deterministic_part(images)
        assert torch.allclose(network.random_part(features), logits, atol=1e-6)
    votes = [
        weight * np.exp(row) / np.exp(row).sum(-1, keepdims=True)
        for weight, row in zip((0.5, 0.2, 0.3), logits.numpy().swapaxes(0, 1), strict=True)
    ]
    assert np.allclose(network.probabilities(logits), sum(votes), atol=1e-6)
    assert network.members == ('cnn', 'cnn_gru', 'cnn_transformer')


def test_dropout_lies_in_the_random_part_and_is_seeded() -> None:
    network = AbawEnsemble(small(dropout=0.3)).eval()
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert all(isinstance(module, SeededDropout) for module in dropouts)
    assert len(dropouts) == 3 + 1 + 2 * 3  # before the heads, the positions, in the layers
    images = torch.randn(1, 5, 3, 32, 32)
    features = network.deterministic_part(images)

    def drawn(seed: int) -> torch.Tensor:
        generator = seeded_generator(seed, device=torch.device('cpu'))
        for dropout in dropouts:
            dropout.train()
            dropout.generator = generator  # type: ignore[assignment]
        return network.random_part(features)

    assert torch.equal(drawn(1), drawn(1))
    for member in range(3):
        assert not torch.equal(drawn(1)[:, member], drawn(2)[:, member])
    assert torch.equal(network.deterministic_part(images), features)


def test_every_parameter_learns_from_every_frame() -> None:
    torch.manual_seed(8)
    network = AbawEnsemble(small(width=2)).train()
    images = torch.randn(2, 5, 3, 64, 64)
    features = network.frame_features(images.flatten(0, 1)).reshape(2, 5, -1)
    features.retain_grad()
    network.logits_over_time(features).square().sum().backward()
    assert features.grad is not None and features.grad.abs().sum((0, 2)).min() > 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_the_papers_ensemble_has_its_sizes() -> None:
    with torch.device('meta'):
        network = AbawEnsemble(AbawEnsembleConfig(classes=7))
        shared = AbawEnsemble(AbawEnsembleConfig(classes=7, shared_backbone=True))
    assert (network.frames, network.image_size) == (9, 112)
    assert network.feature_size == 2048 + 2 * 768
    backbone = 25_557_032 - 1000 * 2049
    assert network.parameter_count() - shared.parameter_count() == 2 * backbone
    gru = sum(2 * 3 * 384 * (inputs + 384 + 2) for inputs in (768, 768))
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    heads = (2048 * 7 + 7) + 2 * (768 * 7 + 7)
    rest = gru + 2 * layer + 2 * 768 + heads + 2 * (2048 * 768 + 768)
    assert shared.parameter_count() == backbone + rest


def test_published_weights_are_loaded_by_path(tmp_path: Path) -> None:
    published = ResNet50(classes=8631, width=1, blocks=BLOCKS)
    torch.save(published.state_dict(), tmp_path / 'resnet50_ft.pth')
    network = AbawEnsemble(small())
    network.load_backbone(tmp_path / 'resnet50_ft.pth')
    for backbone in network.backbones:
        for name, tensor in backbone.state_dict().items():
            assert torch.equal(tensor, published.state_dict()[name])
    network.load_backbone(tmp_path / 'resnet50_ft.pth', bgr=True)
    for backbone in network.backbones:
        assert torch.equal(backbone.state_dict()['conv1.weight'], published.conv1.weight.flip(1))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'classes': 0}, 'classes must be at least 1, not 0'),
        ({'image_size': 16}, 'image_size .* not 16'),
        ({'frames': 8}, 'frames must be odd'),
        ({'frames': -1}, 'frames must be at least 1'),
        ({'features': 9}, 'features must be an even number'),
        ({'heads': 3}, 'heads must divide features 8, not be 3'),
        ({'layers': 0}, 'layers'),
        ({'feedforward': 0}, 'feedforward'),
        ({'weights': (0.5, 0.5)}, 'weights must be 3 numbers'),
        ({'weights': (1.5, -0.5, 0.0)}, 'weights'),
        ({'weights': (0.5, 0.5, 0.5)}, 'weights .* sum to 1'),
        ({'weights': (float('nan'), 0.5, 0.5)}, 'weights'),
        ({'dropout': -0.1}, 'dropout'),
        ({'width': 0}, 'width'),
        ({'blocks': (3, 4, 6)}, 'blocks must be four positive numbers'),
        ({'blocks': (3, 4, 0, 3)}, 'blocks'),
    ],
)
def test_bad_configurations_are_refused_by_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)
