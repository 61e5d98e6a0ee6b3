# SPDX-License-Identifier: Apache-2.0
"""Files of named tensors with a description: safetensors with a digest. Nothing is unpickled."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

DIGEST = 'digest'  # field of the metadata, besides those of the description
MAX_FILE_BYTES = 1 << 30


class ModelFileError(ValueError):
    """Say which file cannot be loaded, and what in it is wrong."""


def write_tensors(path: Path, network: nn.Module, metadata: dict[str, str]) -> None:
    """Write a network's weights with metadata that describe it: the same content, the same bytes.

    Raises ValueError for weights that are not finite.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f'tensor {name} is not finite; the network is not fit to be saved')
    metadata = {**metadata, DIGEST: digest(metadata, tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_with_metadata_in_order(save(tensors, metadata=metadata)))


def _with_metadata_in_order(file: bytes) -> bytes:
    """Sort the metadata of a safetensors file, which come in another order every time."""
    end = 8 + int.from_bytes(file[:8], 'little')  # a length, a header in JSON, the tensors
    header = json.loads(file[8:end])
    header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, 'little') + text + file[end:]


@dataclass(frozen=True)
class TensorFile:
    """Hold what a file says, not checked yet but for its form."""

    metadata: dict[str, str]  # without the digest
    tensors: dict[str, torch.Tensor]
    told_digest: str | None

    def check_digest(self) -> None:
        """Raise ValueError if the content is not what was saved."""
        if self.told_digest != digest(self.metadata, self.tensors):
            raise ValueError('its content is not what was saved: the digest does not agree')


def read_tensors(path: Path) -> TensorFile:
    """Read a file of tensors. Raises ModelFileError for one that is none."""
    with _opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    told = metadata.pop(DIGEST, None)
    return TensorFile(metadata, tensors, told)


def read_metadata(path: Path) -> dict[str, str]:
    """Read what a file says of itself, not its tensors. Raises ModelFileError as read_tensors."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    check_model_path(path)
    try:
        with safe_open(path, framework='pt') as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f'{path} is no readable safetensors file: {error}') from error


def digest(metadata: dict[str, str], tensors: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a file's whole content, in hexadecimal digits: it finds damage.

    metadata: without the digest itself. It proves nothing of who made the file.
    """
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # (values,) -> (bytes,)
    return total.hexdigest()


def check_model_path(path: Path) -> None:
    """Raise ModelFileError if there is no file, or one that is too large for a model."""
    if not path.is_file():
        raise ModelFileError(f'model file {path} does not exist')
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise ModelFileError(
            f'{path} is no model file: it has {size} bytes, at most {MAX_FILE_BYTES} are read'
        )


def check_tensors(network: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Raise ValueError naming the tensors if they are not exactly the network's, and finite."""
    expected = network.state_dict()
    if missing := expected.keys() - tensors.keys():
        raise ValueError(f'tensors are missing: {", ".join(sorted(missing))}')
    if extra := tensors.keys() - expected.keys():
        raise ValueError(f'tensors are unknown: {", ".join(sorted(extra))}')
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise ValueError(
                f'tensor {name} is {tensor.dtype} {tuple(tensor.shape)}, '
                f'it must be {expected[name].dtype} {tuple(expected[name].shape)}'
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f'tensor {name} is not finite')
