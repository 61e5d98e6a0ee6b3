# SPDX-License-Identifier: Apache-2.0
"""The comparison networks compute their published equations and have the paper's sizes."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fer_perception.graph.edges import load_edge_list
from fer_perception.inference.monte_carlo import MonteCarloDropout, only_dropout_active
from fer_training.comparison.agcn import AdaptiveGraphConvolution, Agcn, AgcnConfig
from fer_training.comparison.building import COMPARISON_NETWORKS, build_comparison_network
from fer_training.comparison.dgnn import Dgnn, DgnnConfig, DirectedBlock
from fer_training.comparison.network import ComparisonNetwork
from fer_training.comparison.st_gcn import GraphConvolution, StGcn, StGcnConfig

EDGES = tuple((source, target) for source, target in load_edge_list().tolist())


def small_network(name: str, **changes: Any) -> ComparisonNetwork:
    torch.manual_seed(1)
    settings: dict[str, Any] = {'classes': 3, 'channels': (4, 4, 6), 'quiet': True, **changes}
    return build_comparison_network(name, **settings)


def clips(n: int = 2, frames: int = 8) -> torch.Tensor:
    return torch.randn(n, 2, frames, 51, generator=torch.Generator().manual_seed(2))


def rows_of(weight: torch.Tensor, partitions: int) -> list[torch.Tensor]:
    """Part a joint 1 x 1 convolution into the maps (C_out, C_in) of the partitions."""
    return list(weight[:, :, 0, 0].chunk(partitions, dim=1))


def test_st_gcn_sums_the_neighbours_of_each_partition() -> None:
    torch.manual_seed(3)
    layer = GraphConvolution(2, 3, adjacency=torch.rand(3, 5, 5), edge_importance=True)
    assert layer.topology is not None
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
        features = torch.randn(2, 2, 4, 5)
        weights = rows_of(layer.mixing.weight, 3)
        expected = torch.zeros(2, 3, 4, 5)
        for k, v, u in product(range(3), range(5), range(5)):
            mixed = torch.einsum('dc,nct->ndt', weights[k], features[..., u])
            mixed = mixed + layer.mixing.bias[k][:, None]
            expected[..., v] += layer.adjacency[k, v, u] * layer.topology[k, v, u] * mixed
        torch.testing.assert_close(layer(features), expected, rtol=1e-4, atol=1e-4)


def test_agcn_adds_the_learned_graph_and_that_of_the_clip() -> None:
    torch.manual_seed(4)
    layer = AdaptiveGraphConvolution(2, 3, adjacency=torch.rand(3, 5, 5), embedding=2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
        features = torch.randn(2, 2, 4, 5)
        weights = rows_of(layer.mixing.weight, 3)
        theta, phi = layer.embeddings(features).reshape(2, 2, 3, 2, 4, 5).unbind(1)
        attention = torch.zeros(2, 3, 5, 5)
        for n, k, v in product(range(2), range(3), range(5)):
            scores = [(theta[n, k, ..., v] * phi[n, k, ..., u]).mean() for u in range(5)]
            attention[n, k, v] = torch.stack(scores).softmax(0)
        torch.testing.assert_close(layer.attention(features), attention, rtol=1e-4, atol=1e-5)
        expected = torch.zeros(2, 3, 4, 5)
        for n, k, v, u in product(range(2), range(3), range(5), range(5)):
            mixed = weights[k] @ features[n, :, :, u] + layer.mixing.bias[k][:, None]
            joined = layer.adjacency[k, v, u] + layer.topology[k, v, u] + attention[n, k, v, u]
            expected[n, :, :, v] += joined * mixed
        torch.testing.assert_close(layer(features), expected, rtol=1e-4, atol=1e-4)


def test_dgnn_updates_nodes_by_their_edges_and_edges_by_their_ends() -> None:
    torch.manual_seed(5)
    ends = [(0, 1), (1, 2), (2, 0), (1, 0)]
    incidence = torch.zeros(2, 3, 4)
    for edge, (source, target) in enumerate(ends):
        incidence[0, source, edge] = incidence[1, target, edge] = 1.0
    incidence /= incidence.sum(-1, keepdim=True)
    block = DirectedBlock(2, 5, incidence=incidence, learned=True)
    nodes, edges = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 4)
    with torch.no_grad():
        new_nodes, new_edges = block(nodes, edges)
        for node in range(3):
            leaving = [edges[..., e] for e, (source, _) in enumerate(ends) if source == node]
            arriving = [edges[..., e] for e, (_, target) in enumerate(ends) if target == node]
            means = [torch.stack(group).mean(0) for group in (leaving, arriving)]
            seen = torch.cat([nodes[..., node], *means], dim=1)[..., None]
            torch.testing.assert_close(block.node_update(seen)[..., 0], new_nodes[..., node])
        for edge, (source, target) in enumerate(ends):
            # The incidence is normalised at the nodes, in this direction as well.
            own = [
                nodes[..., node] * incidence[end, node, edge]
                for end, node in enumerate((source, target))
            ]
            seen = torch.cat([edges[..., edge], *own], dim=1)[..., None]
            torch.testing.assert_close(block.edge_update(seen)[..., 0], new_edges[..., edge])


def test_a_layer_adds_both_skips_and_convolves_over_time() -> None:
    network: Any = small_network('st_gcn').eval()
    layer = network.layers[1]  # 4 to 4 channels: both skips are the identity
    features = torch.randn(1, 4, 6, 51)
    with torch.no_grad():
        spatial = F.relu(layer.spatial_norm(layer.graph_convolution(features)) + features)
        convolved = torch.zeros(1, 4, 6, 51) + layer.temporal.bias[:, None, None]
        for t, k in product(range(6), range(9)):
            if 0 <= t + k - 4 < 6:
                weight = layer.temporal.weight[:, :, k, 0]
                convolved[0, :, t] += weight @ spatial[0, :, t + k - 4]
        expected = F.relu(layer.temporal_norm(convolved) + features)
        torch.testing.assert_close(layer(features), expected, rtol=1e-4, atol=1e-5)
    assert network.layers[0].outer_residual is None


def test_dgnn_makes_its_edge_vectors_from_the_landmarks() -> None:
    network: Any = small_network('dgnn').eval()  # an untrained norm changes next to nothing
    points = clips()
    joined = network.prepare(points)
    assert joined.shape == (2, 2, 8, 51 + 181)
    for edge, (source, target) in enumerate(EDGES):
        vector = points[..., source - 17] - points[..., target - 17]
        torch.testing.assert_close(joined[..., 51 + edge], vector, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('name', 'classes', 'without', 'with_topology'),
    [
        ('st_gcn', 7, 131_307, 185_928),  # the paper: 131.3k
        ('agcn', 7, 143_775, 198_396),  # 143.7k
        ('agcn', 6, 143_710, 198_331),
        ('dgnn', 7, 315_235, 538_003),  # 538k
    ],
)
def test_sizes_are_the_papers(name: str, classes: int, without: int, with_topology: int) -> None:
    network = build_comparison_network(
        name, classes=classes, edge_list='edges_312_reference', quiet=True
    )
    assert network.parameter_counts() == (without, with_topology)
    assert f'{without:,}' in network.parameter_summary()
    assert f'{with_topology:,}' in network.parameter_summary()


def test_dgnn_of_oulu_casia_has_the_papers_size() -> None:
    edges = tuple((source, target) for source, target in load_edge_list(
        'edges_312_reference').tolist())[:309]
    network = Dgnn(DgnnConfig(classes=6, edge_list=edges), quiet=True)
    assert network.parameter_counts()[1] == 535_720  # 535.7k


def test_what_is_not_learned_is_not_counted() -> None:
    network = StGcn(StGcnConfig(classes=7, edge_list=EDGES, edge_importance=False), quiet=True)
    assert network.parameter_counts() == (131_307, 131_307)
    fixed = Dgnn(DgnnConfig(classes=7, edge_list=EDGES, learned_incidence=False), quiet=True)
    assert fixed.parameter_counts() == (314_711, 314_711)


@pytest.mark.parametrize('name', COMPARISON_NETWORKS)
def test_the_counts_are_printed_unless_quiet(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = small_network(name, quiet=False)
    assert capsys.readouterr().out.strip() == network.parameter_summary()
    small_network(name)
    assert not capsys.readouterr().out


@pytest.mark.parametrize('name', COMPARISON_NETWORKS)
@pytest.mark.parametrize('frames', [1, 5, 32])
def test_clips_of_any_length_get_logits(name: str, frames: int) -> None:
    network = build_comparison_network(name, classes=7, quiet=True).eval()
    with torch.no_grad():
        features = network.deterministic_part(clips(frames=frames))
        assert features.shape == (2, 8, frames, 51 + (181 if name == 'dgnn' else 0))
        assert network.random_part(features).shape == (2, 7)


@pytest.mark.parametrize('name', COMPARISON_NETWORKS)
def test_parts_make_the_whole_and_only_the_second_is_random(name: str) -> None:
    network = small_network(name).eval()
    points = clips()
    with torch.no_grad():
        whole = network(points)
        assert torch.equal(network.random_part(network.deterministic_part(points)), whole)
        assert torch.equal(network(points), whole)
        with only_dropout_active(network, torch.Generator().manual_seed(1)):
            first = network.deterministic_part(points)
            assert torch.equal(first, network.deterministic_part(points))
            assert not torch.equal(network.random_part(first), network.random_part(first))
        assert torch.equal(network(points), whole)  # and all modes are restored
    samples = MonteCarloDropout(network, samples=4, seed=1)(points)
    assert samples.shape == (4, 2, 3)
    assert torch.equal(samples, MonteCarloDropout(network, samples=4, seed=1)(points))


@pytest.mark.parametrize('name', COMPARISON_NETWORKS)
def test_there_is_a_dropout_after_each_layer_with_the_given_rate(name: str) -> None:
    network = small_network(name, dropout=0.35)
    assert [dropout.p for dropout in network.dropouts] == [0.35] * 3


@pytest.mark.parametrize('name', COMPARISON_NETWORKS)
def test_every_parameter_learns(name: str) -> None:
    network = small_network(name)
    F.cross_entropy(network(clips(n=4)), torch.tensor([0, 1, 2, 0])).backward()
    idle = [
        key
        for key, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    # Batch norm takes a bias before it out again; nothing else may stand still.
    assert not [key for key in idle if not key.endswith('.bias')]


@pytest.mark.parametrize('name', COMPARISON_NETWORKS)
def test_smiles_are_told_from_raised_brows_after_a_few_steps(name: str) -> None:
    network = small_network(name, classes=2, channels=(6, 8))
    generator = torch.Generator().manual_seed(6)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(16) % 2
        points = 0.1 * torch.randn(16, 2, 6, 51, generator=generator)
        rise = torch.linspace(0.0, 1.0, 6)
        points[labels == 0, 1, :, :10] -= rise[:, None]  # brows
        points[labels == 1, 0, :, 31:] += rise[:, None]  # mouth
        return points, labels

    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02)
    for _ in range(25):
        points, labels = batch()
        loss = F.cross_entropy(network(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    points, labels = batch()
    with torch.no_grad():
        accuracy = (network.eval()(points).argmax(-1) == labels).float().mean()
    assert accuracy == 1.0


@pytest.mark.parametrize('name', COMPARISON_NETWORKS)
def test_saved_weights_give_identical_logits(name: str) -> None:
    network = small_network(name)
    network(clips())  # moves the statistics of the batch norms
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    other = small_network(name)
    other.load_state_dict(state)
    assert torch.equal(other.eval()(clips()), network.eval()(clips()))


@pytest.mark.parametrize('name', COMPARISON_NETWORKS)
@pytest.mark.parametrize('shape', [(2, 9, 51), (1, 3, 9, 51), (1, 2, 9, 68)])
def test_inputs_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'the input must have the shape \(N, 2, T, 51\)'):
        small_network(name)(torch.zeros(shape))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'channels': ()}, 'channels'),
        ({'channels': (4, 0)}, 'channels'),
        ({'strides': (1, 1)}, 'strides'),
        ({'dropout': 1.0}, 'dropout'),
        ({'classes': 0}, 'classes'),
        ({'kernel_size': 4}, 'odd'),
        ({'edge_list': ((3, 20),)}, '17 to 67'),
        ({'edge_list': ()}, 'edge list'),
    ],
)
@pytest.mark.parametrize('config', [StGcnConfig, AgcnConfig, DgnnConfig])
def test_bad_configurations_are_refused_by_field(
    config: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config(classes=7, edge_list=EDGES), **changes)


def test_unknown_names_and_keys_are_refused() -> None:
    with pytest.raises(ValueError, match='st_gcn, agcn, dgnn'):
        build_comparison_network('resnet', classes=7)
    with pytest.raises(ValueError, match='embedding_divisor'):
        AgcnConfig(classes=7, edge_list=EDGES, embedding_divisor=0)
    with pytest.raises(TypeError, match='blocks'):
        Agcn(AgcnConfig(classes=7, edge_list=EDGES, blocks=3))  # type: ignore[call-arg]
