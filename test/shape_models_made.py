# SPDX-License-Identifier: Apache-2.0
"""Shape predictors for tests: random trees, written as dlib writes them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class MadeModel:
    """All numbers of a model, in the order of the file."""

    version: int = 1
    mean: list[float]  # (points * 2)
    # for each forest and tree: splits (first pixel, second pixel, threshold), leaves
    forests: list[list[tuple[list[tuple[int, int, float]], list[list[float]]]]]
    anchors: list[list[int]]  # for each forest: the point of each pixel
    deltas: list[list[tuple[float, float]]]  # for each forest: the offset of each pixel

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        parts = [_whole(self.version), _column(self.mean), _whole(len(self.forests))]
        for forest in self.forests:
            parts.append(_whole(len(forest)))
            for splits, leaves in forest:
                parts.append(_whole(len(splits)))
                for first, second, threshold in splits:
                    parts += [_whole(first), _whole(second), _real(threshold)]
                parts.append(_whole(len(leaves)))
                parts += [_column(leaf) for leaf in leaves]
        parts.append(_whole(len(self.anchors)))
        for anchors in self.anchors:
            parts.append(_whole(len(anchors)))
            parts += [_whole(anchor) for anchor in anchors]
        parts.append(_whole(len(self.deltas)))
        for deltas in self.deltas:
            parts.append(_whole(len(deltas)))
            parts += [_real(value) for delta in deltas for value in delta]
        return b''.join(parts)

    def with_tree(
        self, splits: list[tuple[int, int, float]], leaves: list[list[float]]
    ) -> MadeModel:
        """Return the model with another first tree."""
        first, *others = self.forests
        return replace(self, forests=[[(splits, leaves), *first[1:]], *others])


def made_model(
    *,
    points: int = 5,
    forests: int = 2,
    trees: int = 3,
    depth: int = 2,
    pixels: int = 20,
    seed: int = 0,
) -> MadeModel:
    """Make a model that moves its points by a few hundredths of the box's side."""
    random = np.random.default_rng(seed)

    def floats(*shape: int, spread: float) -> list[list[float]]:
        values: list[list[float]] = random.normal(0, spread, shape).astype(np.float32).tolist()
        return values

    def tree() -> tuple[list[tuple[int, int, float]], list[list[float]]]:
        splits = [
            (*random.integers(0, pixels, 2).tolist(), float(np.float32(random.normal(0, 30))))
            for _ in range(2**depth - 1)
        ]
        return splits, floats(2**depth, 2 * points, spread=0.02)

    return MadeModel(
        mean=random.uniform(0, 1, 2 * points).astype(np.float32).tolist(),
        forests=[[tree() for _ in range(trees)] for _ in range(forests)],
        anchors=[random.integers(0, points, pixels).tolist() for _ in range(forests)],
        deltas=[
            [(x, y) for x, y in floats(pixels, 2, spread=0.2)] for _ in range(forests)
        ],
    )


def _whole(value: int) -> bytes:
    size = max((abs(value).bit_length() + 7) // 8, 1)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, 'little')


def _real(value: float) -> bytes:
    if not math.isfinite(value):
        return _whole(0) + _whole(32002 if math.isnan(value) else 32000 + (value < 0))
    mantissa, power = math.frexp(value)
    return _whole(int(mantissa * 2**24)) + _whole(power - 24)


def _column(values: list[float]) -> bytes:
    return _whole(-len(values)) + _whole(-1) + b''.join(map(_real, values))
