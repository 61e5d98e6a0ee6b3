# SPDX-License-Identifier: Apache-2.0
"""Export of a streaming PST-BLN to ONNX: one step, with states and masks as inputs and outputs.

The graph is that of `FoldedPstBln`. Each layer's ring of the last K columns goes in and comes out
with the new column in it. Nothing else reads a ring that goes in, so that one buffer may be bound
to both, and ONNX Runtime then copies one column only. What follows a layer with a stride is the
branch of an `If`, which a frame between two strides does not take.

Shapes: S samples, C channels, E edges, K kernel size, B = number of subsets.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_perception.inference.folding import FoldedLayer, FoldedPstBln
from fer_perception.inference.onnx_clips import STEP_NETWORK
from fer_perception.inference.onnx_streaming import (
    FRAME,
    LOGITS,
    MASK_RATE,
    MASK_VALUE,
    POSITIONS,
    SAMPLES,
    OnnxStreamingPstBln,
    StepSignature,
    due,
    mask,
    ring_in,
    ring_out,
    step_network_to_metadata,
)
from fer_perception.models.model_file import ModelDescription, description_to_metadata
from fer_perception.models.pst_bln import PstBln
from fer_training.onnx_export import OPSET, MaskedPstBln, import_onnx, write_onnx

IR_VERSION = 8  # of opset 17's time


def export_step_network(
    network: PstBln, description: ModelDescription, path: Path, *, draw_masks: bool = False
) -> None:
    """Write what one frame takes of a network as ONNX, the state and the masks as inputs.

    The number of samples is free. With `draw_masks` the graph draws its masks itself, as a GPU
    needs it; masks that last for all frames stay inputs. The metadata hold the whole
    description, by the same keys as the model file's, and one that says that this is one step.
    Raises ValueError if the description is of another network, the network cannot stream or it
    has no masks to draw; ImportError without onnx.
    """
    if network.config != description.network:
        raise ValueError('the description is of another network than the one to export')
    if description.clip_frames:
        raise ValueError(
            f'the model reads whole clips of {description.clip_frames} frames: it cannot stream, '
            'only its clip network can be exported'
        )
    onnx = import_onnx()
    signature = StepSignature(config=network.config, draws_masks=draw_masks)
    folded = FoldedPstBln.fold(network, with_dropout=network.config.dropout > 0)
    model = _StepGraph(onnx, folded, signature).model()
    metadata = description_to_metadata(description)
    metadata[STEP_NETWORK] = step_network_to_metadata(signature)
    write_onnx(path, model, metadata)


def largest_step_difference(
    network: PstBln, exported: OnnxStreamingPstBln, *, frames: int, seed: int = 0
) -> float:
    """Compare an export with the clip network after each frame of a random clip.

    Both take the same random masks where dropout is on, which needs an export that takes masks.
    Returns the largest difference of a logit, as a share of the largest logit where that is above
    1: single precision rounds large numbers more coarsely.
    """
    config = network.config
    generator = np.random.default_rng(seed)
    clip = generator.normal(0.0, 0.3, (config.in_channels, frames, config.edges)).astype('f4')
    rate = config.dropout if exported.samples else 0.0
    shapes = config.mask_shapes(clips=max(exported.samples, 1), frames=frames)
    kept = [generator.random(shape) >= rate for shape in shapes]  # (S, C, T', E), 1 where shared
    scaled = [torch.from_numpy(values / (1.0 - rate)).float() for values in kept]
    with torch.inference_mode():
        expected = MaskedPstBln(network).over_time(torch.from_numpy(clip)[None], *scaled)
    # (S, T', classes) -> (T, S, classes)
    expected = expected.repeat_interleave(config.total_stride, 1)[:, :frames].transpose(0, 1)
    masks = [masks_at(network, kept, frame=t) for t in range(frames)]
    logits = exported.stream().clip(clip, masks=masks if exported.samples else None)
    difference = np.abs(logits - expected.numpy()).max()
    return float(difference / max(1.0, float(expected.abs().max())))


def masks_at(network: PstBln, masks: Sequence[np.ndarray], *, frame: int) -> list[np.ndarray]:
    """Take what a step needs at a frame from the masks of a clip.

    masks: one a dropout, of the shapes `PstBlnConfig.mask_shapes`. Returns shapes (C, S, E), 1
    along the axis that the kind of masks shares.
    """
    config = network.config
    is_after = config.dropout_position == 'after'
    found = []
    step = 1  # frames of the input for each frame that the dropout sees
    for values, stride in zip(masks, config.strides, strict=True):
        step *= stride if is_after else 1
        found.append(values[:, :, min(frame // step, values.shape[2] - 1)].swapaxes(0, 1))
        step *= 1 if is_after else stride
    return found


class _StepGraph:
    """Builds the graph of one step, node by node."""

    def __init__(self, onnx: Any, folded: FoldedPstBln, signature: StepSignature) -> None:
        self._onnx = onnx
        self._folded = folded
        self._signature = signature
        self._nodes: list[Any] = []  # of the graph, or the branch, that is being built
        self._weights: list[Any] = []
        self._names = 0

    def model(self) -> Any:
        """Return the whole model without metadata."""
        onnx, config = self._onnx, self._folded.config
        frame = self._node('Mul', FRAME, self._weight(self._folded.input_scale))
        frame = self._node('Add', frame, self._weight(self._folded.input_shift))
        features = self._node('Unsqueeze', frame, self._weight([1]))  # (2, 1, E)
        if config.dropout and config.dropout_position == 'before':
            features = self._masked(features, 0)
        self._layers(0, features, suffix='')
        graph = onnx.helper.make_graph(
            self._nodes,
            'pst_bln_step',
            [self._declared(name, *kind) for name, kind in self._signature.inputs.items()],
            [self._declared(name, *kind) for name, kind in self._signature.outputs.items()],
            self._weights,
        )
        return onnx.helper.make_model(
            graph,
            producer_name='fer_perception',
            ir_version=IR_VERSION,
            opset_imports=[onnx.helper.make_opsetid('', OPSET)],
        )

    def _layers(self, index: int, features: str, *, suffix: str) -> None:
        """Add a layer and what follows it; the names of what comes out end in `suffix`.

        features: (C_in, S, E).
        """
        config, layer = self._folded.config, self._folded.layers[index]
        position = self._node('Gather', POSITIONS, self._weight([index]), axis=0)  # (1, 1)
        column = self._node('Unsqueeze', self._spatial(layer, features), self._weight([0]))
        ring = self._node(  # (K, C_out, S, E)
            'ScatterND', ring_in(index), position, column, output=ring_out(index) + suffix
        )
        if layer.stride == 1:
            self._after_ring(index, features, ring, position, suffix=suffix)
            return
        rest = [ring_out(later) for later in range(index + 1, len(config.channels))]
        is_due, is_not_due = f'{suffix}_due_{index}', f'{suffix}_not_due_{index}'

        def take() -> None:
            self._after_ring(index, features, ring, position, suffix=is_due)

        def leave() -> None:
            for later, name in enumerate(rest, index + 1):
                self._node('Identity', ring_in(later), output=name + is_not_due)
            shape = self._weight([1, config.classes])
            self._node('ConstantOfShape', shape, output=LOGITS + is_not_due)

        names = [*rest, LOGITS]
        self._nodes.append(
            self._onnx.helper.make_node(
                'If',
                [due(index)],
                [name + suffix for name in names],
                then_branch=self._branch(take, [name + is_due for name in names]),
                else_branch=self._branch(leave, [name + is_not_due for name in names]),
            )
        )

    def _after_ring(
        self, index: int, features: str, ring: str, position: str, *, suffix: str
    ) -> None:
        """Add what comes of a layer's ring, (K, C_out, S, E), up to the logits of the frame."""
        config = self._folded.config
        features = self._temporal(self._folded.layers[index], features, ring, position)
        is_after = config.dropout_position == 'after'
        is_last = index + 1 == len(config.channels)
        if config.dropout and (is_after or not is_last):
            features = self._masked(features, index if is_after else index + 1)
        if not is_last:
            self._layers(index + 1, features, suffix=suffix)
            return
        mean = self._node('ReduceMean', features, axes=[2], keepdims=0)  # (C, S)
        head, bias = self._weight(self._folded.head), self._weight(self._folded.head_bias)
        self._node('Gemm', mean, head, bias, transA=1, transB=1, output=LOGITS + suffix)

    def _spatial(self, layer: FoldedLayer, features: str) -> str:
        """Add ReLU(U X W + R X + bias): (C_in, S, E) -> (C_out, S, E)."""
        edges = layer.topology.shape[-1]
        width, axis = (
            (layer.out_channels, 0) if layer.mixes_first else (layer.in_channels, 1)
        )
        residual, *mixing = layer.mixing.split(width, dim=axis)  # (C_out, C_in) each
        rows = self._rows(features, layer.in_channels)
        if not layer.mixes_first:
            products = []
            for part, topology in zip(mixing, layer.topology, strict=True):
                mapped = self._node('MatMul', features, self._weight(topology))  # (C_in, S, E)
                products.append((self._weight(part), self._rows(mapped, layer.in_channels)))
            total = self._sum_of_products(products, residual, rows, layer.mixing_bias)
        else:
            bias = self._weight(layer.mixing_bias[:, None])
            by_row = self._weight([-1, edges])
            total = self._node('Gemm', self._weight(residual), rows, bias)  # (C_out, S * E)
            total = self._node('Reshape', total, by_row)  # (C_out * S, E)
            for part, topology in zip(mixing, layer.topology, strict=True):
                mixed = self._node('MatMul', self._weight(part), rows)  # (C_out, S * E)
                mixed = self._node('Reshape', mixed, by_row)  # (C_out * S, E)
                total = self._node('Gemm', mixed, self._weight(topology), total)
        total = self._node('Relu', total)
        return self._node('Reshape', total, self._weight([layer.out_channels, -1, edges]))

    def _temporal(self, layer: FoldedLayer, features: str, ring: str, position: str) -> str:
        """Add ReLU(temporal @ [ring; X] + bias): (K, C_out, S, E) -> (C_out, S, E)."""
        depth = layer.kernel_size * layer.out_channels
        weights = self._weight(layer.temporal[:, :, :depth])  # (K, C_out, K * C_out)
        weight = self._node('Gather', weights, position, axis=0)  # (1, 1, C_out, K * C_out)
        weight = self._node('Reshape', weight, self._weight([layer.out_channels, depth]))
        residual = layer.temporal[0, :, depth:] if layer.has_outer_residual else None
        rows = self._rows(features, layer.in_channels)
        products = [(weight, self._rows(ring, depth))]
        total = self._sum_of_products(products, residual, rows, layer.temporal_bias)
        total = self._node('Relu', total)
        shape = [layer.out_channels, -1, layer.topology.shape[-1]]
        return self._node('Reshape', total, self._weight(shape))

    def _sum_of_products(
        self,
        products: Sequence[tuple[str, str]],
        residual: Tensor | None,
        rows: str,
        bias: Tensor,
    ) -> str:
        """Add the sum of weight @ factor over the products, residual @ rows and the bias.

        A residual that is a multiple of the identity takes no product. Returns (C_out, S * E).
        """
        column = self._weight(bias[:, None])  # (C_out, 1)
        total, beta = column, 1.0
        factor = None if residual is None else _multiple_of_identity(residual)
        if factor is not None:
            total, beta = rows, factor
        elif residual is not None:
            total = self._node('Gemm', self._weight(residual), rows, column)
        for weight, values in products:
            total = self._node('Gemm', weight, values, total, beta=beta)
            beta = 1.0
        return total if factor is None else self._node('Add', total, column)

    def _masked(self, features: str, dropout: int) -> str:
        """Add a mask: (C, S or 1, E) -> (C, S, E)."""
        if not self._signature.draws_masks:
            return self._node('Mul', features, mask(dropout))
        config = self._folded.config
        _, channels, _, edges = config.mask_shapes(clips=1, frames=1)[dropout]
        size = self._node(
            'Concat', self._weight([channels]), SAMPLES, self._weight([edges]), axis=0
        )
        like = self._node('ConstantOfShape', size)
        uniform = self._node('RandomUniformLike', like)  # no seed: other numbers in every session
        keeps = self._node('GreaterOrEqual', uniform, MASK_RATE)
        zero = self._weight(np.zeros((), np.float32))
        return self._node('Mul', features, self._node('Where', keeps, MASK_VALUE, zero))

    def _rows(self, features: str, count: int) -> str:
        """Let everything but the channels be one axis: -> (count, S * E)."""
        return self._node('Reshape', features, self._weight([count, -1]))

    def _branch(self, build: Callable[[], None], outputs: Sequence[str]) -> Any:
        """Return the graph of what `build` adds."""
        outside, self._nodes = self._nodes, []
        build()
        helper = self._onnx.helper
        declared = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self._nodes, 'branch', [], declared)
        self._nodes = outside
        return graph

    def _node(
        self, kind: str, *inputs: str, output: str | None = None, **attributes: object
    ) -> str:
        """Add a node and return the name of its output."""
        name = output or self._new_name()
        self._nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), [name], **attributes)
        )
        return name

    def _weight(self, values: Tensor | np.ndarray | Sequence[int]) -> str:
        """Add a constant, a sequence as int64, and return its name."""
        array = values.contiguous().numpy() if isinstance(values, Tensor) else np.asarray(values)
        name = self._new_name()
        self._weights.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _new_name(self) -> str:
        self._names += 1
        return f'_{self._names}'

    def _declared(self, name: str, element: str, shape: tuple[int | str, ...]) -> Any:
        types = self._onnx.TensorProto
        kind = {'float': types.FLOAT, 'int64': types.INT64, 'bool': types.BOOL}[element]
        return self._onnx.helper.make_tensor_value_info(name, kind, list(shape))


def _multiple_of_identity(matrix: Tensor) -> float | None:
    """Return c where the matrix is c times the identity, or None."""
    if matrix.shape[0] != matrix.shape[1]:
        return None
    factor = float(matrix[0, 0])
    return factor if torch.equal(matrix, matrix[0, 0] * torch.eye(len(matrix))) else None
