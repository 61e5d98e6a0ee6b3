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

# Of adaptive sampling.
LEAD_ERRORS = 3.0  # standard errors that make a lead clear
FEWEST_SAMPLES = 10
SAMPLES_PER_CHECK = 10  # most samples from one check to the next


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


def lead_is_clear(samples: Tensor, lead_errors: float) -> Tensor:
    """Say for which clips the most probable class leads the runner-up clearly.

    samples: (S, N, classes) probabilities; the two classes are those of the highest means. Their
    lead is the mean of the differences between them within each sample. It is clear if it exceeds
    `lead_errors` of its standard errors: the differences' standard deviation (divisor S - 1) over
    the root of S. Returns (N,) bool: false for a single sample or equal means, true where there
    is only one class.
    """
    count, clips, classes = samples.shape
    if count < 2 or classes < 2:
        return torch.full((clips,), classes < 2, device=samples.device)
    samples = samples.double()
    best_two = samples.mean(0).topk(2).indices  # (N, 2)
    first, second = samples.gather(-1, best_two.expand(count, -1, -1)).unbind(-1)  # (S, N) each
    differences = first - second
    return differences.mean(0) > lead_errors * differences.std(0) / count**0.5


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
            chunk = _samples_per_pass(shared)
            starts = range(0, self._samples, chunk)
            drawn = [self._draw(shared, min(chunk, self._samples - start)) for start in starts]
        return torch.cat(drawn)

    @torch.inference_mode()
    def adaptive(
        self,
        features: Tensor,
        *,
        lead_errors: float = LEAD_ERRORS,
        fewest_samples: int = FEWEST_SAMPLES,
    ) -> list[Tensor]:
        """Sample the class probabilities of clips, each until its answer is clear.

        features: (N, 2, T, V), as for a call. Returns one (S_n, classes) for each clip, each row
        summing to 1. A clip ends by `lead_is_clear` of its own samples, checked at least every
        ten samples from `fewest_samples` on, or with as many samples as a call draws; the others
        go on without it. While all clips go on, and have 60 frames or more together, the samples
        are those of a call with the same seed (with fewer frames a call takes larger passes).
        Raises ValueError for lead_errors that are not positive, or fewer than one sample.
        """
        if not lead_errors > 0:
            raise ValueError(f'lead_errors must be positive, not {lead_errors}')
        if fewest_samples < 1:
            raise ValueError(f'fewest_samples must be at least 1, not {fewest_samples}')
        ended: dict[int, Tensor] = {}
        with only_dropout_active(self._model, self._generator):
            shared = self._model.deterministic_part(features)  # (N, C, T, ...)
            clips = torch.arange(len(shared), device=shared.device)  # (n,) that go on
            drawn = self._draw(shared, self._next_pass(shared, 0))  # (S, n, classes)
            while len(clips):
                if len(drawn) == self._samples:
                    ends = torch.ones_like(clips, dtype=torch.bool)
                elif len(drawn) < fewest_samples:
                    ends = torch.zeros_like(clips, dtype=torch.bool)
                else:
                    ends = lead_is_clear(drawn, lead_errors)
                if ends.any():
                    ended |= zip(clips[ends].tolist(), drawn[:, ends].unbind(1), strict=True)
                    clips, shared, drawn = clips[~ends], shared[~ends], drawn[:, ~ends]
                if len(clips):
                    latest = self._draw(shared, self._next_pass(shared, len(drawn)))
                    drawn = torch.cat([drawn, latest])
        return [ended[clip] for clip in range(len(features))]

    def _draw(self, shared: Tensor, size: int) -> Tensor:
        """Draw `size` samples in one pass: (N, C, T, ...) -> (size, N, classes)."""
        batch = shared.expand(size, *shared.shape).flatten(0, 1)  # (size * N, C, T, ...)
        logits = self._model.random_part(batch).unflatten(0, (size, len(shared)))
        return (logits.float() / self._temperature).softmax(-1)

    def _next_pass(self, shared: Tensor, drawn: int) -> int:
        """Say how many samples to draw before the next check."""
        return min(_samples_per_pass(shared), SAMPLES_PER_CHECK, self._samples - drawn)


def _samples_per_pass(shared: Tensor) -> int:
    """Say how many samples of (N, C, T, ...) fit the cache together."""
    return max(1, FRAMES_PER_PASS // max(1, len(shared) * shared.shape[2]))
