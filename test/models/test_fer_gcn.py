# SPDX-License-Identifier: Apache-2.0
"""FER-GCN computes the paper's equations, one by one, and each row of its table V."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_perception.models.dropout import SeededDropout, seeded_generator
from fer_perception.models.fer_gcn import (
    FerGcn,
    FerGcnConfig,
    GraphModule,
    LstmRecurrence,
    WrittenRecurrence,
)
from fer_perception.models.tensor_file import ModelFileError
from fer_perception.models.vgg import Vgg16Bn

T, D = 5, 6  # frames and features of the small networks
RECURRENCES = ('lstm', 'equation_6')


def small(**changes: object) -> FerGcnConfig:
    config = FerGcnConfig(classes=3, image_size=32, frames=T, features=D, width=2)
    return replace(config, **changes)  # type: ignore[arg-type]


def with_adjacency(config: FerGcnConfig) -> FerGcn:
    """Build a network whose adjacency has learned something."""
    network = FerGcn(config).eval()
    if network.adjacency is not None:
        torch.nn.init.normal_(network.adjacency)
    return network


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-values))


def arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {k: v.detach().double().numpy() for k, v in module.state_dict().items()}


def graph_layer(nodes: np.ndarray, adjacency: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Equations 1 to 4 for one sequence, node by node: (T, d), (T, T), W (d, d) to (T, d)."""
    outputs = []
    for i in range(len(nodes)):
        others = [j for j in range(len(nodes)) if j != i]
        neighbours = np.stack([nodes[j] for j in others])  # (1)
        messages = neighbours @ weight  # (2)
        relations = np.array([adjacency[i, j] for j in others])  # (3)
        total = relations @ messages + adjacency[i, i] * (nodes[i] @ weight)  # (4)
        outputs.append(np.where(total > 0, total, 0.2 * total))
    return np.stack(outputs)


def written_recurrence(nodes: np.ndarray, module: WrittenRecurrence) -> np.ndarray:
    """Equation 6 as it is written, for one sequence: (T, d) to (T, d)."""
    weights = arrays(module)
    state_f, state_b = np.zeros(D), np.zeros(D)
    ahead: list[np.ndarray] = []
    back: list[np.ndarray] = []
    for i in range(T):
        inner = sigmoid(weights['forward_embedding.weight'] @ np.r_[state_f, nodes[i]])
        state_f = weights['forward_projection.weight'] @ inner
        ahead.append(state_f)
        inner = sigmoid(weights['backward_embedding.weight'] @ np.r_[state_b, nodes[T - 1 - i]])
        state_b = weights['backward_projection.weight'] @ inner
        back.insert(0, state_b)
    return np.stack([np.tanh(ahead[i] + back[i] + weights['bias']) for i in range(T)])


def lstm_recurrence(nodes: np.ndarray, module: LstmRecurrence) -> np.ndarray:
    """Equation 6 with LSTMs, gate by gate, for one sequence: (T, d) to (T, d)."""
    weights = arrays(module)

    def direction(suffix: str, frames: list[np.ndarray]) -> list[np.ndarray]:
        state, cell, states = np.zeros(D // 2), np.zeros(D // 2), []
        for frame in frames:
            gates = (
                weights[f'lstm.weight_ih_l0{suffix}'] @ frame
                + weights[f'lstm.bias_ih_l0{suffix}']
                + weights[f'lstm.weight_hh_l0{suffix}'] @ state
                + weights[f'lstm.bias_hh_l0{suffix}']
            )
            into, forget, candidate, out = np.split(gates, 4)
            cell = sigmoid(forget) * cell + sigmoid(into) * np.tanh(candidate)
            state = sigmoid(out) * np.tanh(cell)
            states.append(state)
        return states

    ahead = direction('', list(nodes))
    back = direction('_reverse', list(nodes[::-1]))[::-1]
    v_f, v_b = np.split(weights['projection.weight'], 2, axis=1)
    bias = weights['projection.bias']
    return np.stack([np.tanh(v_f @ ahead[i] + v_b @ back[i] + bias) for i in range(T)])


def intensity(adjacency: np.ndarray) -> np.ndarray:
    """Equation 7: the share of each frame in the softmax of the means of the columns."""
    means = [sum(adjacency[i, j] for i in range(T)) / T for j in range(T)]
    return np.array([np.exp(mean) / sum(np.exp(means)) for mean in means])


def test_graph_layer_computes_equations_1_to_4() -> None:
    torch.manual_seed(1)
    module = GraphModule(features=D, recurrence='lstm', dropout=0.0)
    nodes, adjacency = torch.randn(2, T, D), torch.randn(T, T)
    kept: list[torch.Tensor] = []
    module.recurrence.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        module(nodes, adjacency)
    weight = arrays(module)['embedding.weight'].T
    for sequence in range(2):
        expected = graph_layer(nodes[sequence].double().numpy(), adjacency.numpy(), weight)
        assert np.allclose(kept[0][sequence], expected, atol=1e-5)


def test_at_the_start_every_frame_is_independent() -> None:
    network = FerGcn(FerGcnConfig(classes=7, image_size=32, width=1, features=4))
    assert torch.equal(network.adjacency, torch.eye(16))  # type: ignore[arg-type]
    assert torch.allclose(network.intensity_weights(), torch.full((16,), 1 / 16))


def test_written_recurrence_computes_equation_6() -> None:
    torch.manual_seed(2)
    module = WrittenRecurrence(D)
    torch.nn.init.normal_(module.bias)
    assert module.forward_embedding.weight.shape == (D // 2, 2 * D)
    assert module.backward_projection.weight.shape == (D, D // 2)
    nodes = torch.randn(2, T, D)
    for sequence, answer in zip(nodes, module(nodes).detach(), strict=True):
        expected = written_recurrence(sequence.double().numpy(), module)
        assert np.allclose(answer, expected, atol=1e-5)


def test_lstm_recurrence_computes_equation_6_with_lstms() -> None:
    torch.manual_seed(3)
    module = LstmRecurrence(D)
    nodes = torch.randn(2, T, D)
    for sequence, answer in zip(nodes, module(nodes).detach(), strict=True):
        expected = lstm_recurrence(sequence.double().numpy(), module)
        assert np.allclose(answer, expected, atol=1e-5)


def test_equation_5_is_the_step_of_gradient_descent_without_the_branch_of_the_weights() -> None:
    torch.manual_seed(4)
    network = with_adjacency(small())
    adjacency: Any = network.adjacency
    nodes, labels = torch.randn(4, T, D), torch.tensor([0, 1, 2, 0])
    rate = 0.5

    def loss_of(matrix: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        features = nodes
        for module in network.graph_modules:
            features = module(features, matrix)
        fused = torch.stack([sum(weights[i] * row[i] for i in range(T)) for row in features])
        return torch.nn.functional.cross_entropy(network.classifier(fused), labels)

    matrix = adjacency.detach().clone().requires_grad_()
    (with_branch,) = torch.autograd.grad(loss_of(matrix, matrix.mean(0).softmax(0)), matrix)
    frozen = matrix.detach().mean(0).softmax(0)
    (gradient,) = torch.autograd.grad(loss_of(matrix, frozen), matrix)
    assert not torch.allclose(gradient, with_branch, atol=1e-5)

    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    before = adjacency.detach().clone()
    logits = network.random_part(nodes)[:, 0]
    torch.nn.functional.cross_entropy(logits, labels).backward()
    optimizer.step()
    assert torch.allclose(adjacency, before - rate * gradient, atol=1e-6)
    assert (adjacency - before).abs().max() > 1e-4


def test_intensity_weights_are_equation_7_without_a_gradient() -> None:
    network = with_adjacency(small())
    adjacency: Any = network.adjacency
    weights = network.intensity_weights()
    assert not weights.requires_grad
    assert np.allclose(weights, intensity(adjacency.detach().numpy()), atol=1e-6)
    assert weights.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize('recurrence', RECURRENCES)
@pytest.mark.parametrize(
    ('modules', 'weighted'), [(0, False), (1, False), (2, False), (3, False), (2, True)]
)
def test_every_row_of_table_5_is_the_chain_of_its_equations(
    modules: int, weighted: bool, recurrence: str
) -> None:
    torch.manual_seed(5)
    config = small(modules=modules, weighted_fusion=weighted, recurrence=recurrence)
    network = with_adjacency(config)
    assert len(network.graph_modules) == modules
    matrices = [name for name, value in network.named_parameters() if value.shape == (T, T)]
    assert matrices == (['adjacency'] if modules else [])  # one, shared by the modules
    nodes = torch.randn(2, T, D)
    weights = np.full(T, 1 / T)
    with torch.no_grad():
        answers = network.random_part(nodes)
    assert answers.shape == (2, 1, 3)
    for sequence in range(2):
        features = nodes[sequence].double().numpy()
        for module in network.graph_modules:
            assert network.adjacency is not None
            matrix = network.adjacency.detach().numpy()
            inner: Any = module.recurrence
            features = graph_layer(features, matrix, arrays(module)['embedding.weight'].T)
            follow: Any = lstm_recurrence if recurrence == 'lstm' else written_recurrence
            features = follow(features, inner)
            weights = intensity(matrix) if weighted else weights
        fused = sum(weights[i] * features[i] for i in range(T))  # (8)
        head = arrays(network.classifier)
        expected = head['weight'] @ fused + head['bias']
        assert np.allclose(answers[sequence, 0], expected, atol=1e-5)


def test_nodes_are_the_projected_means_of_the_maps() -> None:
    torch.manual_seed(6)
    network = FerGcn(small(image_size=70)).eval()
    images = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        maps = network.features(images).numpy()
        nodes = network.frame_features(images)
    assert maps.shape == (2, 16, 2, 2)
    head = arrays(network.projection)
    for image in range(2):
        pooled = np.array([maps[image, c].mean() for c in range(16)])
        assert np.allclose(nodes[image], head['weight'] @ pooled + head['bias'], atol=1e-5)


def test_parts_make_the_whole() -> None:
    torch.manual_seed(7)
    network = FerGcn(small()).eval()
    images = torch.randn(2, T, 3, 32, 32)
    with torch.no_grad():
        features = network.deterministic_part(images)
        assert features.shape == (2, T, network.feature_size)
        assert torch.allclose(network(images), network.random_part(features), atol=1e-6)
        one_by_one = torch.stack([network.frame_features(images[:, i]) for i in range(T)], 1)
        assert torch.allclose(features, one_by_one, atol=1e-5)
        assert torch.allclose(network.probabilities(network(images)).sum(-1), torch.ones(2))
    with pytest.raises(ValueError, match='shape'):
        network(images[:, 1:])


def test_paper_has_no_dropout_and_a_given_one_is_seeded() -> None:
    assert FerGcnConfig(classes=7).dropout == 0.0
    network = FerGcn(small(dropout=0.5)).eval()
    dropouts = [module for module in network.modules() if isinstance(module, SeededDropout)]
    assert len(dropouts) == 2
    nodes = torch.randn(3, T, D)

    def drawn(seed: int) -> torch.Tensor:
        for dropout in dropouts:
            dropout.train()
            dropout.generator = seeded_generator(seed, device=torch.device('cpu'))
        return network.random_part(nodes)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize('recurrence', RECURRENCES)
def test_every_parameter_learns(recurrence: str) -> None:
    torch.manual_seed(8)
    network = FerGcn(small(recurrence=recurrence)).train()
    network(torch.randn(4, T, 3, 32, 32)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if not (name.startswith('features.') and name.endswith('.bias')):  # batch norm removes it
            assert parameter.grad.any(), name


@pytest.mark.parametrize('recurrence', RECURRENCES)
def test_it_learns_when_something_happened(recurrence: str) -> None:
    torch.manual_seed(9)
    network = FerGcn(small(classes=2, recurrence=recurrence, features=16))
    labels = torch.arange(64) % 2
    nodes = 0.3 * torch.randn(64, T, 16)
    nodes[labels == 0, 0, 0] += 2.0  # the same event, in the first frame or in the last
    nodes[labels == 1, -1, 0] += 2.0
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network.random_part(nodes)[:, 0], labels)
        loss.backward()
        optimizer.step()
    answers = network.random_part(nodes)[:, 0].argmax(-1)
    assert (answers == labels).float().mean() > 0.95


def test_the_papers_network_has_its_sizes() -> None:
    with torch.device('meta'):
        network = FerGcn(FerGcnConfig(classes=7))
    assert (network.frames, network.image_size, network.feature_size) == (16, 224, 256)
    vgg = 138_365_992 - (25_088 * 4096 + 4096) - (4096 * 4096 + 4096) - (4096 * 1000 + 1000)
    lstm = 2 * (4 * 128 * (256 + 128) + 8 * 128) + 256 * 256 + 256
    rest = 16 * 16 + (512 * 256 + 256) + 2 * (256 * 256 + lstm) + (256 * 7 + 7)
    assert network.parameter_count() == vgg + rest == 15_909_703


def test_published_weights_are_loaded_by_path(tmp_path: Path) -> None:
    published = Vgg16Bn(width=2)
    torch.save(published.state_dict(), tmp_path / 'vgg16_bn.pth')
    network = FerGcn(small())
    network.load_backbone(tmp_path / 'vgg16_bn.pth')
    for name, tensor in published.features.state_dict().items():
        assert torch.equal(network.features.state_dict()[name], tensor)
    with pytest.raises(ModelFileError, match='wrong shape'):
        FerGcn(small(width=1)).load_backbone(tmp_path / 'vgg16_bn.pth')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'classes': 0}, 'classes .* not 0'),
        ({'image_size': 31}, 'image_size must be at least 32, not 31'),
        ({'frames': 0}, 'frames'),
        ({'features': 7}, 'features must be an even number, not 7'),
        ({'modules': 4}, 'modules must be at most 3, not 4'),
        ({'modules': -1}, 'modules'),
        ({'modules': 0}, 'weighted_fusion'),
        ({'recurrence': 'gru'}, "recurrence must be lstm or equation_6, not 'gru'"),
        ({'dropout': 1.0}, 'dropout .* not 1.0'),
        ({'width': 0}, 'width'),
    ],
)
def test_bad_configurations_are_refused_by_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)
