# SPDX-License-Identifier: Apache-2.0
"""Streaming PST-BLN by ONNX Runtime: one new frame is one run of an exported step network.

The state of a face is one buffer for each layer, a ring of its last K spatial outputs. It is
bound as an input and as the output that it becomes, so that a step writes one column and copies
nothing; with a GPU it stays there. The graph gives the logits of the frame alone: the head is
linear, so their mean over the window is the answer.

Shapes: S samples, C channels, E edges, K kernel size.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_perception.inference.mask_bank import StreamMasks
from fer_perception.inference.onnx_clips import (
    STEP_NETWORK,
    first_line,
    import_runtime,
    open_session,
    read_metadata,
    read_nodes,
)
from fer_perception.inference.stream import ExpressionStream, StreamingNetwork
from fer_perception.models.description_fields import read_json
from fer_perception.models.dropout import lasts, seeded_generator
from fer_perception.models.model_file import ModelDescription, description_from_metadata
from fer_perception.models.pst_bln import PstBlnConfig
from fer_perception.models.tensor_file import ModelFileError

FRAME = 'edge_vectors'  # (2, E)
POSITIONS = 'positions'  # (layers, 1): where in its ring each layer's new column belongs
SAMPLES = 'samples'  # (1,), where the graph draws its masks: their number,
MASK_RATE = 'mask_rate'  # the share that they drop
MASK_VALUE = 'mask_value'  # and the value of what they keep
LOGITS = 'frame_logits'  # (S, classes)
GPU_PROVIDERS = ('CUDAExecutionProvider', 'TensorrtExecutionProvider')

Kind = tuple[str, tuple[int | str, ...]]  # element type and shape, a name for a free dimension


def ring_in(layer: int) -> str:
    """Name the input for a layer's ring of columns, (K, C, S, E)."""
    return f'ring_{layer}'


def ring_out(layer: int) -> str:
    """Name the output for the same ring with the new column in it."""
    return f'new_ring_{layer}'


def due(layer: int) -> str:
    """Name the input that says whether a layer with a stride has an output at this frame."""
    return f'due_{layer}'


def mask(dropout: int) -> str:
    """Name the input for the mask of a dropout, which broadcasts to (C, S, E)."""
    return f'mask_{dropout}'


@dataclass(frozen=True, kw_only=True)
class StepSignature:
    """Say what goes into the step network of a model, and what comes out."""

    config: PstBlnConfig
    draws_masks: bool  # the graph draws them; else they are inputs

    def __post_init__(self) -> None:
        """Refuse what cannot stream, and masks that the graph cannot draw."""
        config = self.config
        if config.padding != 'causal' or config.window == 0:
            raise ValueError(
                "streaming needs a model with padding 'causal' and a window, this one has "
                f'padding {config.padding!r} and window {config.window}'
            )
        if self.draws_masks and config.dropout == 0.0:
            raise ValueError('the model has no dropout, so there are no masks to draw')
        if self.draws_masks and lasts(config.dropout_masks):
            raise ValueError(
                'masks that last for all frames are drawn once for each face, not in the graph'
            )

    @property
    def inputs(self) -> dict[str, Kind]:
        """Type and shape of every input."""
        config = self.config
        layers = range(len(config.channels))
        found: dict[str, Kind] = {
            FRAME: ('float', (config.in_channels, config.edges)),
            POSITIONS: ('int64', (len(config.channels), 1)),
        }
        found |= {due(layer): ('bool', ()) for layer in layers if config.strides[layer] > 1}
        found |= {ring_in(layer): self._ring(layer) for layer in layers}
        if self.draws_masks:
            found |= {SAMPLES: ('int64', (1,))}
            found |= {name: ('float', ()) for name in (MASK_RATE, MASK_VALUE)}
        elif config.dropout:
            for index in layers:
                found[mask(index)] = ('float', (f'c_{index}', 'samples', f'e_{index}'))
        return found

    @property
    def outputs(self) -> dict[str, Kind]:
        """Type and shape of every output."""
        config = self.config
        rings = {ring_out(layer): self._ring(layer) for layer in range(len(config.channels))}
        return rings | {LOGITS: ('float', ('rows', config.classes))}

    def ring_shape(self, layer: int, *, streams: int) -> tuple[int, int, int, int]:
        """Return the shape of a layer's ring; the first may be shared by all streams."""
        if self.is_shared(layer):
            streams = 1
        config = self.config
        return (config.kernel_size, config.channels[layer], streams, config.edges)

    def is_shared(self, layer: int) -> bool:
        """Say whether a layer lies before the first dropout: one ring serves all samples."""
        return not self.config.dropout or (
            layer == 0 and self.config.dropout_position == 'after'
        )

    def _ring(self, layer: int) -> Kind:
        slots, channels, _, edges = self.ring_shape(layer, streams=1)
        streams = 1 if self.is_shared(layer) else 'samples'
        return 'float', (slots, channels, streams, edges)


def step_network_to_metadata(signature: StepSignature) -> str:
    """Write what the metadata hold besides the description, as JSON."""
    return json.dumps({'draws_masks': signature.draws_masks})


class OnnxStreamingPstBln(StreamingNetwork['OnnxStream']):
    """A step network that `fer_train export --streaming` wrote; faces share it."""

    def __init__(
        self,
        path: Path,
        *,
        samples: int = 100,
        seed: int | None = None,
        threads: int = 1,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Load a file; with a seed the samples repeat.

        `samples` Monte Carlo streams run side by side; 0 turns dropout off (one stream).
        providers: execution providers of ONNX Runtime, the best first. One that this machine
        lacks is left out with a warning; the CPU is always the last. Where the graph draws the
        masks, loading sets the seed that ONNX Runtime has for the whole process.
        Raises ModelFileError naming the file and what is wrong with it, ValueError for numbers
        out of range or samples without dropout, ImportError without onnxruntime.
        """
        if threads < 1:
            raise ValueError(f'threads must be at least 1, not {threads}')
        self._path = path
        self.session = open_session(path, threads, providers)
        self.model, self.signature = _read_description(path, self.session)
        super().__init__(self.model.network, samples=samples)
        if samples and not self.config.dropout:
            raise ValueError(f'{path}: Monte Carlo dropout needs a model with dropout')
        if self.signature.draws_masks:  # the graph takes its seed when it is opened
            # Small seeds make ONNX Runtime's generators of different nodes follow one another.
            mixed = np.random.SeedSequence(seed).generate_state(1)[0] // 2
            import_runtime().set_seed(int(mixed))
            self.session = open_session(path, threads, providers)
        provider = self.session.get_providers()[0]
        self.description = f'onnxruntime fp32 by {provider}'
        self.device = 'cuda' if provider in GPU_PROVIDERS else 'cpu'
        if self.device == 'cuda' and samples and not self.signature.draws_masks:
            warnings.warn(
                f'{path} takes its masks from the host, which a GPU has to wait for; export with '
                '--draw-masks for one',
                stacklevel=2,
            )
        if self.device == 'cpu' and samples and self.signature.draws_masks:
            warnings.warn(
                f'{path} draws its masks itself, for a GPU; on the CPU ONNX Runtime draws them '
                'slowly and repeats them after minutes: export without --draw-masks for it',
                stacklevel=2,
            )
        self._masks = StreamMasks(
            self.config,
            dtype=torch.float32,
            generator=seeded_generator(seed, device=torch.device('cpu')),
        )
        self._check_signature()
        self._check_answers()

    @property
    def bytes_per_face(self) -> int:
        """Memory in bytes that the state of one face takes."""
        return self.stream().nbytes

    @property
    def mask_shapes(self) -> list[tuple[int, int, int]]:
        """The shape (C or 1, S, E or 1) of the mask of each dropout; S = 1 with dropout off."""
        return self._masks.shapes(max(self._samples, 1)) if self.config.dropout else []

    def stream(self) -> 'OnnxStream':
        """Start the stream of one face."""
        return OnnxStream(self)

    def run(self, binding: Any) -> None:
        """Run one step on what is bound. Raises ModelFileError if the network cannot be run."""
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:  # the exceptions of ONNX Runtime share no base of their own
            raise ModelFileError(f'{self._path} cannot be run: {first_line(error)}') from error

    def draw_masks(self) -> list[np.ndarray]:
        """Draw masks of 0 and 1 that may be used until the next are drawn."""
        if not self.config.dropout:
            return []
        return [mask.numpy() for mask in self._masks.draw(max(self._samples, 1))]

    def draw_lasting_masks(self) -> list[np.ndarray]:
        """Draw masks of 0 and 1 that a stream keeps for all its frames."""
        return [mask.numpy() for mask in self._masks.draw_lasting(max(self._samples, 1))]

    def _check_signature(self) -> None:
        """Refuse a network whose inputs or outputs are not what its description says."""
        expected = {'input': self.signature.inputs, 'output': self.signature.outputs}
        found = {
            'input': read_nodes(self._path, self.session.get_inputs()),
            'output': read_nodes(self._path, self.session.get_outputs()),
        }
        for role, kinds in expected.items():
            if found[role].keys() != kinds.keys():
                raise ModelFileError(
                    f'{self._path} has the {role}s {", ".join(found[role])}; they must be '
                    f'{", ".join(kinds)}'
                )
            for name, node in found[role].items():
                kind, shape = kinds[name]
                is_same = len(node.shape) == len(shape) and all(
                    isinstance(size, str) or size == had  # a name for a free size says nothing
                    for size, had in zip(shape, node.shape, strict=True)
                )
                if node.type != f'tensor({kind})' or not is_same:
                    raise ModelFileError(
                        f'{self._path}: {name} is {node.type} {node.shape}, it must be '
                        f'tensor({kind}) {list(shape)}'
                    )

    def _check_answers(self) -> None:
        """Refuse a network that does not run, or whose weights are not finite."""
        config = self.config
        stream = self.stream()
        for _ in range(2):  # two frames pass a stride
            logits = stream.step(np.zeros((config.in_channels, config.edges), np.float32))
            if logits.shape != (max(self._samples, 1), config.classes) or not np.isfinite(
                logits
            ).all():
                raise ModelFileError(
                    f'{self._path} answers no finite logits of {config.classes} classes'
                )


class OnnxStream(ExpressionStream):
    """The state of one face: what its layers remember, for every Monte Carlo sample."""

    def __init__(self, network: OnnxStreamingPstBln) -> None:
        super().__init__(network.config)
        self._network = network
        self._runtime = import_runtime()
        self.reset()

    def reset(self) -> None:
        """Forget every frame."""
        network, config = self._network, self._network.config
        self._samples = network.samples
        streams = max(self._samples, 1)
        self._rings = [
            self._on_device(
                np.zeros(network.signature.ring_shape(layer, streams=streams), np.float32)
            )
            for layer in range(len(config.channels))
        ]
        self._layer_frames = [0] * len(config.channels)
        shape = (config.pooled_frames, streams, config.classes)
        self._answers = np.zeros(shape, np.float32)  # ring
        self._sum = np.zeros((streams, config.classes), np.float64)
        self._answered_frames = 0
        self._frames = 0
        lasting: list[np.ndarray] = []
        if self._samples and lasts(config.dropout_masks):
            lasting = network.draw_lasting_masks()
        elif not self._samples and not network.signature.draws_masks:
            # The weights are scaled for masks of 0 and 1, whose mean is 1 - dropout.
            kept = np.float32(1.0 - config.dropout)
            lasting = [np.full(shape, kept) for shape in network.mask_shapes]
        self._lasting = [self._on_device(values) for values in lasting]
        self._bind_rings()

    @property
    def nbytes(self) -> int:
        """Memory of the state in bytes."""
        on_device = sum(
            value.tensor_size_in_bytes() for value in (*self._rings, *self._lasting)
        )
        return int(on_device) + self._answers.nbytes + self._sum.nbytes

    def step(
        self, edge_vectors: np.ndarray, *, masks: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Take one frame and answer for the window that ends with it.

        edge_vectors: (2, E) float32. Returns logits (S, classes) float32; S = 1 with dropout off.
        `masks` replaces the random masks: for each dropout in turn an array that broadcasts to
        (C, S, E), 0 where it drops and 1 where it keeps. Raises ValueError for another shape, or
        for masks where the graph draws them.
        """
        network, config = self._network, self._network.config
        if self._samples != network.samples:
            self._resize(network.samples)
        frame = np.ascontiguousarray(edge_vectors, np.float32)
        if frame.shape != (config.in_channels, config.edges):
            raise ValueError(
                f'a frame must have the shape {(config.in_channels, config.edges)}, '
                f'not {frame.shape}'
            )
        is_due = [
            frames % stride == 0
            for frames, stride in zip(self._layer_frames, config.strides, strict=True)
        ]
        values = {
            FRAME: frame,
            POSITIONS: np.array([[n % config.kernel_size] for n in self._layer_frames]),
            **{
                due(layer): np.array(is_due[layer])
                for layer, stride in enumerate(config.strides)
                if stride > 1
            },
            **self._mask_values(masks),
        }
        binding = self._binding
        for name, value in values.items():
            binding.bind_cpu_input(name, value)
        binding.bind_output(LOGITS, 'cpu')
        network.run(binding)
        self._frames += 1
        for layer, has_output in enumerate(is_due):
            self._layer_frames[layer] += 1
            if not has_output:
                break  # between two strides: nothing new from here on
        else:
            self._pool(binding.get_outputs()[-1].numpy())
        mean: np.ndarray = self._sum / min(self._answered_frames, len(self._answers))
        return mean.astype(np.float32)

    def _mask_values(self, masks: Sequence[np.ndarray] | None) -> dict[str, np.ndarray]:
        """Return what this frame's masks take of the inputs, by name."""
        network = self._network
        if network.signature.draws_masks:
            if masks is not None:
                raise ValueError('this network draws its masks itself: none can be given')
            rate = network.config.dropout
            # The weights are scaled for masks of 0 and 1, whose mean is 1 - rate.
            dropped, kept = (rate, 1.0) if self._samples else (0.0, 1.0 - rate)
            return {
                SAMPLES: np.array([max(self._samples, 1)]),
                MASK_RATE: np.array(dropped, np.float32),
                MASK_VALUE: np.array(kept, np.float32),
            }
        if masks is not None:
            given = [_one_each(values, streams=max(self._samples, 1)) for values in masks]
            expected = len(network.mask_shapes)
            if len(given) != expected:
                raise ValueError(f'there must be {expected} masks, not {len(given)}')
        elif self._lasting:
            for index, lasting in enumerate(self._lasting):
                self._binding.bind_ortvalue_input(mask(index), lasting)
            return {}
        else:
            given = network.draw_masks()
        return {mask(index): values for index, values in enumerate(given)}

    def _pool(self, answers: np.ndarray) -> None:
        """Move the window: the newest logits (S, classes) come in, the oldest go out."""
        slot = self._answers[self._answered_frames % len(self._answers)]  # (S, classes)
        # In float64 the sum stays exact to the last digits of float32 for years of frames.
        self._sum += answers.astype(np.float64) - slot
        slot[:] = answers
        self._answered_frames += 1

    def _resize(self, samples: int) -> None:
        """Keep the first samples, or add copies of them."""
        index = np.arange(samples) % self._samples
        self._rings = [
            ring
            if self._network.signature.is_shared(layer)
            else self._on_device(np.ascontiguousarray(ring.numpy()[:, :, index]))
            for layer, ring in enumerate(self._rings)
        ]
        self._answers, self._sum = self._answers[:, index], self._sum[index]
        if self._lasting:
            kept = min(samples, self._samples)
            fresh = self._network.draw_lasting_masks()
            for new, old in zip(fresh, self._lasting, strict=True):
                new[:, :kept] = old.numpy()[:, :kept]
            self._lasting = [self._on_device(values) for values in fresh]
        self._samples = samples
        self._bind_rings()

    def _bind_rings(self) -> None:
        """Let every ring be an input and, in the same memory, the output that it becomes."""
        self._binding = self._network.session.io_binding()
        for layer, ring in enumerate(self._rings):
            self._binding.bind_ortvalue_input(ring_in(layer), ring)
            self._binding.bind_ortvalue_output(ring_out(layer), ring)

    def _on_device(self, array: np.ndarray) -> Any:
        """Hand an array to ONNX Runtime, on the processor without a copy."""
        return self._runtime.OrtValue.ortvalue_from_numpy(array, self._network.device, 0)


def _one_each(values: np.ndarray, *, streams: int) -> np.ndarray:
    """Give every stream its own mask: (C or 1, S or 1, E or 1) -> (C or 1, S, E or 1) float32."""
    values = np.asarray(values, np.float32)
    if values.ndim != 3:
        raise ValueError(f'a mask must broadcast to (C, S, E), not have the shape {values.shape}')
    shape = (values.shape[0], streams, values.shape[2])
    return np.ascontiguousarray(np.broadcast_to(values, shape))


def _read_description(path: Path, session: Any) -> tuple[ModelDescription, StepSignature]:
    metadata = read_metadata(path, session)
    text = metadata.pop(STEP_NETWORK, None)
    if text is None:
        raise ModelFileError(
            f'{path} is no step network but one of whole clips; `fer_train export --streaming` '
            'writes one that streams'
        )
    try:
        description = description_from_metadata(metadata)
        values = read_json(STEP_NETWORK, text)
        if not isinstance(values, dict) or list(values) != ['draws_masks']:
            raise ValueError(f'{STEP_NETWORK} must hold draws_masks, not {text}')
        if not isinstance(values['draws_masks'], bool):
            raise ValueError(f'draws_masks must be true or false, not {values["draws_masks"]!r}')
        signature = StepSignature(
            config=description.network, draws_masks=values['draws_masks']
        )
    except (TypeError, ValueError) as error:
        raise ModelFileError(f'{path}: {error}') from error
    return description, signature
