# SPDX-License-Identifier: Apache-2.0
"""The arguments of the learner's constructor: the reference's defaults, and what is refused."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_training.fitting import SCHEDULES

OPTIMIZER_NAMES = ('sgd', 'adam')


class DefaultNumber(int):
    """A default that the data set or a loaded file may replace; a number that is given stays."""


class DefaultName(str):
    """A default that a loaded file may replace; a name that is given stays."""


DATASET_NAME, TEMP_PATH = DefaultName('CASIA'), 'temp'
NUM_CLASS, NUM_POINT, BLOCK_SIZE = DefaultNumber(6), DefaultNumber(309), DefaultNumber(5)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for values out of range, naming the argument and the value."""
    for lowest, names in (
        (1, ('batch_size', 'epochs', 'val_batch_size', 'num_point', 'block_size', 'num_blocks',
             'num_layers')),
        (0, ('checkpoint_after_iter', 'checkpoint_load_iter', 'num_workers', 'start_epoch')),
        (2, ('num_class',)),
    ):
        for name in names:
            at_least(name, arguments[name], lowest)
    for lowest, name in ((1, 'drop_after_epoch'), (0, 'device_indices')):
        for value in arguments[name]:
            at_least(name, value, lowest)
    if not arguments['device_indices']:
        raise ValueError('device_indices must name a device, it is empty')
    persons, channels = arguments['num_person'], arguments['in_channels']
    if persons != 1 or channels != 2:
        raise ValueError(
            'the network reads x and y of one face: num_person must be 1 and in_channels 2, '
            f'not {persons} and {channels}'
        )
    for name, allowed in (
        ('optimizer_name', OPTIMIZER_NAMES), ('lr_schedule', ('', ' ', *SCHEDULES))
    ):
        if arguments[name] not in allowed:
            raise ValueError(
                f'{name} must be one of {", ".join(map(repr, allowed))}, '
                f'not {arguments[name]!r}'
            )
    experiment = arguments['experiment_name']
    if not experiment or Path(experiment).name != experiment:
        raise ValueError(f'experiment_name must be the name of a file, not {experiment!r}')


def at_least(name: str, value: object, lowest: int) -> int:
    """Return a whole number; raise ValueError if it is none, or too low."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < lowest:
        raise ValueError(f'{name} must be a whole number of at least {lowest}, not {value!r}')
    return int(value)


def one_block_size(block_size: int, blocksize: int | None) -> int:
    """Choose between the name and its older spelling.

    Raises ValueError if both are given and differ.
    """
    if blocksize is None:
        return block_size
    if not isinstance(block_size, DefaultNumber) and block_size != blocksize:
        raise ValueError(
            f'block_size is {block_size}, blocksize {blocksize}: they mean the same, give one'
        )
    return blocksize


def available_device(device: str, indices: Sequence[int]) -> str:
    """Return the device, or 'cpu' with a warning if it is a 'cuda' that is not there.

    Raises ValueError for another name, or an index that no device has.
    """
    if device not in ('cpu', 'cuda'):
        raise ValueError(f"device must be 'cpu' or 'cuda', not {device!r}")
    if device == 'cpu':
        return device
    if not torch.cuda.is_available():
        warnings.warn(
            "device is 'cuda', but PyTorch finds no CUDA here: the CPU is used", stacklevel=3
        )
        return 'cpu'
    if indices[0] >= torch.cuda.device_count():
        raise ValueError(
            f'device_indices must be below {torch.cuda.device_count()}, the number of devices, '
            f'not {indices[0]}'
        )
    return device


def class_names(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Name classes as the data set does, or by their numbers if they are others."""
    return names if len(names) == count else tuple(f'class {index}' for index in range(count))
