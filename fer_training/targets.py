# SPDX-License-Identifier: Apache-2.0
"""What the learner reads and answers: sequences of faces, and categories with uncertainty."""

from dataclasses import dataclass, replace

import numpy as np

from fer_perception.uncertainty.measures import Uncertainty


class SkeletonSequence:
    """Holds sequences of the landmarks, or of the edge vectors, of one face each."""

    def __init__(self, data: np.ndarray) -> None:
        """Take sequences of x and y.

        data: (N, 2, T, V, 1) or (N, 2, T, V), or of one sequence (2, T, V, 1) or (2, T, V); V is
        51 inner landmarks, or the number of edges. Raises ValueError for another shape, or values
        that are not finite.
        """
        array = np.asarray(data)
        batch = array
        if batch.ndim in (4, 5) and batch.shape[-1] == 1:
            batch = batch[..., 0]  # (N, 2, T, V) or (2, T, V)
        if batch.ndim == 3:
            batch = batch[None]  # (1, 2, T, V)
        if batch.ndim != 4 or batch.shape[1] != 2 or not all(batch.shape):
            raise ValueError(
                'a sequence must have the shape (N, 2, T, V, 1), (N, 2, T, V) or, if it is one, '
                f'(2, T, V, 1) or (2, T, V), not {array.shape}'
            )
        if not np.issubdtype(batch.dtype, np.number) or np.iscomplexobj(batch):
            raise ValueError(f'a sequence must hold real numbers, not {batch.dtype}')
        if not np.isfinite(batch).all():
            raise ValueError('a sequence must hold finite numbers, but some are NaN or infinite')
        self._features = batch

    def __len__(self) -> int:
        """Count the sequences."""
        return len(self._features)

    @property
    def features(self) -> np.ndarray:
        """The sequences without the axis of persons: (N, 2, T, V)."""
        return self._features

    @property
    def data(self) -> np.ndarray:
        """The sequences: (N, 2, T, V, 1)."""
        return self._features[..., None]

    def numpy(self) -> np.ndarray:
        """Return the sequences: (N, 2, T, V, 1)."""
        return self.data


@dataclass(frozen=True, eq=False)
class Category:
    """Hold the expression of one sequence, with its uncertainty where it was measured."""

    prediction: int  # index of the class
    description: str | None = None  # name of the class
    confidence: float | None = None  # the highest mean probability
    probabilities: np.ndarray | None = None  # (C,) mean over the samples of their softmax
    predictive_entropy: float | None = None  # nats, of the mean
    # Of Monte Carlo samples only; a single pass says nothing of them.
    standard_deviations: np.ndarray | None = None  # (C,) over the samples
    expected_entropy: float | None = None  # nats, mean over the samples
    mutual_information: float | None = None  # nats, predictive minus expected entropy
    mc_samples: int = 0

    @property
    def data(self) -> int:
        """The index of the class, by the reference's name."""
        return self.prediction

    def __str__(self) -> str:
        """Say the class and the confidence."""
        name = '' if self.description is None else f' ({self.description})'
        confidence = '' if self.confidence is None else f' with confidence {self.confidence:.3f}'
        return f'Class {self.prediction}{name}{confidence}'


def categories_of(
    uncertainty: Uncertainty, classes: tuple[str, ...], *, is_single_pass: bool
) -> list[Category]:
    """Make the categories of N sequences from the uncertainty of batch shape (N,)."""
    categories = []
    for index, probabilities in enumerate(uncertainty.probabilities):
        best = int(probabilities.argmax())
        answer = Category(
            prediction=best,
            description=classes[best],
            confidence=float(probabilities[best]),
            probabilities=probabilities,
            predictive_entropy=float(uncertainty.predictive_entropy[index]),
        )
        if not is_single_pass:
            answer = replace(
                answer,
                standard_deviations=uncertainty.standard_deviations[index],
                expected_entropy=float(uncertainty.expected_entropy[index]),
                mutual_information=float(uncertainty.mutual_information[index]),
                mc_samples=uncertainty.mc_samples,
            )
        categories.append(answer)
    return categories
