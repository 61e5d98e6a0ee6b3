# SPDX-License-Identifier: Apache-2.0
"""Monte Carlo dropout on clips (PST-BLN, III-D): the reference that streaming must equal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from fer_perception.models.dropout import SeededDropout, seeded_generator

# Frames times samples in one pass; larger batches fall out of the processor's cache.
FRAMES_PER_PASS = 600


class MonteCarloNetwork(Protocol):
    """A torch module whose forward pass is `random_part` of `deterministic_part`.

    Every dropout is a SeededDropout and lies in the random part.
    """

    def deterministic_part(self, features: Tensor, /) -> Tensor:
        """Compute everything before the first dropout: (N, 2, T, V) -> (N, C, T, ...)."""

    def random_part(self, features: Tensor, /) -> Tensor:
        """Compute everything from the first dropout on: (N, C, T, ...) -> logits (N, classes)."""

    def modules(self) -> Iterator[nn.Module]:
        """Go through all modules, as torch does."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Go through all parameters, as torch does."""

    def eval(self) -> object:
        """Put all modules into evaluation mode, as torch does."""


@contextmanager
def only_dropout_active(
    model: MonteCarloNetwork, generator: torch.Generator | None = None
) -> Iterator[None]:
    """Put the dropout modules alone in training mode, then restore the mode of every module.

    Batch norm and all else run in evaluation mode meanwhile. The masks come from `generator`.
    Raises ValueError if the model has no dropout that could drop anything.
    """
    dropouts = [
        module for module in model.modules() if isinstance(module, SeededDropout) and module.p > 0
    ]
    if not dropouts:
        raise ValueError('Monte Carlo dropout needs a model with dropout, but it has none')
    modes = [(module, module.training) for module in model.modules()]
    generators = [dropout.generator for dropout in dropouts]
    try:
        model.eval()
        for dropout in dropouts:
            dropout.training = True
            dropout.generator = generator
        yield
    finally:
        for module, training in modes:
            module.training = training
        for dropout, previous in zip(dropouts, generators, strict=True):
            dropout.generator = previous


class MonteCarloDropout:
    """Draws Monte Carlo dropout samples of a network's class probabilities for clips."""

    def __init__(
        self,
        model: MonteCarloNetwork,
        *,
        samples: int = 100,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> None:
        """Wrap a model; with a seed the samples repeat from run to run.

        Raises ValueError for fewer than one sample or a temperature that is not positive.
        """
        if samples < 1:
            raise ValueError(f'samples must be at least 1, not {samples}')
        if not temperature > 0:
            raise ValueError(f'temperature must be positive, not {temperature}')
        self._model = model
        self._samples = samples
        self._temperature = temperature
        self._generator = seeded_generator(seed, device=next(model.parameters()).device)

    @torch.inference_mode()
    def __call__(self, features: Tensor) -> Tensor:
        """Sample the class probabilities of clips.

        features: (N, 2, T, V), what the network reads: edge vectors or landmarks. Returns
        (S, N, classes), each row summing to 1.
        All samples go through the network as one batch, in chunks that fit the cache; what lies
        before the first dropout is computed once.
        """
        with only_dropout_active(self._model, self._generator):
            shared = self._model.deterministic_part(features)  # (N, C, T, ...)
            clips, frames = shared.shape[0], shared.shape[2]
            chunk = max(1, FRAMES_PER_PASS // max(1, frames * clips))
            logits = []
            for start in range(0, self._samples, chunk):
                size = min(chunk, self._samples - start)
                batch = shared.expand(size, *shared.shape).flatten(0, 1)  # (S * N, C, T, ...)
                out = self._model.random_part(batch)
                logits.append(out.reshape(size, clips, -1))  # (S, N, classes)
        return (torch.cat(logits).float() / self._temperature).softmax(-1)
