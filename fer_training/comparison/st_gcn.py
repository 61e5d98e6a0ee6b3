# SPDX-License-Identifier: Apache-2.0
"""ST-GCN: the spatial temporal graph convolutional network, on the face graph.

Yan, Xiong and Lin, "Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action
Recognition", AAAI 2018; modified as in the paper (PST-BLN, IV-C): seven layers of the same widths
as all others, and the squared adjacency.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_training.comparison.config import ComparisonConfig
from fer_training.comparison.face_graph import adjacency_partitions
from fer_training.comparison.network import ComparisonNetwork, SpatioTemporalLayer, layer_sizes


@dataclass(frozen=True, kw_only=True)
class StGcnConfig(ComparisonConfig):
    """Describe an ST-GCN."""

    edge_importance: bool = True  # learn a weight for every entry of the adjacency


class StGcn(ComparisonNetwork):
    """ST-GCN. With 7 classes it has 131,307 parameters without learned topology.

    That is the 131.3k of the paper, which hence has three partitions of the neighbours, the skip
    inside the layer, and leaves the 7 * 3 * 51 * 51 = 54,621 edge importance weights out (or goes
    without).
    """

    title = 'ST-GCN'

    def __init__(self, config: StGcnConfig, *, quiet: bool = False) -> None:
        """Build the network and, unless `quiet`, print its two parameter counts."""
        partitions = torch.from_numpy(adjacency_partitions(config.edges))
        layers = []
        for index in range(len(config.channels)):
            in_channels, out_channels, _ = layer_sizes(config, index)
            convolution = GraphConvolution(
                in_channels,
                out_channels,
                adjacency=partitions,
                edge_importance=config.edge_importance,
            )
            layers.append(SpatioTemporalLayer(convolution, index=index, config=config))
        super().__init__(config, layers=layers)
        if not quiet:
            print(self.parameter_summary())


class GraphConvolution(nn.Module):
    """The graph convolution of ST-GCN (Yan et al., equation 10 and "learnable edge importance").

    f_out(v) = sum_k sum_u (A_k * M_k)(v, u) (W_k f_in(u) + b_k): A_k are the normalised adjacency
    partitions, fixed; M_k is the learned importance of their entries, 1 at the start.
    """

    adjacency: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        adjacency: Tensor,
        edge_importance: bool,
    ) -> None:
        """Build the convolution for the partitions `adjacency`, (K, V, V)."""
        super().__init__()
        self.register_buffer('adjacency', adjacency, persistent=False)
        self.mixing = PartitionMixing(in_channels, out_channels, partitions=len(adjacency))
        self.topology = nn.Parameter(torch.ones_like(adjacency)) if edge_importance else None  # M

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, T, V)."""
        adjacency = self.adjacency if self.topology is None else self.adjacency * self.topology
        aggregated = [features @ matrix.T for matrix in adjacency]  # K times (N, C_in, T, V)
        output: Tensor = self.mixing(torch.cat(aggregated, dim=1), adjacency.sum(-1))
        return output


class PartitionMixing(nn.Module):
    """The channel maps W_k and b_k of all partitions, as one 1 x 1 convolution.

    As sum_u A_k(v, u) (W_k f(u) + b_k) = W_k (A_k f)(v) + b_k sum_u A_k(v, u), neighbours are
    summed first, in the fewer channels of the input.
    """

    def __init__(self, in_channels: int, out_channels: int, *, partitions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, partitions * in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(partitions, out_channels))
        nn.init.kaiming_normal_(self.weight, mode='fan_out')

    def forward(self, aggregated: Tensor, row_sums: Tensor) -> Tensor:
        """Map the neighbours' sums (N, K * C_in, T, V) to (N, C_out, T, V).

        row_sums: (K, V) or, one a clip, (N, K, V): the sums of the rows of the A_k.
        """
        bias = (self.bias.T @ row_sums).unsqueeze(-2)  # (C_out, 1, V) or (N, C_out, 1, V)
        return F.conv2d(aggregated, self.weight) + bias
