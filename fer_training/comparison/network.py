# SPDX-License-Identifier: Apache-2.0
"""The frame of the comparison networks: layers, dropout, global average pooling, one linear layer.

Shapes: N sequences, C channels, T frames, V nodes (51 inner landmarks).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fer_perception.models.dropout import SeededDropout
from fer_perception.models.pst_bln import Projection, count_parameters
from fer_training.comparison.config import ComparisonConfig
from fer_training.comparison.face_graph import NODE_COUNT


class ComparisonNetwork(nn.Module):
    """Classify clips of landmarks; a subclass brings the layers and may add a stream of edges."""

    title = ''  # the name in the literature

    def __init__(
        self,
        config: ComparisonConfig,
        *,
        layers: Sequence[nn.Module],
        streams: int = 1,
    ) -> None:
        """Put the layers together as one network.

        streams: how many pooled vectors of the last layer's width the linear layer takes.
        """
        super().__init__()
        self.config = config
        self.input_norm = InputNorm(config.in_channels, NODE_COUNT)
        self.layers = nn.ModuleList(layers)
        self.dropouts = nn.ModuleList(SeededDropout(config.dropout) for _ in config.channels)
        self.head = nn.Linear(streams * config.channels[-1], config.classes)

    def forward(self, points: Tensor) -> Tensor:
        """Classify clips.

        points: (N, 2, T, 51), the inner landmarks 17..67 in order. Returns logits (N, classes).
        Raises ValueError for another shape.
        """
        return self.random_part(self.deterministic_part(points))

    def deterministic_part(self, points: Tensor) -> Tensor:
        """Compute everything before the first dropout: the same for all Monte Carlo samples.

        points: (N, 2, T, 51). Returns features (N, C, T, V), in DGNN (N, C, T, V + E).
        """
        expected = (self.config.in_channels, NODE_COUNT)
        if points.ndim != 4 or (points.shape[1], points.shape[3]) != expected:
            raise ValueError(
                f'the input must have the shape (N, {expected[0]}, T, {expected[1]}), '
                f'not {tuple(points.shape)}'
            )
        features: Tensor = self.layers[0](self.prepare(points))
        return features

    def random_part(self, features: Tensor) -> Tensor:
        """Compute everything from the first dropout on.

        features: from `deterministic_part`. Returns logits (N, classes).
        """
        features = self.dropouts[0](features)
        for layer, dropout in zip(self.layers[1:], self.dropouts[1:], strict=True):
            features = dropout(layer(features))
        logits: Tensor = self.head(self.pool(features))
        return logits

    def prepare(self, points: Tensor) -> Tensor:
        """Make the input of the first layer: (N, 2, T, 51) to (N, 2, T, V)."""
        normed: Tensor = self.input_norm(points)
        return normed

    def pool(self, features: Tensor) -> Tensor:
        """Average over frames and nodes: (N, C, T, V) to (N, C)."""
        return features.mean((2, 3))

    def parameter_counts(self) -> tuple[int, int]:
        """Count parameters without the learned topology and with it."""
        return count_parameters(self)

    def parameter_summary(self) -> str:
        """Say the topology and both parameter counts in one line."""
        without, with_topology = self.parameter_counts()
        return (
            f'{self.title} {list(self.config.channels)}, {NODE_COUNT} nodes, '
            f'{len(self.config.edge_list)} edges: {without:,} parameters without learned '
            f'topology, {with_topology:,} with'
        )


class InputNorm(nn.BatchNorm1d):
    """Batch norm of each coordinate of each node or edge, over clips and frames."""

    def __init__(self, channels: int, nodes: int) -> None:
        super().__init__(channels * nodes)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (N, C, T, V), the shape kept."""
        n, c, t, v = features.shape
        flat = features.permute(0, 1, 3, 2).reshape(n, c * v, t)  # (N, C * V, T)
        normed = super().forward(flat)
        return normed.reshape(n, c, v, t).permute(0, 1, 3, 2).contiguous()  # (N, C, T, V)


class SpatioTemporalLayer(nn.Module):
    """A layer of ST-GCN and AGCN: graph convolution, then temporal convolution, each with a skip.

    H = ReLU(BN(G(X)) + R(X)), Y = ReLU(BN(K x 1 convolution of H) + R'(X)), where G is the graph
    convolution. R and R' are the identity, or a projection (1 x 1 convolution and batch norm)
    between unlike widths or rates; the first layer has no R'. This is the layer of AGCN and, with
    U in the place of the adjacency, of the reference's ST-BLN.
    """

    def __init__(
        self, graph_convolution: nn.Module, *, index: int, config: ComparisonConfig
    ) -> None:
        """Build layer `index` of the network around its graph convolution."""
        super().__init__()
        in_channels, out_channels, stride = layer_sizes(config, index)
        same_width = in_channels == out_channels
        self.graph_convolution = graph_convolution
        self.spatial_norm = nn.BatchNorm2d(out_channels)
        self.spatial_residual = (
            nn.Identity() if same_width else Projection(in_channels, out_channels, stride=1)
        )
        self.temporal = nn.Conv2d(
            out_channels,
            out_channels,
            (config.kernel_size, 1),
            stride=(stride, 1),
            padding=(config.kernel_size // 2, 0),
        )
        self.temporal_norm = nn.BatchNorm2d(out_channels)
        self.outer_residual: nn.Module | None = None
        if index > 0:
            self.outer_residual = (
                nn.Identity()
                if same_width and stride == 1
                else Projection(in_channels, out_channels, stride=stride)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, ceil(T / stride), V)."""
        spatial = self.spatial_norm(self.graph_convolution(features))
        spatial = F.relu(spatial + self.spatial_residual(features))
        temporal = self.temporal_norm(self.temporal(spatial))
        if self.outer_residual is not None:
            temporal = temporal + self.outer_residual(features)
        return F.relu(temporal)


def layer_sizes(config: ComparisonConfig, index: int) -> tuple[int, int, int]:
    """Return the input channels, output channels and temporal stride of a layer."""
    widths = (config.in_channels, *config.channels)
    return widths[index], widths[index + 1], config.strides[index]
