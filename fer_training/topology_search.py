# SPDX-License-Identifier: Apache-2.0
"""The rule by which PST-BLN grows (III-C), free of any network."""

from dataclasses import dataclass

LAYER, BLOCK = 'layer', 'block'  # what a step adds


@dataclass(frozen=True, kw_only=True)
class GrowthLimits:
    """Set when growth stops. Defaults are the paper's (IV-B)."""

    block_size: int = 5  # channels that a step adds
    block_threshold: float = 1e-4  # lowest relative drop of the loss that keeps a block
    layer_threshold: float = 1e-4  # lowest relative drop of the loss that keeps a layer
    max_blocks: int = 100  # of each layer
    max_layers: int = 10

    def __post_init__(self) -> None:
        """Refuse limits that allow no network."""
        for name in ('block_size', 'max_blocks', 'max_layers'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, not {getattr(self, name)}')
        for name in ('block_threshold', 'layer_threshold'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} must be positive, not {getattr(self, name)}')


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Say what became of a candidate."""

    kind: str  # 'layer' if the candidate began a layer, 'block' if it widened the last one
    channels: tuple[int, ...]  # of the candidate
    loss: float
    improvement: float | None  # relative drop of the loss by this block; None for a new layer
    kept: bool
    layer_improvement: float | None = None  # relative drop by the layer, when it is complete
    layer_kept: bool | None = None


class TopologySearch:
    """Proposes topologies one after the other, and judges each by its loss.

    Width first: the last layer gets blocks until one brings less than `block_threshold`; that
    block is removed and the layer is complete. Then depth: if the complete layer brought less
    than `layer_threshold`, it is removed and growth ends, else a new layer begins. The first
    block of a layer stands until the layer is complete; the first layer is always kept.
    """

    def __init__(self, limits: GrowthLimits, *, initial: tuple[int, ...] = ()) -> None:
        """Begin with one block, or with the channels of an `initial` topology."""
        self._limits = limits
        self._accepted: tuple[int, ...] = ()
        self._loss = float('inf')  # of the accepted topology
        self._below: tuple[int, ...] = ()  # the topology without the layer that is growing
        self._loss_below = float('inf')
        self._candidate: tuple[int, ...] | None = initial or (limits.block_size,)

    @property
    def candidate(self) -> tuple[int, ...] | None:
        """The channels to try next; None when growth has ended."""
        return self._candidate

    @property
    def accepted(self) -> tuple[int, ...]:
        """The channels that growth has arrived at."""
        return self._accepted

    @property
    def below(self) -> tuple[int, ...]:
        """The channels without the layer that is growing: what its removal goes back to."""
        return self._below

    def judge(self, loss: float) -> Verdict:
        """Take the loss of the candidate, keep or remove it, and propose the next one.

        A loss that is not a number keeps nothing. Raises RuntimeError when growth has ended.
        """
        candidate = self._candidate
        if candidate is None:
            raise RuntimeError('growth has ended, there is no candidate to judge')
        starts_layer = len(candidate) > len(self._accepted)
        improvement = None if starts_layer else _relative_drop(self._loss, loss)
        kept = improvement is None or improvement >= self._limits.block_threshold
        if kept:
            self._accepted, self._loss = candidate, loss
        layer_improvement = layer_kept = None
        blocks = self._accepted[-1] // self._limits.block_size
        if kept and blocks < self._limits.max_blocks:
            self._candidate = (*self._accepted[:-1], self._accepted[-1] + self._limits.block_size)
        else:
            layer_improvement, layer_kept = self._complete_layer()
        return Verdict(
            kind=LAYER if starts_layer else BLOCK,
            channels=candidate,
            loss=loss,
            improvement=improvement,
            kept=kept,
            layer_improvement=layer_improvement,
            layer_kept=layer_kept,
        )

    def _complete_layer(self) -> tuple[float | None, bool]:
        first = not self._below
        improvement = None if first else _relative_drop(self._loss_below, self._loss)
        kept = improvement is None or improvement >= self._limits.layer_threshold
        if not kept:
            self._accepted, self._loss = self._below, self._loss_below
            self._candidate = None
        else:
            self._below, self._loss_below = self._accepted, self._loss
            self._candidate = (*self._accepted, self._limits.block_size)
            if len(self._accepted) >= self._limits.max_layers:
                self._candidate = None
        return improvement, kept


def _relative_drop(before: float, after: float) -> float:
    """Compute (before - after) / before: alpha of III-C; not a number if either is not one."""
    if before == 0.0:
        return 0.0
    return (before - after) / before
