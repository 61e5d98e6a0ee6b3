# SPDX-License-Identifier: Apache-2.0
"""Monte Carlo dropout on clips by ONNX Runtime: the masks are inputs of the exported network."""

import importlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from fer_perception.inference.monte_carlo import FRAMES_PER_PASS
from fer_perception.models.dropout import lasts
from fer_perception.models.model_file import ModelDescription, description_from_metadata
from fer_perception.models.pst_bln import PstBlnConfig
from fer_perception.models.tensor_file import ModelFileError, check_model_path

# The names of the exported network's inputs and output; mask l is `mask_<l>`.
INPUT = 'edge_vectors'
OUTPUT = 'logits'
CPU = 'CPUExecutionProvider'
STEP_NETWORK = 'step_network'  # a key that the metadata of step networks have, and no others


def mask_names(layers: int) -> list[str]:
    """Name the inputs for the masks of every layer's dropout."""
    return [f'mask_{layer}' for layer in range(layers)]


def free_mask_axes(config: PstBlnConfig) -> tuple[int, ...]:
    """Return the axes of a mask whose sizes differ from run to run: samples and frames."""
    return (0,) if lasts(config.dropout_masks) else (0, 2)


class OnnxMonteCarlo:
    """Draws Monte Carlo dropout samples of an ONNX model's class probabilities for clips."""

    def __init__(
        self,
        path: Path,
        *,
        samples: int = 100,
        seed: int | None = None,
        threads: int = 1,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Load a file that `fer_train export` wrote; with a seed the samples repeat.

        providers: execution providers of ONNX Runtime, the best first. One that this machine
        lacks is left out with a warning; the CPU is always the last. `.providers` says which are
        used. Raises ModelFileError naming the file and what is wrong with it, ValueError for
        fewer than one sample or thread, ImportError without onnxruntime.
        """
        for name, value in (('samples', samples), ('threads', threads)):
            if value < 1:
                raise ValueError(f'{name} must be at least 1, not {value}')
        self._path = path
        self._samples = samples
        self._generator = np.random.default_rng(seed)
        self._session = open_session(path, threads, providers)
        self.description = self._read_description()
        self._mask_names = mask_names(len(self.description.network.channels))
        self._check_signature()
        self._check_answers()

    @property
    def providers(self) -> list[str]:
        """The execution providers in use, the preferred one first."""
        return list(self._session.get_providers())

    def __call__(self, edge_vectors: np.ndarray) -> np.ndarray:
        """Sample the class probabilities of clips.

        edge_vectors: (N, 2, T, E). Returns (S, N, classes) float32, each row summing to 1.
        Clip by clip, in chunks of samples that fit the cache; where dropout follows the first
        layer, that layer is computed once a chunk. Raises ValueError for another shape, or if
        the model has no dropout.
        """
        clips = self._checked(edge_vectors)
        if self.description.network.dropout == 0:
            raise ValueError(f'{self._path}: Monte Carlo dropout needs a model with dropout')
        chunk = max(1, FRAMES_PER_PASS // clips.shape[2])
        logits = np.empty((self._samples, len(clips), self.description.network.classes), 'f4')
        for index in range(len(clips)):
            for start in range(0, self._samples, chunk):
                masks = self.draw_masks(min(chunk, self._samples - start), clips.shape[2])
                logits[start : start + chunk, index] = self._run(clips[index : index + 1], masks)
        return self._probabilities(logits)

    def single_pass(self, edge_vectors: np.ndarray) -> np.ndarray:
        """Compute the class probabilities of clips without dropout.

        edge_vectors: (N, 2, T, E). Returns (N, classes) float32, each row summing to 1. Raises
        ValueError for another shape.
        """
        clips = self._checked(edge_vectors)
        shapes = self.description.network.mask_shapes(clips=1, frames=clips.shape[2])
        ones = [np.ones(shape, 'f4') for shape in shapes]
        chunk = max(1, FRAMES_PER_PASS // clips.shape[2])
        starts = range(0, len(clips), chunk)
        logits = [self._run(clips[start : start + chunk], ones) for start in starts]
        return self._probabilities(np.concatenate(logits))

    def logits(self, edge_vectors: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
        """Compute the logits under given masks, before the temperature.

        edge_vectors: (N, 2, T, E); masks: one a layer, 0 or 1 / (1 - dropout), of the shapes
        `PstBlnConfig.mask_shapes`. One clip serves many masks, and one mask many clips.
        Returns (N, classes) float32. Raises ValueError for other shapes.
        """
        clips = self._checked(edge_vectors)
        rows = {len(mask) for mask in masks} | {len(clips)}
        shapes = self.description.network.mask_shapes(
            clips=len(masks[0]) if masks else 0, frames=clips.shape[2]
        )
        if [mask.shape for mask in masks] != shapes or len(rows - {1}) > 1:
            raise ValueError(
                f'masks for {len(clips)} clips of {clips.shape[2]} frames must have the shapes '
                f'{shapes}, not {[mask.shape for mask in masks]}'
            )
        return self._run(clips, [np.ascontiguousarray(mask, 'f4') for mask in masks])

    def draw_masks(self, samples: int, frames: int) -> list[np.ndarray]:
        """Draw one mask a layer, float32, for a clip of T frames.

        Returns shapes (S, C, T', E), 1 along the axis that the kind of masks shares.
        """
        rate = self.description.network.dropout
        shapes = self.description.network.mask_shapes(clips=samples, frames=frames)
        kept = np.float32(1.0 / (1.0 - rate))
        return [(self._generator.random(shape, 'f4') >= rate) * kept for shape in shapes]

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        probabilities: np.ndarray = softmax(logits / self.description.temperature, axis=-1)
        return probabilities

    def _run(self, clips: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
        values = {INPUT: clips, **dict(zip(self._mask_names, masks, strict=True))}
        try:
            logits: np.ndarray = self._session.run([OUTPUT], values)[0]
        except Exception as error:  # the exceptions of ONNX Runtime share no base of their own
            raise ModelFileError(f'{self._path} cannot be run: {first_line(error)}') from error
        return logits

    def _checked(self, edge_vectors: np.ndarray) -> np.ndarray:
        config = self.description.network
        shape = edge_vectors.shape
        if len(shape) != 4 or (shape[1], shape[3]) != (config.in_channels, config.edges):
            raise ValueError(
                f'the input must have the shape (N, {config.in_channels}, T, {config.edges}), '
                f'not {shape}'
            )
        if not shape[0] or not shape[2]:
            raise ValueError(f'the input must hold clips and frames, its shape is {shape}')
        return np.ascontiguousarray(edge_vectors, 'f4')

    def _read_description(self) -> ModelDescription:
        metadata = read_metadata(self._path, self._session)
        if STEP_NETWORK in metadata:
            raise ModelFileError(
                f'{self._path} is a step network, which streams frame by frame; for whole clips '
                'export without --streaming'
            )
        try:
            return description_from_metadata(metadata)
        except (TypeError, ValueError) as error:
            raise ModelFileError(f'{self._path}: {error}') from error

    def _check_signature(self) -> None:
        """Refuse a network whose inputs or output are not what its description says."""
        config = self.description.network
        shapes = config.mask_shapes(clips=1, frames=1)
        free = free_mask_axes(config)
        expected: dict[str, tuple[int, ...]] = {
            INPUT: (config.in_channels, config.edges), OUTPUT: (config.classes,)
        }
        for name, shape in zip(self._mask_names, shapes, strict=True):
            expected[name] = tuple(size for axis, size in enumerate(shape) if axis not in free)
        nodes = read_nodes(self._path, self._session.get_inputs())
        outputs = read_nodes(self._path, self._session.get_outputs())
        if set(nodes) != set(expected) - {OUTPUT} or set(outputs) != {OUTPUT}:
            raise ModelFileError(
                f'{self._path} has the inputs {", ".join(nodes)} and the outputs '
                f'{", ".join(outputs)}; they must be {", ".join([INPUT, *self._mask_names])} '
                f'and {OUTPUT}'
            )
        for name, node in (nodes | outputs).items():
            fixed = tuple(size for size in node.shape if isinstance(size, int))
            if node.type != 'tensor(float)' or fixed != expected[name]:
                raise ModelFileError(
                    f'{self._path}: {name} is {node.type} {node.shape}, its fixed sizes must be '
                    f'{expected[name]} and its type float'
                )

    def _check_answers(self) -> None:
        """Refuse a network that does not run, or whose weights are not finite."""
        config = self.description.network
        clips = np.zeros((2, config.in_channels, config.total_stride + 1, config.edges))
        probabilities = self.single_pass(clips)
        if probabilities.shape != (2, config.classes) or not np.isfinite(probabilities).all():
            raise ModelFileError(
                f'{self._path} answers no finite logits of {config.classes} classes'
            )


def import_runtime() -> Any:
    """Import onnxruntime, or raise an ImportError that names the extra."""
    try:
        return importlib.import_module('onnxruntime')
    except ImportError as error:
        raise ImportError(
            'ONNX models need onnxruntime: install the extra fer_perception[onnx]'
        ) from error


def open_session(path: Path, threads: int, providers: Sequence[str] | None) -> Any:
    """Open an ONNX Runtime session that keeps still between calls and logs nothing.

    Warns of providers that this machine lacks. Raises ModelFileError for what is no ONNX file,
    ImportError without onnxruntime.
    """
    runtime = import_runtime()
    check_model_path(path)
    available = runtime.get_available_providers()
    wanted = [name for name in providers or () if name != CPU]
    for name in wanted:
        if name not in available:
            warnings.warn(
                f'this onnxruntime has no {name}, only {", ".join(available)}', stacklevel=3
            )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal only: errors are raised, and told in one line
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    try:
        return runtime.InferenceSession(
            path.read_bytes(),  # bytes, so that it cannot name other files to read
            options,
            providers=[*(name for name in wanted if name in available), CPU],
        )
    except Exception as error:  # the exceptions of ONNX Runtime share no base of their own
        raise ModelFileError(
            f'{path} is no ONNX file that can be run: {first_line(error)}'
        ) from error


def read_metadata(path: Path, session: Any) -> dict[str, str]:
    """Return the metadata of a session's file. Raises ModelFileError if there are none."""
    try:
        metadata = dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise ModelFileError(f'{path}: {error}') from error
    if not metadata:
        raise ModelFileError(f'{path}: it has no description; `fer_train export` writes one')
    return metadata


@dataclass(frozen=True, kw_only=True)
class Node:
    """Say what an input or output of a network is."""

    type: str
    shape: list[int | str]  # a name where the size is free


def read_nodes(path: Path, nodes: Iterable[Any]) -> dict[str, Node]:
    """Read the inputs or outputs of a session, by name. Raises ModelFileError if it cannot."""
    try:
        return {node.name: Node(type=node.type, shape=list(node.shape)) for node in nodes}
    except UnicodeDecodeError as error:
        raise ModelFileError(f'{path}: {error}') from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its kind."""
    return next(iter(str(error).splitlines()), type(error).__name__)
