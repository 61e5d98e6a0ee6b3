# SPDX-License-Identifier: Apache-2.0
"""The step of a streaming layer in bf16 in one compiled call, where the processor has AMX.

Product by product, what a layer computes passes through memory several times: all samples' U X,
then their mixture, then the ring. Here a few samples go through all products while they are in
the cache, and the ring is fetched while the matrix unit is busy with U.
"""

import ctypes

import torch
from torch import Tensor

from fer_perception.inference.folding import FoldedLayer
from fer_perception.inference.row_product import (
    Kernel,
    RandomMask,
    available_kernels,
    library_with,
)

EDGE_MULTIPLE = 32  # of what a pair of tiles holds


def layer_step_is_available() -> bool:
    """Tell whether the library was compiled and the processor has AMX."""
    return Kernel.AMX in available_kernels()


def padded_edges(edges: int) -> int:
    """Return the number of edges rounded up, so that every frame begins with a cache line."""
    return -(-edges // EDGE_MULTIPLE) * EDGE_MULTIPLE


class LayerStep:
    """The weights of a layer, laid out for the compiled step; streams share them."""

    def __init__(self, layer: FoldedLayer) -> None:
        """Lay out the weights. Edges that the layer lacks until `padded_edges` map to nothing.

        Raises ValueError if the machine cannot run the step.
        """
        library = library_with(Kernel.AMX)
        assert library is not None
        self._step = library.layer_step_bf16
        self._layer = layer
        edges = layer.topology.shape[-1]
        self.edges = padded_edges(edges)
        missing = self.edges - edges
        topology = torch.nn.functional.pad(layer.topology.float(), (0, missing, 0, missing))
        self._topology = torch.empty(topology.shape, dtype=torch.bfloat16)
        library.layer_pack_topology(
            topology.contiguous().data_ptr(), len(topology), self.edges, self._topology.data_ptr()
        )
        self._mixing = layer.mixing.contiguous()
        bias = layer.mixing_bias
        if layer.mixes_first:  # the rows of W have none
            bias = torch.cat([bias, bias.new_zeros(layer.subsets * len(bias))])
        self._mixing_bias = bias.contiguous()
        self._temporal = layer.temporal.contiguous()
        self._temporal_bias = layer.temporal_bias.contiguous()

    def __call__(
        self,
        buffer: Tensor,
        *,
        position: int,
        out: Tensor | None,
        mask: Tensor | RandomMask | None = None,
        threads: int | None = None,
    ) -> None:
        """Write the newest spatial output into the ring and, if wanted, the layer's output.

        buffer: (K * C_out + C_in, S * edges) bfloat16, contiguous: the ring of the last K spatial
        outputs, the newest at `position`, and the layer's input. out: (C_out, S * edges)
        bfloat16, rows at any distance; None between two strides. mask: (C_out or 1, S * edges)
        bfloat16 of 0 and 1, or how to draw one. Raises ValueError if the shapes do not fit.
        """
        layer = self._layer
        rows = layer.kernel_size * layer.out_channels + layer.in_channels
        columns = buffer.shape[1]
        if (
            len(buffer) != rows
            or columns % self.edges
            or buffer.dtype != torch.bfloat16
            or not buffer.is_contiguous()
            or buffer.data_ptr() % 64
        ):
            raise ValueError(
                f'buffer must be ({rows}, a multiple of {self.edges}) of torch.bfloat16, '
                f'contiguous and aligned to 64 bytes, not {tuple(buffer.shape)} of {buffer.dtype}'
            )
        if not 0 <= position < layer.kernel_size:
            raise ValueError(f'position must be 0 to {layer.kernel_size - 1}, not {position}')
        given = mask if isinstance(mask, Tensor) else None
        for name, tensor, counts in (
            ('out', out, (layer.out_channels,)),
            ('mask', given, (1, layer.out_channels)),
        ):
            if tensor is not None and (
                len(tensor) not in counts
                or tensor.shape[1:] != (columns,)
                or tensor.dtype != torch.bfloat16
                or tensor.stride(1) != 1
            ):
                raise ValueError(
                    f'{name} must be ({" or ".join(map(str, counts))}, {columns}) of '
                    f'torch.bfloat16, not {tuple(tensor.shape)} of {tensor.dtype}'
                )
        drawn = mask if isinstance(mask, RandomMask) else None
        numbers = (
            columns // self.edges,
            self.edges,
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            position,
            layer.subsets,
            layer.mixes_first,
            layer.has_outer_residual,
            out is not None,
            0 if out is None else out.stride(0),
            0 if given is None or len(given) == 1 else given.stride(0),
            torch.get_num_threads() if threads is None else threads,
        )
        failed = self._step(
            (ctypes.c_int64 * len(numbers))(*numbers),
            self._topology.data_ptr(),
            self._mixing.data_ptr(),
            self._mixing_bias.data_ptr(),
            self._temporal[position].data_ptr(),
            self._temporal_bias.data_ptr(),
            buffer.data_ptr(),
            None if out is None else out.data_ptr(),
            None if given is None else given.data_ptr(),
            0 if drawn is None else drawn.mixed_seed,
            0 if drawn is None else drawn.least_kept,
        )
        if failed:
            raise MemoryError(f'no memory to step a layer of {columns} columns')
