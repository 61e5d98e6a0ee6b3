# SPDX-License-Identifier: Apache-2.0
"""Streaming PST-BLN on a GPU: all faces and samples in one batch, replayed as a CUDA graph.

One frame is far less than a millisecond of arithmetic there; what takes time is to start the
kernels one by one. So the states of all faces lie in slots of common tensors, a step is recorded
once as a CUDA graph and replayed for every frame, and masks are drawn on the device, within the
graph. Without CUDA the same operations run one by one: that is for tests.

A step computes all slots. A slot that has no new frame, and a layer that is between two strides,
writes only what its next true step writes over: the oldest column of its rings.

Shapes: F slots (faces), S samples, C channels, E edges, K kernel size, B subsets, W frames pooled.
"""

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fer_perception.inference.folding import FoldedLayer, FoldedPstBln
from fer_perception.inference.stream import ExpressionStream, StreamingNetwork
from fer_perception.models.dropout import keep_mask, lasts, seeded_generator
from fer_perception.models.pst_bln import PstBln

Folded = TypeVar('Folded', FoldedLayer, FoldedPstBln)

WARM_UP_STEPS = 3  # before a graph is recorded, as CUDA graphs need


class BatchedStreamingPstBln(StreamingNetwork['BatchedStream']):
    """The weights of a causal PST-BLN and the states of all faces, on one device."""

    def __init__(
        self,
        model: PstBln,
        *,
        samples: int = 100,
        seed: int | None = None,
        device: str | torch.device = 'cuda',
    ) -> None:
        """Fold the weights of a model and bring them to the device.

        `samples` Monte Carlo streams run side by side; 0 turns dropout off (one stream).
        Raises ValueError if the model cannot stream, or samples are wanted without dropout.
        """
        super().__init__(model.config, samples=samples)
        self._device = torch.device(device)
        folded = FoldedPstBln.fold(model, with_dropout=samples > 0)
        self._layers = [_to_device(layer, self._device) for layer in folded.layers]
        self._folded = _to_device(folded, self._device)
        self.description = f'torch fp32 on {self._device.type}'
        self._generator = seeded_generator(seed, device=self._device)
        self._streams: weakref.WeakSet[BatchedStream] = weakref.WeakSet()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._slots = _Slots.empty(self, count=0)

    @property
    def bytes_per_face(self) -> int:
        """Memory in bytes that the state of one face takes."""
        return _Slots.empty(self, count=1).nbytes

    def stream(self) -> 'BatchedStream':
        """Start the stream of one face."""
        return BatchedStream(self)

    def step(
        self,
        streams: Sequence['BatchedStream'],
        edge_vectors: np.ndarray,
        *,
        masks: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Take one frame of each of several faces in one batch.

        edge_vectors: (F, 2, E) float32; `masks` replaces the random masks of all these faces, as
        in `BatchedStream.step`. Returns the logits (S, classes) of each face.
        """
        if not streams:
            return []
        self._follow_samples()
        self._place(streams)
        slots, indices = self._slots, [stream.slot for stream in streams]
        frames = torch.from_numpy(np.asarray(edge_vectors, np.float32)).to(self._device)
        slots.frames[indices] = frames
        due = [stream.advance() for stream in streams]
        for index, stream in zip(indices, streams, strict=True):
            slots.host_positions[:, index] = torch.tensor(stream.positions)
            slots.host_pooled[index] = min(stream.pooled_frames, self.config.pooled_frames)
        slots.positions.copy_(slots.host_positions)
        slots.pooled_frames.copy_(slots.host_pooled)
        if masks is not None:
            self._compute([torch.as_tensor(mask).to(self._device) for mask in masks])
        elif self._device.type == 'cuda':
            self._replay()
        else:
            self._compute(None)
        logits = slots.logits[indices].cpu().numpy()  # (F, S, classes)
        answers = [
            stream.finish(answer if is_due else None)
            for stream, answer, is_due in zip(streams, logits, due, strict=True)
        ]
        # Where these slots may be written to while they are computed without a new frame.
        for index, stream in zip(indices, streams, strict=True):
            slots.host_positions[:, index] = torch.tensor(stream.positions)
        return answers

    def lasting_masks(self, count: int) -> list[Tensor]:
        """Draw masks for `count` slots that they keep for all their frames."""
        return self._draw(count) if self._keeps_masks else []

    @property
    def _keeps_masks(self) -> bool:
        return self._samples > 0 and lasts(self.config.dropout_masks)

    @property
    def _is_after(self) -> bool:
        return self.config.dropout_position == 'after'

    def layer_streams(self, index: int) -> int:
        """Say how many streams a layer computes: what lies before all dropout is shared."""
        return max(self._samples, 1) if index or not self._is_after else 1

    def _draw(self, count: int) -> list[Tensor]:
        shapes = self.config.mask_shapes(clips=self._samples, frames=1)  # (S, C, 1, E) each
        return [
            keep_mask(
                (count, channels, samples, edges),
                self.config.dropout,
                device=self._device,
                generator=self._generator,
            )
            for samples, channels, _, edges in shapes
        ]

    def _follow_samples(self) -> None:
        """Rebuild the slots if the number of samples has changed."""
        former = self._slots.samples
        if self._samples != former:
            index = torch.arange(self._samples, device=self._device) % former
            kept = min(self._samples, former)
            self._slots = self._slots.with_samples(self, index, kept=kept)
            self._graph = None

    def _place(self, streams: Sequence['BatchedStream']) -> None:
        """Give every stream a slot; rebuild the slots if there are too few or far too many."""
        self._streams.update(streams)
        alive = list(self._streams)
        count = self._slots.count
        if len(alive) > count or len(alive) <= count // 4:
            placed = [stream for stream in alive if stream.slot >= 0]
            wanted = 1 << (len(alive) - 1).bit_length()  # the next power of two
            self._slots = self._slots.moved(self, [s.slot for s in placed], count=wanted)
            for slot, stream in enumerate(placed):
                stream.slot = slot
            self._graph = None
        free = sorted(set(range(self._slots.count)) - {stream.slot for stream in alive})
        for stream in alive:
            if stream.slot < 0:
                stream.slot = free.pop(0)
                self.clear(stream.slot)

    def clear(self, slot: int) -> None:
        """Forget what a slot remembers."""
        self._follow_samples()
        for ring in (*self._slots.rings, self._slots.pooled):
            ring[slot].zero_()
        for mask, fresh in zip(self._slots.masks, self.lasting_masks(1), strict=True):
            mask[slot] = fresh[0]

    def _replay(self) -> None:
        if self._graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_STEPS):
                    self._compute(None)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._generator)
            with torch.cuda.graph(self._graph):
                self._compute(None)
        self._graph.replay()

    @torch.inference_mode()
    def _compute(self, masks: list[Tensor] | None) -> None:
        """Compute the logits of all slots from their frames and what they remember."""
        slots, folded = self._slots, self._folded
        if masks is None:
            masks = slots.masks or (self._draw(slots.count) if self._samples else [])
        due = iter(masks)
        features = slots.frames * folded.input_scale + folded.input_shift  # (F, 2, E)
        features = features[:, :, None]  # (F, 2, 1, E)
        if self._samples and not self._is_after:
            features = features * next(due)  # (F, 2, S, E)
        for index, layer in enumerate(self._layers):
            is_last = index + 1 == len(self._layers)
            features = self._layer(layer, features, slots.rings[index], slots.positions[index])
            if self._samples and (self._is_after or not is_last):
                features = features * next(due)  # (F, C, S, E)
        every = torch.arange(slots.count, device=self._device)
        slots.pooled[every, slots.positions[-1]] = features.mean(-1)  # (F, C, S)
        mean = slots.pooled.sum(1) / slots.pooled_frames[:, None, None]  # (F, C, S)
        slots.logits.copy_(mean.transpose(1, 2) @ folded.head.T + folded.head_bias)

    def _layer(
        self, layer: FoldedLayer, features: Tensor, ring: Tensor, positions: Tensor
    ) -> Tensor:
        """Map (F, C_in, S, E) to (F, C_out, S, E); the ring is (F, K, C_out, S, E)."""
        slots, _, streams, edges = features.shape
        rows = features.flatten(2)  # (F, C_in, S * E)
        bias = layer.mixing_bias[:, None]
        if layer.mixes_first:
            mixed = layer.mixing @ rows  # (F, (1 + B) * C_out, S * E)
            residual, parts = mixed[:, : layer.out_channels], mixed[:, layer.out_channels :]
            by_row = (slots, layer.subsets, layer.out_channels * streams, edges)
            mapped = parts.reshape(by_row) @ layer.topology  # (F, B, C_out * S, E)
            spatial = residual + bias + mapped.sum(1).view_as(residual)
        else:
            by_row = (slots, 1, layer.in_channels * streams, edges)
            mapped = rows.reshape(by_row) @ layer.topology  # (F, B, C_in * S, E)
            mapped = mapped.view(slots, -1, streams * edges)  # (F, B * C_in, S * E)
            spatial = layer.mixing @ torch.cat([rows, mapped], dim=1) + bias
        every = torch.arange(slots, device=self._device)
        ring[every, positions] = spatial.relu().view(slots, -1, streams, edges)
        weights = layer.temporal[positions]  # (F, C_out, K * C_out + C_in or less)
        split = layer.kernel_size * layer.out_channels
        past = ring.view(slots, split, -1)  # (F, K * C_out, S * E)
        result = weights[:, :, :split] @ past + layer.temporal_bias[:, None]
        if layer.has_outer_residual:
            result = result + weights[:, :, split:] @ rows
        return result.relu().view(slots, layer.out_channels, streams, edges)


class BatchedStream(ExpressionStream):
    """One face: its slot, and how far its layers have come."""

    def __init__(self, network: BatchedStreamingPstBln) -> None:
        super().__init__(network.config)
        self._network = network
        self.slot = -1  # none yet
        self._forget()

    def reset(self) -> None:
        """Forget every frame."""
        self._forget()
        if self.slot >= 0:
            self._network.clear(self.slot)

    def step(
        self, edge_vectors: np.ndarray, *, masks: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Take one frame and answer for the window that ends with it.

        edge_vectors: (2, E) float32. Returns logits (S, classes) float32; S = 1 with dropout off.
        `masks` replaces the random masks: for each dropout in turn an array that broadcasts to
        (C, S, E), 0 where it drops and 1 where it keeps.
        """
        return self._network.step([self], np.asarray(edge_vectors)[None], masks=masks)[0]

    @property
    def positions(self) -> list[int]:
        """Where each layer's ring, and last the ring of the pooling, takes the next column."""
        kernel_size, window = self._network.config.kernel_size, self._window
        return [count % kernel_size for count in self._counts] + [self._pooled % window]

    @property
    def pooled_frames(self) -> int:
        """Frames of the last layer that are pooled once the step is done."""
        return self._pooled + self._is_due

    def advance(self) -> bool:
        """Begin a step; tell whether its frame reaches the pooling, past all strides."""
        self._reached = 0  # layers that get a new column
        self._is_due = False
        for count, stride in zip(self._counts, self._network.config.strides, strict=True):
            self._reached += 1
            if count % stride:
                return False
        self._is_due = True
        return True

    def finish(self, logits: np.ndarray | None) -> np.ndarray:
        """End a step: move on in the rings that got a new column; return the answer.

        logits: (S, classes), or None if the frame did not reach the pooling; the answer then is
        the one before.
        """
        for index in range(self._reached):
            self._counts[index] += 1
        self._frames += 1
        self._pooled += self._is_due
        self._is_due = False
        if logits is not None:
            self._logits = logits
        samples = max(self._network.samples, 1)
        return self._logits[np.arange(samples) % len(self._logits)]

    def _forget(self) -> None:
        config = self._network.config
        self._window = config.pooled_frames
        self._counts = [0] * len(config.channels)
        self._pooled = self._frames = self._reached = 0
        self._is_due = False
        self._logits = np.zeros((1, config.classes), np.float32)


@dataclass(frozen=True, kw_only=True)
class _Slots:
    """The tensors of all slots, with fixed addresses for as long as a graph uses them."""

    count: int  # F
    samples: int  # S, 0 with dropout off
    frames: Tensor  # (F, 2, E), the input of a step
    positions: Tensor  # (layers + 1, F), where each ring takes its next column
    pooled_frames: Tensor  # (F,)
    rings: list[Tensor]  # of each layer, (F, K, C_out, S, E)
    pooled: Tensor  # ring of the pooling, (F, W, C, S)
    masks: list[Tensor]  # those that last, (F, C, S, E); none for other kinds
    logits: Tensor  # (F, S, classes), the output of a step
    host_positions: Tensor
    host_pooled: Tensor

    @classmethod
    def empty(cls, network: BatchedStreamingPstBln, *, count: int) -> '_Slots':
        config, device = network.config, network._device
        streams = max(network.samples, 1)
        window = config.pooled_frames
        layers = len(config.channels)
        return cls(
            count=count,
            samples=network.samples,
            frames=torch.zeros(count, config.in_channels, config.edges, device=device),
            positions=torch.zeros(layers + 1, count, dtype=torch.int64, device=device),
            pooled_frames=torch.ones(count, device=device),
            rings=[
                torch.zeros(
                    count, config.kernel_size, width, network.layer_streams(index), config.edges,
                    device=device,
                )
                for index, width in enumerate(config.channels)
            ],
            pooled=torch.zeros(count, window, config.channels[-1], streams, device=device),
            masks=network.lasting_masks(count),
            logits=torch.zeros(count, streams, config.classes, device=device),
            host_positions=torch.zeros(layers + 1, count, dtype=torch.int64),
            host_pooled=torch.ones(count),
        )

    @property
    def nbytes(self) -> int:
        """Memory on the device in bytes."""
        return sum(tensor.nbytes for tensor in (*self.rings, self.pooled, *self.masks))

    def moved(
        self, network: BatchedStreamingPstBln, slots: list[int], *, count: int
    ) -> '_Slots':
        """Make `count` slots, the first of which take over from these."""
        new = _Slots.empty(network, count=count)
        for old_tensor, new_tensor in zip(
            (*self.rings, self.pooled, *self.masks),
            (*new.rings, new.pooled, *new.masks),
            strict=True,
        ):
            new_tensor[: len(slots)] = old_tensor[slots]
        new.host_positions[:, : len(slots)] = self.host_positions[:, slots]
        new.host_pooled[: len(slots)] = self.host_pooled[slots]
        return new

    def with_samples(
        self, network: BatchedStreamingPstBln, index: Tensor, *, kept: int
    ) -> '_Slots':
        """Make slots of other samples: each takes over from the sample at its index."""
        new = _Slots.empty(network, count=self.count)
        for old_ring, new_ring in zip(self.rings, new.rings, strict=True):
            is_shared = old_ring.shape[3] == 1 and new_ring.shape[3] == 1
            new_ring.copy_(old_ring if is_shared else old_ring[:, :, :, index])
        new.pooled.copy_(self.pooled[..., index])
        for old_mask, new_mask in zip(self.masks, new.masks, strict=True):
            new_mask[:, :, :kept] = old_mask[:, :, :kept]
        return replace(new, host_positions=self.host_positions, host_pooled=self.host_pooled)


def _to_device(folded: Folded, device: torch.device) -> Folded:
    """Return a folded layer or network with all its tensors on a device."""
    moved = copy.copy(folded)
    for item in fields(folded):
        if isinstance(value := getattr(folded, item.name), Tensor):
            object.__setattr__(moved, item.name, value.to(device))
    return moved
