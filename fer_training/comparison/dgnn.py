# SPDX-License-Identifier: Apache-2.0
"""DGNN: the directed graph neural network, on the face graph.

Shi, Zhang, Cheng and Lu, "Skeleton-Based Action Recognition with Directed Graph Neural Networks",
CVPR 2019; for faces: Ngoc, Seo and Nam, "Facial Expression Recognition Based on Landmarks with
a Directed Graph Neural Network" (the paper's [13]), seven layers {8, 16, 16, 32, 32, 64, 64}.

Features of the V = 51 nodes and the E edges go through the network side by side, joined in one
tensor (N, C, T, V + E) between layers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_training.comparison.config import ComparisonConfig
from fer_training.comparison.face_graph import NODE_COUNT, edge_nodes, incidence_matrices
from fer_training.comparison.network import ComparisonNetwork, InputNorm, layer_sizes


@dataclass(frozen=True, kw_only=True)
class DgnnConfig(ComparisonConfig):
    """Describe a DGNN."""

    learned_incidence: bool = True  # learn the incidence matrices from the graph's on


class Dgnn(ComparisonNetwork):
    """DGNN. With 7 classes and 312 edges it has 538,003 parameters, 315,235 without topology.

    The paper's 538k counts the 7 * 2 * 51 * 312 = 222,768 entries of the learned incidence
    matrices, though its counts of the other networks leave learned topology out. With 6 classes
    and 309 edges (Oulu-CASIA) they are 535,720: its 535.7k. Compare the count without topology
    with the others'. This fixes what the text leaves open: the edges are updated from the layer's
    input nodes, temporal convolutions have no bias, and projections see K frames.
    """

    title = 'DGNN'
    nodes_of_edges: Tensor

    def __init__(self, config: DgnnConfig, *, quiet: bool = False) -> None:
        """Build the network and, unless `quiet`, print its two parameter counts."""
        incidence = torch.from_numpy(incidence_matrices(config.edges))
        layers = [
            DirectedLayer(incidence, index=index, config=config)
            for index in range(len(config.channels))
        ]
        super().__init__(config, layers=layers, streams=2)
        self.edge_norm = InputNorm(config.in_channels, len(config.edge_list))
        nodes = torch.from_numpy(edge_nodes(config.edges))  # (2, E)
        self.register_buffer('nodes_of_edges', nodes, persistent=False)
        if not quiet:
            print(self.parameter_summary())

    def prepare(self, points: Tensor) -> Tensor:
        """Add the edge vectors, source minus target: (N, 2, T, 51) to (N, 2, T, V + E)."""
        source, target = self.nodes_of_edges
        vectors = points[..., source] - points[..., target]  # (N, 2, T, E)
        return torch.cat([self.input_norm(points), self.edge_norm(vectors)], dim=-1)

    def pool(self, features: Tensor) -> Tensor:
        """Average nodes and edges by themselves: (N, C, T, V + E) to (N, 2 * C)."""
        nodes, edges = split(features)
        return torch.cat([nodes.mean((2, 3)), edges.mean((2, 3))], dim=1)


class DirectedLayer(nn.Module):
    """A directed graph block and a temporal convolution for nodes and for edges."""

    def __init__(self, incidence: Tensor, *, index: int, config: DgnnConfig) -> None:
        """Build layer `index` of the network; incidence: (2, V, E)."""
        super().__init__()
        in_channels, out_channels, stride = layer_sizes(config, index)
        self.block = DirectedBlock(
            in_channels, out_channels, incidence=incidence, learned=config.learned_incidence
        )
        self.node_norm = nn.BatchNorm2d(out_channels)
        self.edge_norm = nn.BatchNorm2d(out_channels)
        self.node_temporal, self.edge_temporal = (
            TemporalConvolution(out_channels, out_channels, stride=stride, config=config)
            for _ in range(2)
        )
        self.node_residual: nn.Module | None = None
        self.edge_residual: nn.Module | None = None
        if index > 0:
            self.node_residual, self.edge_residual = (
                nn.Identity()
                if in_channels == out_channels and stride == 1
                else TemporalConvolution(in_channels, out_channels, stride=stride, config=config)
                for _ in range(2)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C_in, T, V + E) to (N, C_out, ceil(T / stride), V + E)."""
        nodes, edges = split(features)
        new_nodes, new_edges = self.block(nodes, edges)
        new_nodes = self.node_temporal(F.relu(self.node_norm(new_nodes)))
        new_edges = self.edge_temporal(F.relu(self.edge_norm(new_edges)))
        if self.node_residual is not None and self.edge_residual is not None:
            new_nodes = new_nodes + self.node_residual(nodes)
            new_edges = new_edges + self.edge_residual(edges)
        return F.relu(torch.cat([new_nodes, new_edges], dim=-1))


class DirectedBlock(nn.Module):
    """The directed graph block of DGNN (Shi et al., 3.3).

    f_v' = H_v([f_v, f_e A_s^T, f_e A_t^T]), f_e' = H_e([f_e, f_v A_s, f_v A_t]): a node sees the
    edges that leave and reach it, an edge its source and its target. H_v and H_e are linear maps
    of channels; A_s and A_t are the normalised incidence matrices, (V, E), and learned from there
    on (3.4, the adaptive graph).
    """

    topology: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, *, incidence: Tensor, learned: bool
    ) -> None:
        """Build the block; incidence: (2, V, E), source and target."""
        super().__init__()
        if learned:
            self.topology = nn.Parameter(incidence.clone())
        else:
            self.register_buffer('topology', incidence, persistent=False)
        self.node_update = nn.Conv2d(3 * in_channels, out_channels, 1)  # H_v
        self.edge_update = nn.Conv2d(3 * in_channels, out_channels, 1)  # H_e

    def forward(self, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Map nodes (N, C_in, T, V) and edges (N, C_in, T, E) to C_out channels each."""
        source, target = self.topology
        seen_by_nodes = torch.cat([nodes, edges @ source.T, edges @ target.T], dim=1)
        seen_by_edges = torch.cat([edges, nodes @ source, nodes @ target], dim=1)
        return self.node_update(seen_by_nodes), self.edge_update(seen_by_edges)


class TemporalConvolution(nn.Sequential):
    """A centred convolution over K frames without bias, and batch norm."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, config: ComparisonConfig
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                out_channels,
                (config.kernel_size, 1),
                stride=(stride, 1),
                padding=(config.kernel_size // 2, 0),
                bias=False,
            ),
            nn.BatchNorm2d(out_channels),
        )


def split(features: Tensor) -> tuple[Tensor, Tensor]:
    """Part joined features (N, C, T, V + E) into nodes (N, C, T, V) and edges (N, C, T, E)."""
    return features[..., :NODE_COUNT], features[..., NODE_COUNT:]
