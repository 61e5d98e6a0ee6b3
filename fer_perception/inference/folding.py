# SPDX-License-Identifier: Apache-2.0
"""A PST-BLN folded for streaming: fewer and larger products that compute the same.

Batch norm goes into the convolutions; the residuals into the products beside them; the subsets of
a layer become one product; W comes before U where the layer has fewer channels out than in; the
factor 1 / (1 - rate) of dropout goes into the weights before it, as ReLU lets it pass.

Shapes: C channels, E edges, K kernel size, B = number of subsets.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fer_perception.models.pst_bln import BilinearLayer, Projection, PstBln, PstBlnConfig


@dataclass(frozen=True, kw_only=True)
class FoldedLayer:
    """The weights of one ST-BLL.

    With X the layer's input, R X its inner residual, and U_b H = H @ topology[b]:
    topology first: spatial = ReLU(mixing @ [X; U_1 X; ...; U_B X] + mixing_bias),
    mixing first: [Y_0; Y_1; ...; Y_B] = mixing @ X, spatial = ReLU(Y_0 + U_1 Y_1 + ... + bias).
    Then the output is ReLU(temporal @ [the last K spatial; X] + temporal_bias).
    """

    in_channels: int
    out_channels: int
    stride: int
    kernel_size: int
    mixes_first: bool
    topology: Tensor  # U transposed, (B, E, E)
    mixing: Tensor  # [R, W], (C_out, (1 + B) * C_in), or mixing first ((1 + B) * C_out, C_in)
    mixing_bias: Tensor  # (C_out,)
    # One weight for each position of the newest frame in a ring of K: (K, C_out, K * C_out), and
    # C_in columns more for the outer residual if there is one.
    temporal: Tensor
    temporal_bias: Tensor  # (C_out,)
    has_outer_residual: bool

    @classmethod
    def fold(cls, layer: BilinearLayer, *, output_scale: float) -> 'FoldedLayer':
        """Fold a layer as it computes in evaluation mode, its output times `output_scale`."""
        convolutions = [mix for mix in layer.mixing if isinstance(mix, nn.Conv2d)]
        out_channels, in_channels = convolutions[0].weight.shape[:2]
        scale, shift = norm_affine(layer.spatial_norm)
        mixing = [mix.weight[:, :, 0, 0] * scale[:, None] for mix in convolutions]
        bias = torch.stack([mix.bias for mix in convolutions if mix.bias is not None]).sum(0)
        inner, inner_bias = _fold_residual(layer.spatial_residual, in_channels)
        mixes_first = out_channels < in_channels
        scale_t, shift_t = norm_affine(layer.temporal_norm)
        assert layer.temporal.bias is not None
        kernel = layer.temporal.weight[..., 0] * scale_t[:, None, None]  # (C_out, C_out, K)
        temporal = _ring_weights(kernel.permute(2, 0, 1))  # (K, C_out, K * C_out)
        temporal_bias = layer.temporal.bias * scale_t + shift_t
        if layer.outer_residual is not None:
            outer, outer_bias = _fold_residual(layer.outer_residual, in_channels)
            temporal = torch.cat([temporal, outer.expand(len(temporal), -1, -1)], dim=2)
            temporal_bias = temporal_bias + outer_bias
        return cls(
            in_channels=in_channels,
            out_channels=out_channels,
            stride=layer.temporal.stride[0],
            kernel_size=layer.temporal.kernel_size[0],
            mixes_first=mixes_first,
            topology=layer.topology.transpose(1, 2).contiguous(),
            mixing=torch.cat([inner, *mixing], dim=0 if mixes_first else 1),
            mixing_bias=bias * scale + shift + inner_bias,
            temporal=temporal * output_scale,
            temporal_bias=temporal_bias * output_scale,
            has_outer_residual=layer.outer_residual is not None,
        )

    @property
    def subsets(self) -> int:
        """The number B of U matrices."""
        return len(self.topology)


@dataclass(frozen=True, kw_only=True)
class FoldedPstBln:
    """The weights of a whole causal network.

    The input of the first layer is edge_vectors * input_scale + input_shift; the logits are
    head @ (mean of the last layer over window and edges) + head_bias.
    """

    config: PstBlnConfig
    layers: tuple[FoldedLayer, ...]
    input_scale: Tensor  # (2, E)
    input_shift: Tensor  # (2, E)
    head: Tensor  # (classes, C)
    head_bias: Tensor  # (classes,)

    @classmethod
    @torch.no_grad()
    def fold(cls, model: PstBln, *, with_dropout: bool) -> 'FoldedPstBln':
        """Fold a network as it computes in evaluation mode; the weights are on the CPU.

        With dropout, what a mask of 0 and 1 falls upon is scaled by 1 / (1 - rate) already.
        Raises ValueError if the model cannot stream, or has no dropout that is wanted.
        """
        config = model.config
        model = copy.deepcopy(model).cpu().float()
        if config.padding != 'causal':
            raise ValueError(
                f"streaming needs a model with padding 'causal', this one has {config.padding!r}"
            )
        if config.window == 0:
            raise ValueError('streaming needs a model with a window, this one pools whole clips')
        if with_dropout and config.dropout == 0.0:
            raise ValueError('Monte Carlo dropout needs a model with dropout, but it has none')
        kept = 1.0 / (1.0 - config.dropout) if with_dropout else 1.0
        is_after = config.dropout_position == 'after'
        scales = [kept] * len(config.channels)
        if not is_after:  # the last layer's output meets no mask, but the input does
            scales[-1] = 1.0
        layers = [
            FoldedLayer.fold(layer, output_scale=scale)
            for layer, scale in zip(model.layers, scales, strict=True)
            if isinstance(layer, BilinearLayer)
        ]
        input_scale, input_shift = _fold_input_norm(model)
        if not is_after:
            input_scale, input_shift = input_scale * kept, input_shift * kept
        return cls(
            config=config,
            layers=tuple(layers),
            input_scale=input_scale,
            input_shift=input_shift,
            head=model.head.weight.clone(),
            head_bias=model.head.bias.clone(),
        )


def norm_affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a batch norm in evaluation mode, (C,) each."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _ring_weights(kernel: Tensor) -> Tensor:
    """Lay a kernel, oldest frame first, out for every position of the ring.

    (K, C, C) -> (K, C, K * C): entry p serves a ring whose newest frame is at position p.
    """
    size, out_channels, _ = kernel.shape
    weights = []
    for newest in range(size):
        # The frame at ring position r is (newest - r) mod K frames old.
        order = [(size - 1 - (newest - position)) % size for position in range(size)]
        weights.append(kernel[order].permute(1, 0, 2).reshape(out_channels, -1))  # (C, K * C)
    return torch.stack(weights)


def _fold_residual(residual: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Return a residual as a matrix (C_out, C_in) and a bias (C_out,)."""
    if not isinstance(residual, Projection):
        return torch.eye(channels), torch.zeros(channels)
    convolution, norm = residual
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert convolution.bias is not None
    scale, shift = norm_affine(norm)
    return convolution.weight[:, :, 0, 0] * scale[:, None], convolution.bias * scale + shift


def _fold_input_norm(model: PstBln) -> tuple[Tensor, Tensor]:
    """Return scale and shift of the input, (2, E) each."""
    config = model.config
    if model.input_norm is None:
        shape = (config.in_channels, config.edges)
        return torch.ones(shape), torch.zeros(shape)
    scale, shift = norm_affine(model.input_norm)
    shape = (config.edges, config.in_channels)  # E * 2 channels, as the model lays them out
    return scale.reshape(shape).T.contiguous(), shift.reshape(shape).T.contiguous()  # (2, E) each
