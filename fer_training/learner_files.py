# SPDX-License-Identifier: Apache-2.0
"""The files of a learner's network, as the reference has them: weights in .pt beside .json.

The .json holds model_paths, framework, format, has_data, inference_params, optimized and
optimizer_info. What the network is lies in inference_params, which the reference leaves empty.
"""

import json
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_training.clips import Clips

FRAMEWORK = 'pytorch'
WEIGHTS, OPTIMIZED = 'pt', 'onnx'  # formats, and the ends of the files' names


class LearnerFileError(ValueError):
    """Say which file of a learner cannot be loaded, and what in it is wrong."""


@dataclass(frozen=True, kw_only=True)
class SavedNetwork:
    """Say what network a file holds: enough to build it again."""

    dataset_name: str
    classes: tuple[str, ...]  # in the order of the outputs
    num_point: int  # edges
    block_size: int
    topology: tuple[int, ...]  # blocks of each layer
    frames: int  # of the clips that it was fitted to


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Hold what a learner needs of a .json file."""

    network: SavedNetwork | None  # None: the file does not say
    optimized: bool


def write_metadata(path: Path, network: SavedNetwork, *, files: list[str]) -> None:
    """Write the .json file; `files` are names beside it, the one to load first."""
    optimized = files[0].endswith(f'.{OPTIMIZED}')
    content = {
        'model_paths': files,
        'framework': FRAMEWORK,
        'format': OPTIMIZED if optimized else WEIGHTS,
        'has_data': False,
        'inference_params': asdict(network),
        'optimized': optimized,
        'optimizer_info': {},
    }
    _write(path, (json.dumps(content, indent=1) + '\n').encode())


def read_metadata(path: Path) -> Metadata:
    """Read a .json file. Raises LearnerFileError naming the file and what is wrong with it."""
    if not path.is_file():
        raise LearnerFileError(f'{path} does not exist')
    try:
        content = json.loads(path.read_text('utf-8'))
        if not isinstance(content, dict) or type(content.get('optimized')) is not bool:
            raise ValueError("it must hold an object with 'optimized', true or false")
        if content.get('framework') != FRAMEWORK:
            raise ValueError(f'its framework must be {FRAMEWORK}: {content.get("framework")!r}')
        values = content.get('inference_params')
        network = _read_network(values) if values else None
    except ValueError as error:
        raise LearnerFileError(f'{path} describes no network: {error}') from error
    return Metadata(network=network, optimized=content['optimized'])


def write_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the weights as a dictionary of tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.part')
    torch.save({name: tensor.detach().cpu() for name, tensor in tensors.items()}, temporary)
    temporary.replace(path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a dictionary of tensors; nothing else in the file is admitted.

    Raises LearnerFileError naming the file and what is wrong with it.
    """
    if not path.is_file():
        raise LearnerFileError(f'{path} does not exist')
    try:
        tensors = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # damaged files raise errors of almost every kind
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise LearnerFileError(f'{path} holds no weights: {reason}') from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise LearnerFileError(f'{path} holds no weights: it must be a dictionary of tensors')
    return dict(tensors)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file whole or not at all."""
    _write(target, source.read_bytes())


def claim_for_data(folder: Path, clips: Clips) -> None:
    """Mark a folder as that of a growth on these clips.

    Raises ValueError if it is of a growth on others.
    """
    digest = sha256(repr((clips.features.shape, clips.classes)).encode())
    digest.update(np.ascontiguousarray(clips.labels).tobytes())
    for index in (0, -1):
        digest.update(np.ascontiguousarray(clips.features[index]).tobytes())
    note = folder / 'data.sha256'
    if note.is_file() and note.read_text('ascii') != digest.hexdigest():
        raise ValueError(
            f'{folder} holds an interrupted growth on other data: remove it, or choose another '
            'experiment_name'
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(digest.hexdigest(), 'ascii')


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.part')
    temporary.write_bytes(content)
    temporary.replace(path)


def _read_network(values: Any) -> SavedNetwork:
    known = {item.name: item.type for item in fields(SavedNetwork)}
    if not isinstance(values, dict) or values.keys() != known.keys():
        raise ValueError(f'inference_params must hold {", ".join(known)}')
    for name, kind in known.items():
        value = values[name]
        items = value if isinstance(value, list) else [value]
        wanted = str if kind in (str, tuple[str, ...]) else int
        if isinstance(value, list) != (kind not in (str, int)) or not all(
            type(item) is wanted for item in items
        ):
            raise ValueError(f'{name} in inference_params is {str(value)[:60]!r}')
    lists = {name: tuple(values[name]) for name in ('classes', 'topology')}
    return SavedNetwork(**{**values, **lists})
