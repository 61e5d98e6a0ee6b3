# SPDX-License-Identifier: Apache-2.0
"""Streaming PST-BLN: one new frame costs one new column of every layer.

The bilinear map acts on each frame alone; only the temporal convolution and the pooling look
across frames. So every layer keeps a ring of its last K spatial outputs, the pooling a ring of
its last window, one for each Monte Carlo sample. Masks are drawn afresh for each new frame and
stay in the rings: for every window this is windowed Monte Carlo dropout. With causal padding the
stream equals `PstBln.logits_over_time` on the frames since the last reset.

Shapes: S samples, C channels, E edges, K kernel size. Features of one frame are kept as
(C, S, E), so that every product is one large matrix product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_perception.models.dropout import keep_mask, seeded_generator
from fer_perception.models.pst_bln import BilinearLayer, Projection, PstBln

Dropout = Callable[[Tensor], Tensor]


class StreamingPstBln:
    """The weights of a causal PST-BLN, folded for streaming; faces share them."""

    def __init__(self, model: PstBln, *, samples: int = 100, seed: int | None = None) -> None:
        """Fold the weights of a model in evaluation mode.

        `samples` Monte Carlo streams run side by side; 0 turns dropout off (one stream).
        Raises ValueError if the model is not causal, or samples are wanted without dropout.
        """
        config = model.config
        if config.padding != 'causal':
            raise ValueError(
                f"streaming needs a model with padding 'causal', this one has {config.padding!r}"
            )
        if config.window == 0:
            raise ValueError('streaming needs a model with a window, this one pools whole clips')
        if samples < 0:
            raise ValueError(f'samples must be 0 (dropout off) or more, not {samples}')
        if samples and config.dropout == 0.0:
            raise ValueError('Monte Carlo dropout needs a model with dropout, but it has none')
        self.config = config
        self.samples = samples
        self._generator = seeded_generator(seed, device=next(model.parameters()).device)
        with torch.no_grad():
            self.layers = [FoldedLayer.fold(layer) for layer in model.layers]  # type: ignore[arg-type]
            self.input_norm = _fold_input_norm(model)
            self.head_weight = model.head.weight.detach().clone()  # (classes, C)
            self.head_bias = model.head.bias.detach().clone()  # (classes,)

    @property
    def receptive_field(self) -> int:
        """Frames that an answer can depend on: the window and what its first frame saw."""
        return self.config.receptive_field + self.config.window - 1

    def stream(self) -> 'Stream':
        """Start the stream of one face."""
        return Stream(self)

    def drop(self, features: Tensor) -> Tensor:
        """Apply fresh dropout masks to (C, 1 or S, E); one stream becomes S at the first."""
        if not self.samples:
            return features
        channels, _, edges = features.shape
        kept = keep_mask(
            (channels, self.samples, edges),
            self.config.dropout,
            device=features.device,
            generator=self._generator,
        )
        return features * kept / (1.0 - self.config.dropout)


class Stream:
    """The state of one face: what its layers remember, for every Monte Carlo sample."""

    def __init__(self, network: StreamingPstBln) -> None:
        self._network = network
        self.reset()

    def reset(self) -> None:
        """Forget every frame."""
        self._layers = [LayerStream(layer) for layer in self._network.layers]
        config = self._network.config
        self._pooled: list[Tensor] = []  # ring of (C, S), one for each frame of the last layer
        self._window = -(-config.window // config.total_stride)
        self._frames = 0

    @property
    def frames(self) -> int:
        """Frames of evidence in the window, up to its length."""
        return min(self._frames, self._network.config.window)

    @torch.inference_mode()
    def step(self, edge_vectors: Tensor, *, dropout: Dropout | None = None) -> Tensor:
        """Take one frame and answer for the window that ends with it.

        edge_vectors: (2, E). Returns logits (S, classes); S = 1 with dropout off. `dropout`
        replaces the random masks (to compare with a clip under given masks): it is called with
        the features (C, 1 or S, E) of each dropout in turn.
        """
        network = self._network
        drop = dropout or network.drop
        features = edge_vectors.unsqueeze(1)  # (2, 1, E)
        if network.input_norm is not None:
            scale, shift = network.input_norm
            features = features * scale + shift
        after = network.config.dropout_position == 'after'
        self._frames += 1
        for layer in self._layers:
            result = layer.step(features if after else drop(features))
            if result is None:  # between two strides: nothing new from here on
                break
            features = drop(result) if after else result
        else:
            self._pooled.append(features.mean(-1))  # (C, S)
            del self._pooled[: -self._window]
        pooled = torch.stack(self._pooled).mean(0)  # (C, S)
        return pooled.T @ network.head_weight.T + network.head_bias  # (S, classes)

    def clip(self, edge_vectors: Tensor) -> Tensor:
        """Take a whole clip from a reset state and return the answer after each frame.

        edge_vectors: (2, T, E). Returns logits (T, S, classes).
        """
        self.reset()
        return torch.stack([self.step(frame) for frame in edge_vectors.unbind(1)])


@dataclass(frozen=True, kw_only=True)
class FoldedLayer:
    """The weights of one ST-BLL with batch norm folded into the convolutions."""

    topology: Tensor  # U transposed, (subsets, E, E)
    mixing: Tensor  # W, (subsets, C_out, C_in)
    mixing_bias: Tensor  # (C_out, 1)
    temporal: Tensor  # one weight for each position of the ring, (K, C_out, K * C_out)
    temporal_bias: Tensor  # (C_out, 1)
    spatial_residual: tuple[Tensor, Tensor] | None  # (C_out, C_in), (C_out, 1); None: identity
    outer_residual: tuple[Tensor, Tensor] | None  # the same; None: identity
    has_outer_residual: bool
    stride: int

    @classmethod
    def fold(cls, layer: BilinearLayer) -> 'FoldedLayer':
        """Fold a layer as it computes in evaluation mode."""
        scale, shift = _norm_affine(layer.spatial_norm)
        convolutions = [mix for mix in layer.mixing if isinstance(mix, nn.Conv2d)]
        mixing = torch.stack([mix.weight[:, :, 0, 0] for mix in convolutions])
        bias = torch.stack([mix.bias for mix in convolutions if mix.bias is not None]).sum(0)
        temporal_scale, temporal_shift = _norm_affine(layer.temporal_norm)
        kernel = layer.temporal.weight[..., 0] * temporal_scale[:, None, None]  # (C_out, C_in, K)
        kernel = kernel.permute(2, 0, 1)  # (K, C_out, C_in), oldest frame first
        assert layer.temporal.bias is not None
        temporal_bias = layer.temporal.bias * temporal_scale + temporal_shift
        return cls(
            topology=layer.topology.detach().transpose(1, 2).contiguous(),
            mixing=(mixing * scale[:, None]).detach(),
            mixing_bias=(bias * scale + shift).detach()[:, None],
            temporal=_ring_weights(kernel.detach()),
            temporal_bias=temporal_bias.detach()[:, None],
            spatial_residual=_fold_residual(layer.spatial_residual),
            outer_residual=_fold_residual(layer.outer_residual),
            has_outer_residual=layer.outer_residual is not None,
            stride=layer.temporal.stride[0],
        )

    def spatial(self, features: Tensor) -> Tensor:
        """Compute ReLU(U H W + residual) of one frame: (C_in, S, E) -> (C_out, S, E)."""
        result = _project(self.spatial_residual, features)
        for topology, mixing in zip(self.topology, self.mixing, strict=True):
            result = result + _mix(mixing, features @ topology)
        return F.relu(result + self.mixing_bias[:, :, None])


class LayerStream:
    """The memory of one layer: a ring of its last K spatial outputs."""

    def __init__(self, layer: FoldedLayer) -> None:
        self._layer = layer
        self._ring: Tensor | None = None  # (K, C_out, S, E)
        self._frames = 0

    def step(self, features: Tensor) -> Tensor | None:
        """Take one frame (C_in, S, E); return (C_out, S, E), or None between strides."""
        layer = self._layer
        spatial = layer.spatial(features)
        kernel_size = len(layer.temporal)
        if self._ring is None:
            self._ring = spatial.new_zeros((kernel_size, *spatial.shape))
        position = self._frames % kernel_size
        self._ring[position] = spatial
        due = self._frames % layer.stride == 0
        self._frames += 1
        if not due:
            return None
        flat = self._ring.reshape(-1, spatial[0].numel())  # (K * C_out, S * E)
        result = torch.addmm(layer.temporal_bias, layer.temporal[position], flat)
        result = result.reshape(spatial.shape)  # (C_out, S, E)
        if layer.has_outer_residual:
            result = result + _project(layer.outer_residual, features)
        return F.relu(result)


def _ring_weights(kernel: Tensor) -> Tensor:
    """Lay the kernel out for every position of the ring: (K, C, C) -> (K, C, K * C)."""
    size, out_channels, _ = kernel.shape
    weights = []
    for newest in range(size):
        # The frame at ring position r is (newest - r) mod K frames old.
        order = [(size - 1 - (newest - position)) % size for position in range(size)]
        weights.append(kernel[order].permute(1, 0, 2).reshape(out_channels, -1))  # (C, K * C)
    return torch.stack(weights)


def _norm_affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _fold_residual(residual: nn.Module | None) -> tuple[Tensor, Tensor] | None:
    if not isinstance(residual, Projection):
        return None
    convolution, norm = residual
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert convolution.bias is not None
    scale, shift = _norm_affine(norm)
    weight = convolution.weight[:, :, 0, 0] * scale[:, None]
    return weight.detach(), (convolution.bias * scale + shift).detach()[:, None]


def _fold_input_norm(model: PstBln) -> tuple[Tensor, Tensor] | None:
    if model.input_norm is None:
        return None
    shape = (model.config.edges, model.config.in_channels)  # E * 2 channels, as the model lays out
    scale, shift = _norm_affine(model.input_norm)
    return scale.reshape(shape).T[:, None], shift.reshape(shape).T[:, None]  # (2, 1, E) each


def _mix(weight: Tensor, features: Tensor) -> Tensor:
    """Map channels: (C_out, C_in) times (C_in, S, E) -> (C_out, S, E)."""
    mixed = weight @ features.reshape(features.shape[0], -1)  # (C_out, S * E)
    return mixed.reshape(len(weight), *features.shape[1:])


def _project(residual: tuple[Tensor, Tensor] | None, features: Tensor) -> Tensor:
    if residual is None:
        return features
    weight, bias = residual
    return _mix(weight, features) + bias[:, :, None]
