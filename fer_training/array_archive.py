# SPDX-License-Identifier: Apache-2.0
"""Arrays of an .npz file, whoever wrote it: no pickles, no sizes that are not there."""

import math
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

MAX_BYTES = 4 << 30  # of all arrays of a file
SUFFIX = '.npy'  # of an array's name in the archive
HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file, by name.

    Nothing is unpickled, and no memory is taken for what the file only claims to hold. Raises
    ValueError saying what is wrong with it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if (size := sum(member.file_size for member in members)) > MAX_BYTES:
                raise ValueError(f'it unpacks to {size} bytes, at most {MAX_BYTES} are read')
            return {
                member.filename.removesuffix(SUFFIX): _read_array(archive, member)
                for member in members
            }
    except Exception as error:  # damaged archives raise errors of almost every kind
        raise ValueError(' '.join(str(error).split()) or type(error).__name__) from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        version = npy.read_magic(file)
        if version not in HEADER_READERS:
            raise ValueError(f'{member.filename} is of version {version}, which is not read')
        shape, _, dtype = HEADER_READERS[version](file)
    if dtype.hasobject:
        raise ValueError(f'{member.filename} holds Python objects, and nothing is unpickled')
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * max(dtype.itemsize, 1) > member.file_size:
        raise ValueError(f'{member.filename} claims more than it holds: {shape} of {dtype}')
    with archive.open(member) as file:
        array = np.asarray(npy.read_array(file, allow_pickle=False))
    if dtype.kind == 'U':
        array.tolist()  # numpy keeps numbers that are no characters, and fails only here
    return array
