# SPDX-License-Identifier: Apache-2.0
"""PST-BLN: the progressive spatio-temporal bilinear network, in one file.

Heidari and Iosifidis, "Progressive Spatio-Temporal Bilinear Network with Monte Carlo Dropout for
Landmark-based Facial Expression Recognition with Uncertainty Estimation". Section III-B describes
the layer, III-C the network, III-D the dropout.

Shapes: N sequences, C channels, T frames, E edges, S subsets, K kernel size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_perception.models.dropout import MASK_KINDS, SeededDropout, mask_shape

PADDINGS = ('causal', 'same')
DROPOUT_POSITIONS = ('after', 'before')
TOPOLOGY_INITS = ('random', 'constant')


@dataclass(frozen=True, kw_only=True)
class PstBlnConfig:
    """Describe a PST-BLN. Defaults are the paper's layer, made causal for streaming."""

    channels: tuple[int, ...]  # output channels of each layer; the layers are its length
    classes: int  # number of classes C
    edges: int  # number of edges E of the face graph
    in_channels: int = 2  # coordinates of an edge vector
    subsets: int = 1  # U matrices per layer: 1 in the paper, 3 in the reference
    kernel_size: int = 9  # frames K seen by a temporal convolution
    strides: tuple[int, ...] = ()  # temporal stride of each layer; empty: all 1
    padding: str = 'causal'  # 'causal' sees the past only, 'same' is centred
    window: int = 0  # pool the last `window` frames; 0 pools the whole clip
    dropout: float = 0.2  # dropout rate (III-D)
    dropout_position: str = 'after'  # 'after' each layer (the paper) or 'before' (the reference)
    dropout_masks: str = 'element'  # what one draw decides: 'element' (the paper), see MASK_KINDS
    input_norm: bool = False  # batch norm over the 2E input channels (the reference)
    first_outer_residual: bool = True  # the reference leaves it out in the first layer
    topology_init: str = 'random'  # U at the start: 'random' (paper), 'constant' 1e-6 (reference)

    def __post_init__(self) -> None:
        """Refuse values that make no network, naming the field and the value."""
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f'channels must be positive numbers, one a layer: {self.channels}')
        if not self.strides:
            object.__setattr__(self, 'strides', (1,) * len(self.channels))
        if len(self.strides) != len(self.channels) or min(self.strides) < 1:
            raise ValueError(f'strides must be one positive number a layer: {self.strides}')
        for name in ('classes', 'edges', 'in_channels', 'subsets', 'kernel_size'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, not {getattr(self, name)}')
        if self.padding == 'same' and self.kernel_size % 2 == 0:
            raise ValueError(f"padding 'same' needs an odd kernel_size, not {self.kernel_size}")
        if self.window < 0:
            raise ValueError(f'window must be 0 (whole clip) or more frames, not {self.window}')
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f'dropout must be at least 0 and below 1, not {self.dropout}')
        for name, allowed in (
            ('padding', PADDINGS),
            ('dropout_position', DROPOUT_POSITIONS),
            ('dropout_masks', MASK_KINDS),
            ('topology_init', TOPOLOGY_INITS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f'{name} must be {" or ".join(allowed)}, not {getattr(self, name)!r}'
                )

    @classmethod
    def reference(cls, *, channels: tuple[int, ...], classes: int, edges: int) -> 'PstBlnConfig':
        """Describe the network as OpenDR's implementation computes it."""
        return cls(
            channels=channels,
            classes=classes,
            edges=edges,
            subsets=3,
            strides=tuple(2 if layer in (4, 7) else 1 for layer in range(len(channels))),
            padding='same',
            dropout_position='before',
            input_norm=True,
            first_outer_residual=False,
            topology_init='constant',
        )

    @property
    def total_stride(self) -> int:
        """Frames of the input per frame of the last layer."""
        product = 1
        for stride in self.strides:
            product *= stride
        return product

    @property
    def pooled_frames(self) -> int:
        """Frames of the last layer in a full window; 0 where the whole clip is pooled."""
        return -(-self.window // self.total_stride)

    @property
    def receptive_field(self) -> int:
        """Frames of the input that one frame of the last layer sees."""
        frames, step = 1, 1
        for stride in self.strides:
            frames += (self.kernel_size - 1) * step
            step *= stride
        return frames

    def dropout_shapes(self, *, clips: int, frames: int) -> list[tuple[int, int, int, int]]:
        """List the shapes (N, C, T', E) of what each dropout sees in clips of T frames."""
        after = self.dropout_position == 'after'
        widths = self.channels if after else (self.in_channels, *self.channels[:-1])
        shapes = []
        for width, stride in zip(widths, self.strides, strict=True):
            shorter = -(-frames // stride)
            shapes.append((clips, width, shorter if after else frames, self.edges))
            frames = shorter
        return shapes

    def mask_shapes(self, *, clips: int, frames: int) -> list[tuple[int, ...]]:
        """List the shapes of the masks for clips of T frames: `dropout_shapes`, 1 where shared."""
        shapes = self.dropout_shapes(clips=clips, frames=frames)
        return [mask_shape(self.dropout_masks, shape) for shape in shapes]


class PstBln(nn.Module):
    """The network: ST-BLN layers, dropout, global average pooling, one linear layer."""

    def __init__(self, config: PstBlnConfig, *, quiet: bool = False) -> None:
        """Build the network and, unless `quiet`, print its two parameter counts."""
        super().__init__()
        self.config = config
        widths = (config.in_channels, *config.channels)
        self.input_norm = (
            nn.BatchNorm1d(config.in_channels * config.edges) if config.input_norm else None
        )
        self.layers = nn.ModuleList(
            BilinearLayer(
                in_channels=widths[index],
                out_channels=widths[index + 1],
                stride=config.strides[index],
                outer_residual=index > 0 or config.first_outer_residual,
                config=config,
            )
            for index in range(len(config.channels))
        )
        self.dropouts = nn.ModuleList(
            SeededDropout(config.dropout, kind=config.dropout_masks) for _ in config.channels
        )
        self.head = nn.Linear(widths[-1], config.classes)
        if not quiet:
            print(self.parameter_summary())

    def forward(self, edge_vectors: Tensor) -> Tensor:
        """Classify clips by their last window.

        edge_vectors: (N, 2, T, E). Returns logits (N, classes).
        """
        return self.random_part(self.deterministic_part(edge_vectors))

    def logits_over_time(self, edge_vectors: Tensor) -> Tensor:
        """Classify the window that ends at each frame of the last layer.

        edge_vectors: (N, 2, T, E). Returns logits (N, T', classes), T' = ceil(T / total stride).
        Meaningful for causal padding: row t is what `forward` returns for the clip cut after t.
        """
        return self.random_logits_over_time(self.deterministic_part(edge_vectors))

    def random_logits_over_time(self, features: Tensor) -> Tensor:
        """Compute `logits_over_time` from the first dropout on.

        features: (N, C, T, E) from `deterministic_part`. Returns logits (N, T', classes).
        """
        features = self._random_layers(features).mean(-1)  # (N, C, T')
        sums = F.pad(features.cumsum(-1), (1, 0))  # (N, C, T' + 1)
        ends = torch.arange(1, features.shape[-1] + 1, device=features.device)
        starts = (ends - self._pooled_frames(features.shape[-1])).clamp(min=0)
        means = (sums[..., ends] - sums[..., starts]) / (ends - starts)  # (N, C, T')
        logits: Tensor = self.head(means.transpose(1, 2))  # (N, T', classes)
        return logits

    def deterministic_part(self, edge_vectors: Tensor) -> Tensor:
        """Compute everything before the first dropout: the same for all Monte Carlo samples.

        edge_vectors: (N, 2, T, E). Returns features (N, C, T, E).
        """
        self._check_input(edge_vectors)
        features = self._normalize_input(edge_vectors)
        if self.config.dropout_position == 'after':
            features = self.layers[0](features)
        return features

    def random_part(self, features: Tensor) -> Tensor:
        """Compute everything from the first dropout on.

        features: (N, C, T, E) from `deterministic_part`. Returns logits (N, classes).
        """
        features = self._random_layers(features)
        frames = self._pooled_frames(features.shape[2])
        pooled = features[:, :, -frames:].mean((2, 3))  # (N, C)
        logits: Tensor = self.head(pooled)
        return logits

    def parameter_counts(self) -> tuple[int, int]:
        """Count parameters without the U matrices (as the paper reports) and with them."""
        return count_parameters(self)

    def parameter_summary(self) -> str:
        """Say the topology and both parameter counts in one line."""
        without, with_topology = self.parameter_counts()
        return (
            f'PST-BLN {list(self.config.channels)}, {self.config.edges} edges: '
            f'{without:,} parameters without U, {with_topology:,} with'
        )

    def _random_layers(self, features: Tensor) -> Tensor:
        after = self.config.dropout_position == 'after'
        for index, (layer, dropout) in enumerate(zip(self.layers, self.dropouts, strict=True)):
            if after:
                features = dropout(features if index == 0 else layer(features))
            else:
                features = layer(dropout(features))
        return features

    def _normalize_input(self, edge_vectors: Tensor) -> Tensor:
        if self.input_norm is None:
            return edge_vectors
        n, c, t, e = edge_vectors.shape
        flat = edge_vectors.permute(0, 3, 1, 2).reshape(n, e * c, t)  # (N, E * 2, T)
        normed = self.input_norm(flat)
        return normed.reshape(n, e, c, t).permute(0, 2, 3, 1)  # (N, 2, T, E)

    def _pooled_frames(self, frames: int) -> int:
        if not self.config.window:
            return frames
        return min(frames, self.config.pooled_frames)

    def _check_input(self, edge_vectors: Tensor) -> None:
        expected = (self.config.in_channels, self.config.edges)
        if edge_vectors.ndim != 4 or (edge_vectors.shape[1], edge_vectors.shape[3]) != expected:
            raise ValueError(
                f'the input must have the shape (N, {expected[0]}, T, {expected[1]}), '
                f'not {tuple(edge_vectors.shape)}'
            )


class BilinearLayer(nn.Module):
    """The spatio-temporal bilinear layer (ST-BLL, equation 1 and figure 1)."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        stride: int,
        outer_residual: bool,
        config: PstBlnConfig,
    ) -> None:
        super().__init__()
        self.padding = config.padding
        self.topology = nn.Parameter(torch.empty(config.subsets, config.edges, config.edges))  # U
        self.mixing = nn.ModuleList(  # W
            nn.Conv2d(in_channels, out_channels, 1) for _ in range(config.subsets)
        )
        self.spatial_norm = nn.BatchNorm2d(out_channels)
        self.temporal = nn.Conv2d(
            out_channels, out_channels, (config.kernel_size, 1), stride=(stride, 1)
        )
        self.temporal_norm = nn.BatchNorm2d(out_channels)
        same_width = in_channels == out_channels
        self.spatial_residual = (
            nn.Identity() if same_width else Projection(in_channels, out_channels, stride=1)
        )
        self.outer_residual: nn.Module | None = None
        if outer_residual:
            self.outer_residual = (
                nn.Identity()
                if same_width and stride == 1
                else Projection(in_channels, out_channels, stride=stride)
            )
        if config.topology_init == 'constant':
            nn.init.constant_(self.topology, 1e-6)
        elif not self.topology.is_meta:  # for which PyTorch would load its compiler, a second
            nn.init.normal_(self.topology, std=config.edges**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C_in, T, E) to (N, C_out, ceil(T / stride), E)."""
        spatial = self.spatial_residual(features)
        spatial = F.relu(spatial + self.spatial_norm(self._bilinear(features)))
        temporal = self.temporal_norm(self.temporal(self._pad(spatial)))
        if self.outer_residual is not None:
            temporal = temporal + self.outer_residual(features)
        return F.relu(temporal)

    def _bilinear(self, features: Tensor) -> Tensor:
        terms = [
            mixing(features @ topology.T)  # U H W: (N, C_in, T, E) -> (N, C_out, T, E)
            for mixing, topology in zip(self.mixing, self.topology, strict=True)
        ]
        return sum(terms[1:], terms[0])

    def _pad(self, features: Tensor) -> Tensor:
        past = self.temporal.kernel_size[0] - 1
        before, after = (past, 0) if self.padding == 'causal' else (past // 2, past // 2)
        return F.pad(features, (0, 0, before, after))  # (N, C, T + K - 1, E)


class Projection(nn.Sequential):
    """A residual connection between unlike widths or rates: 1x1 convolution and batch norm."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1, stride=(stride, 1)),
            nn.BatchNorm2d(out_channels),
        )


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Count the parameters of any network without the learned topology and with it.

    Learned topology is what joins nodes or edges with one another, as U does: every parameter
    named `topology`.
    """
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    topology = sum(size for name, size in sizes.items() if name.endswith('.topology'))
    return sum(sizes.values()) - topology, sum(sizes.values())
