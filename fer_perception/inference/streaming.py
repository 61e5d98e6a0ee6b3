# SPDX-License-Identifier: Apache-2.0
"""Streaming PST-BLN by PyTorch: one new frame costs one new column of every layer.

The bilinear map acts on each frame alone; only the temporal convolution and the pooling look
across frames. So every layer keeps a ring of its last K spatial outputs, the pooling a ring of
its last window, one for each Monte Carlo sample. Masks are drawn afresh for each new frame and
stay in the rings: for every window this is windowed Monte Carlo dropout. With causal padding the
stream equals `PstBln.logits_over_time` on the frames since the last reset.

Shapes: S samples, C channels, E edges, K kernel size. Features of one frame are kept as
(C, S * E), so that every product is one large matrix product. Where a compiled step computes a
whole layer, E is rounded up by edges that are connected to nothing.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fer_perception.inference.folding import FoldedLayer, FoldedPstBln
from fer_perception.inference.layer_step import LayerStep, layer_step_is_available, padded_edges
from fer_perception.inference.mask_bank import StreamMasks
from fer_perception.inference.row_product import (
    LARGEST_SEED,
    RandomMask,
    native_is_available,
    repeat_rows,
    row_product,
)
from fer_perception.inference.row_product import description as row_product_description
from fer_perception.inference.stream import ExpressionStream, StreamingNetwork
from fer_perception.models.dropout import lasts, seeded_generator
from fer_perception.models.pst_bln import PstBln

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16}


class TorchStreamingPstBln(StreamingNetwork['TorchStream']):
    """The weights of a causal PST-BLN, folded for streaming on the CPU; faces share them."""

    def __init__(
        self,
        model: PstBln,
        *,
        samples: int = 100,
        seed: int | None = None,
        precision: str = 'fp32',
    ) -> None:
        """Fold the weights of a model.

        `samples` Monte Carlo streams run side by side; 0 turns dropout off (one stream). What
        lies before the first dropout and after the last layer is computed in fp32 always.
        Raises ValueError if the model cannot stream, or samples are wanted without dropout.
        """
        super().__init__(model.config, samples=samples)
        if precision not in PRECISIONS:
            raise ValueError(f'precision must be {" or ".join(PRECISIONS)}, not {precision!r}')
        self.folded = FoldedPstBln.fold(model, with_dropout=samples > 0)
        self.description = f'torch {precision} on cpu, {row_product_description()}'
        self.dtype = PRECISIONS[precision]
        self._generator = seeded_generator(seed, device=torch.device('cpu'))
        self._seeds = random.Random(int(torch.randint(2**62, (1,), generator=self._generator)))
        has_steps = self.dtype == torch.bfloat16 and layer_step_is_available()
        self.edges = padded_edges(self.config.edges) if has_steps else self.config.edges
        # What all samples share, before the first dropout, is computed in fp32.
        self.shared_layers = 1 if self.config.dropout_position == 'after' else 0
        self.layers = [
            replace(layer, topology=layer.topology.to(self.dtype))
            if index >= self.shared_layers
            else layer
            for index, layer in enumerate(self.folded.layers)
        ]
        self.steps = [
            LayerStep(layer) if has_steps and index >= self.shared_layers else None
            for index, layer in enumerate(self.folded.layers)
        ]
        self._masks = StreamMasks(self.config, dtype=self.dtype, generator=self._generator)
        self._scratch = torch.empty(0)

    @property
    def bytes_per_face(self) -> int:
        """Memory in bytes that the state of one face takes."""
        return self.stream().nbytes

    def stream(self) -> 'TorchStream':
        """Start the stream of one face."""
        return TorchStream(self)

    def draw_masks(self) -> list[Tensor | RandomMask]:
        """Draw masks that may be used until the next are drawn, one for each dropout."""
        if not self._samples:
            return []
        if native_is_available() and self.config.dropout_masks == 'element':
            return [
                RandomMask(self._seeds.randint(0, LARGEST_SEED), self.config.dropout)
                for _ in self.config.channels
            ]
        return list(self._masks.draw(self._samples))

    def draw_lasting_masks(self) -> list[Tensor]:
        """Draw masks of 0 and 1 that a stream keeps for all its frames."""
        return self._masks.draw_lasting(self._samples)

    def scratch(self, rows: int, like: Tensor) -> Tensor:
        """Lend memory of `rows` rows of another block; the next call may lend it again."""
        columns = like.shape[1]
        if self._scratch.dtype != like.dtype or self._scratch.numel() < rows * columns:
            self._scratch = like.new_empty(rows * columns)
        return self._scratch[: rows * columns].view(rows, columns)


class TorchStream(ExpressionStream):
    """The state of one face: what its layers remember, for every Monte Carlo sample."""

    def __init__(self, network: TorchStreamingPstBln) -> None:
        super().__init__(network.config)
        self._network = network
        self._window = network.config.pooled_frames
        self._samples = network.samples
        streams = max(self._samples, 1)
        edges, channels = network.config.edges, network.config.channels[-1]
        self._layers = [
            LayerStream(layer, streams=1, edges=edges)
            if index < network.shared_layers
            else LayerStream(layer, streams=streams, edges=network.edges, compiled_step=step)
            for index, (layer, step) in enumerate(zip(network.layers, network.steps, strict=True))
        ]
        self._last = torch.zeros(channels, streams, network.edges, dtype=network.dtype)
        self._last_fp32 = torch.zeros(channels, streams, edges)
        self._pooled = torch.zeros(self._window, channels, streams)  # ring of the window
        self._sum = torch.zeros(channels, streams, dtype=torch.float64)
        self.reset()

    def reset(self) -> None:
        """Forget every frame."""
        for layer in self._layers:
            layer.reset()
        self._pooled.zero_()
        self._sum.zero_()
        self._pooled_frames = 0
        self._frames = 0
        self._lasting_masks: list[Tensor] = []
        if self._samples and lasts(self._network.config.dropout_masks):
            self._resize(self._network.samples)
            self._lasting_masks = self._network.draw_lasting_masks()

    @property
    def nbytes(self) -> int:
        """Memory of the state in bytes."""
        tensors = [self._last, self._last_fp32, self._pooled, self._sum, *self._lasting_masks]
        return sum(tensor.nbytes for tensor in tensors) + sum(
            layer.buffer.nbytes for layer in self._layers
        )

    @torch.inference_mode()
    def step(
        self, edge_vectors: np.ndarray, *, masks: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Take one frame and answer for the window that ends with it.

        edge_vectors: (2, E) float32. Returns logits (S, classes) float32; S = 1 with dropout off.
        `masks` replaces the random masks: for each dropout in turn an array that broadcasts to
        (C, S, E), 0 where it drops and 1 where it keeps.
        """
        network, folded = self._network, self._network.folded
        self._resize(network.samples)
        drawn: Sequence[Tensor | RandomMask]
        if masks is not None:
            drawn = [torch.as_tensor(mask).to(network.dtype) for mask in masks]
        else:
            drawn = self._lasting_masks or network.draw_masks()
        due = iter(drawn)
        vectors = torch.from_numpy(np.asarray(edge_vectors, np.float32))
        frame = vectors * folded.input_scale + folded.input_shift  # (2, E)
        first = self._layers[0].input
        is_after = network.shared_layers > 0
        _part(frame, None if is_after or not self._samples else next(due), first)
        self._frames += 1
        for index, layer in enumerate(self._layers):
            is_last = index + 1 == len(self._layers)
            mask = next(due) if self._samples and (is_after or not is_last) else None
            target = self._last if is_last else self._layers[index + 1].input
            if not layer.step(network, target, mask):
                break  # between two strides: nothing new from here on
        else:
            self._pool()
        mean = (self._sum / min(self._pooled_frames, self._window)).float()  # (C, S)
        logits = mean.T @ folded.head.T + folded.head_bias  # (S, classes)
        answer: np.ndarray = logits.numpy()
        return answer

    def _pool(self) -> None:
        """Move the window: the newest mean over the edges comes in, the oldest goes out."""
        self._last_fp32.copy_(self._last[..., : self._network.config.edges])
        edges_mean = self._last_fp32.mean(-1)  # (C, S)
        slot = self._pooled[self._pooled_frames % self._window]  # (C, S)
        # In float64 the sum stays exact to the last digits of float32 for years of frames.
        self._sum += edges_mean.double() - slot.double()
        slot.copy_(edges_mean)
        self._pooled_frames += 1

    def _resize(self, samples: int) -> None:
        """Keep the first samples, or add copies of them."""
        if samples == self._samples:
            return
        index = torch.arange(samples) % self._samples
        for layer in self._layers[self._network.shared_layers :]:
            layer.resize(index)
        self._last, self._last_fp32 = self._last[:, index], self._last_fp32[:, index]
        self._pooled, self._sum = self._pooled[..., index], self._sum[..., index]
        if self._lasting_masks:
            fresh = self._network.draw_lasting_masks()
            for mask, old in zip(fresh, self._lasting_masks, strict=True):
                kept = min(samples, self._samples)
                mask[:, :kept] = old[:, :kept]
            self._lasting_masks = fresh
        self._samples = samples


class LayerStream:
    """The memory of one layer.

    One block of rows (S * E each): the ring of the last K spatial outputs, C_out rows a frame;
    the layer's input X, C_in rows; where the topology comes first, U_b X, C_in rows for each
    subset. So both products of a layer take rows that lie together. A compiled step needs no
    memory for U_b X.
    """

    def __init__(
        self,
        layer: FoldedLayer,
        *,
        streams: int,
        edges: int,
        compiled_step: LayerStep | None = None,
    ) -> None:
        self._layer = layer
        self._edges = edges
        self._compiled_step = compiled_step
        self._ring_rows = layer.kernel_size * layer.out_channels
        self._topologies = list(layer.topology)
        rows = self._ring_rows + layer.in_channels
        if not layer.mixes_first and compiled_step is None:
            rows += layer.subsets * layer.in_channels
        self._set(torch.zeros(rows, streams * edges, dtype=layer.topology.dtype))
        self.reset()

    def reset(self) -> None:
        """Forget every frame."""
        self.buffer[: self._ring_rows].zero_()
        self._frames = 0

    def _set(self, buffer: Tensor) -> None:
        layer = self._layer
        self.buffer = buffer
        self._streams = buffer.shape[1] // self._edges
        end = self._ring_rows + layer.in_channels
        self._input_rows = buffer[self._ring_rows : end]  # (C_in, S * E)
        self.input = self._input_rows.view(layer.in_channels, self._streams, self._edges)
        by_row = (layer.in_channels * self._streams, self._edges)  # (C_in * S, E)
        self._input_by_row = self._input_rows.view(by_row)
        self._mapped_by_row = [
            buffer[start : start + layer.in_channels].view(by_row)
            for start in range(end, len(buffer), layer.in_channels)
        ]
        self._mixed_rows = buffer[self._ring_rows :]  # X and, topology first, all U_b X
        self._temporal_rows = buffer[: end if layer.has_outer_residual else self._ring_rows]
        self._slots = buffer[: self._ring_rows].view(layer.kernel_size, layer.out_channels, -1)

    def step(
        self, network: TorchStreamingPstBln, target: Tensor, mask: Tensor | RandomMask | None
    ) -> bool:
        """Map the features that lie in `input` to `target`, (C_out, S, E), times the mask.

        mask: one that broadcasts to (C_out, S, E), or how to draw one, or None. Returns False
        between two strides, where the target is left as it was.
        """
        layer = self._layer
        position = self._frames % layer.kernel_size
        is_due = self._frames % layer.stride == 0
        self._frames += 1
        if self._compiled_step is not None:
            self._compiled_step(
                self.buffer,
                position=position,
                out=target.view(len(target), -1) if is_due else None,  # (C_out, S * E)
                mask=self._flat(mask) if isinstance(mask, Tensor) else mask,
            )
            return is_due
        self._spatial(self._slots[position], network)
        if not is_due:
            return False
        product = (layer.temporal[position], layer.temporal_bias, self._temporal_rows)
        if target.shape[1] == self._streams and target.dtype == self.buffer.dtype:
            if isinstance(mask, Tensor):
                mask = self._flat(mask)
            row_product(*product, target.view(len(target), -1), relu=True, mask=mask)
            return True
        # One stream in fp32, shared by all samples until they part here.
        shared = self.buffer.new_empty(layer.out_channels, self._edges)
        row_product(*product, shared, relu=True)
        _part(shared, mask, target)
        return True

    def resize(self, index: Tensor) -> None:
        """Keep or repeat streams."""
        rows = self.buffer.view(len(self.buffer), self._streams, self._edges)[:, index]
        self._set(rows.flatten(1))  # (rows, S * E)

    def _flat(self, mask: Tensor) -> Tensor:
        """Lay a mask out as features are: (C_out or 1, S or 1, E or 1) -> (C_out or 1, S * E)."""
        missing = self._edges - mask.shape[-1]
        if mask.shape[-1] > 1 and missing:
            mask = torch.nn.functional.pad(mask, (0, missing))
        # With one stream, flattening alone would leave a view of one column.
        return mask.expand(-1, self._streams, self._edges).flatten(1).contiguous()

    def _spatial(self, slot: Tensor, network: TorchStreamingPstBln) -> None:
        """Write ReLU(U X W + R X) to a slot of the ring, (C_out, S * E)."""
        layer = self._layer
        if layer.mixes_first:
            count = layer.out_channels
            residual, mixing = layer.mixing[:count], layer.mixing[count:]
            row_product(residual, layer.mixing_bias, self._input_rows, slot, relu=False)
            mixed = network.scratch(len(mixing), self.buffer)  # (B * C_out, S * E)
            row_product(mixing, None, self._input_rows, mixed, relu=False)
            by_row = (count * self._streams, self._edges)  # (C_out * S, E)
            slot_by_row = slot.view(by_row)
            for part, topology in zip(mixed.split(count), self._topologies, strict=True):
                slot_by_row.addmm_(part.view(by_row), topology)
            slot.relu_()
        else:
            for mapped, topology in zip(self._mapped_by_row, self._topologies, strict=True):
                torch.mm(self._input_by_row, topology, out=mapped)
            row_product(
                layer.mixing, layer.mixing_bias, self._mixed_rows, slot, relu=True
            )


def _part(features: Tensor, mask: Tensor | RandomMask | None, target: Tensor) -> None:
    """Give what all samples share, (C, E), to each of them, times its mask: (C, S, E)."""
    features = features.to(target.dtype)
    channels, samples, padded = target.shape
    edges = features.shape[-1]
    if mask is None or isinstance(mask, RandomMask):
        rows = target.view(channels * samples, padded)[:, :edges]  # (C * S, E)
        repeat_rows(features, rows, mask=mask)
    else:
        torch.mul(features[:, None], mask, out=target[..., :edges])
