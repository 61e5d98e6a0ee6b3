# SPDX-License-Identifier: Apache-2.0
"""Vertices of Wavefront OBJ meshes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def read_vertices(path: Path, indices: Sequence[int]) -> np.ndarray:
    """Read some vertices of a mesh, by their `v` lines.

    indices: M vertices counted from 0, in any order. The file is read up to the last of them
    only. Returns (M, 3) float64. Raises ValueError naming the file and the line for coordinates
    that are no finite numbers, or the file and the vertex it lacks; OSError for an unreadable
    file.
    """
    wanted = set(indices)
    if min(wanted) < 0:
        raise ValueError(f'vertices are counted from 0, but vertex {min(wanted)} is wanted')
    last = max(wanted)
    found: dict[int, tuple[float, ...]] = {}
    count = 0
    with path.open(encoding='utf-8', errors='replace') as lines:
        for number, line in enumerate(lines, start=1):
            if not line.startswith(('v ', 'v\t')):
                continue
            if count in wanted:
                found[count] = _coordinates(line, where=f'{path}, line {number}')
            if count == last:
                return np.array([found[index] for index in indices])
            count += 1
    raise ValueError(f'{path} has {count} vertices, but vertex {last} (from 0) is wanted')


def _coordinates(line: str, *, where: str) -> tuple[float, ...]:
    try:
        coordinates = tuple(float(word) for word in line.split()[1:4])
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error
    if len(coordinates) != 3 or not np.isfinite(coordinates).all():
        raise ValueError(f'{where}: a vertex needs three finite numbers, not {line.strip()!r}')
    return coordinates
