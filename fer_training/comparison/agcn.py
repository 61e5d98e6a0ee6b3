# SPDX-License-Identifier: Apache-2.0
"""AGCN: the adaptive graph convolutional network, one stream, on the face graph.

Shi, Zhang, Cheng and Lu, "Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based
Action Recognition", CVPR 2019; modified as in the paper (PST-BLN, IV-C): seven layers of the same
widths as all others, and the squared adjacency.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fer_training.comparison.config import ComparisonConfig
from fer_training.comparison.face_graph import adjacency_partitions
from fer_training.comparison.network import ComparisonNetwork, SpatioTemporalLayer, layer_sizes
from fer_training.comparison.st_gcn import PartitionMixing


@dataclass(frozen=True, kw_only=True)
class AgcnConfig(ComparisonConfig):
    """Describe an AGCN."""

    embedding_divisor: int = 4  # output channels of a layer per channel of its embeddings

    def __post_init__(self) -> None:
        """Refuse values that make no network, naming the field and the value."""
        super().__post_init__()
        if self.embedding_divisor < 1:
            raise ValueError(f'embedding_divisor must be at least 1, not {self.embedding_divisor}')


class Agcn(ComparisonNetwork):
    """AGCN. With 7 classes it has 143,775 parameters without learned topology.

    The paper's 143.7k is that number cut off (it is 143,710 for 6 classes): ST-GCN's 131,307 and
    the 12,468 of the embeddings; the 7 * 3 * 51 * 51 = 54,621 of B are left out, as U is of
    ST-BLN.
    """

    title = 'AGCN'

    def __init__(self, config: AgcnConfig, *, quiet: bool = False) -> None:
        """Build the network and, unless `quiet`, print its two parameter counts."""
        partitions = torch.from_numpy(adjacency_partitions(config.edges))
        layers = []
        for index in range(len(config.channels)):
            in_channels, out_channels, _ = layer_sizes(config, index)
            convolution = AdaptiveGraphConvolution(
                in_channels,
                out_channels,
                adjacency=partitions,
                embedding=max(1, out_channels // config.embedding_divisor),
            )
            layers.append(SpatioTemporalLayer(convolution, index=index, config=config))
        super().__init__(config, layers=layers)
        if not quiet:
            print(self.parameter_summary())


class AdaptiveGraphConvolution(nn.Module):
    """The adaptive graph convolution of AGCN (Shi et al., equations 3 to 5).

    f_out(v) = sum_k sum_u (A_k + B_k + C_k)(v, u) (W_k f_in(u) + b_k): A_k are the normalised
    adjacency partitions, fixed; B_k is learned freely, 0 at the start; C_k belongs to the clip:
    C_k(v, u) = softmax over u of theta_k(v) . phi_k(u), where theta_k and phi_k are 1 x 1
    convolutions of f_in to the embedding's channels and the product runs over channels and
    frames. The product is divided by the number of its terms, so that clips of any length have
    comparable weights.
    """

    adjacency: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, *, adjacency: Tensor, embedding: int
    ) -> None:
        """Build the convolution for the partitions `adjacency`, (K, V, V)."""
        super().__init__()
        self.register_buffer('adjacency', adjacency, persistent=False)
        self.topology = nn.Parameter(torch.zeros_like(adjacency))  # B
        self.embeddings = nn.Conv2d(in_channels, 2 * len(adjacency) * embedding, 1)
        self.mixing = PartitionMixing(in_channels, out_channels, partitions=len(adjacency))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, T, V)."""
        n, c, t, v = features.shape
        matrices = self.adjacency + self.topology + self.attention(features)  # (N, K, V, V)
        rows = features.reshape(n, c * t, v)  # (N, C_in * T, V)
        aggregated = [
            (rows @ matrices[:, k].transpose(1, 2)).reshape(n, c, t, v)  # (N, C_in, T, V)
            for k in range(len(self.adjacency))
        ]
        output: Tensor = self.mixing(torch.cat(aggregated, dim=1), matrices.sum(-1))
        return output

    def attention(self, features: Tensor) -> Tensor:
        """Compute C for each clip: (N, C_in, T, V) to (N, K, V, V), rows summing to 1."""
        n, _, t, v = features.shape
        partitions = len(self.adjacency)
        embedded = self.embeddings(features).reshape(n, 2, partitions, -1, v)
        theta, phi = embedded.unbind(1)  # (N, K, C_e * T, V) each
        similarity = theta.transpose(2, 3) @ phi / theta.shape[2]  # (N, K, V, V)
        return similarity.softmax(-1)
