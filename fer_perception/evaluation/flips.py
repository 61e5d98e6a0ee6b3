# SPDX-License-Identifier: Apache-2.0
"""Label flips: how often the expression of a face changes from one answer to the next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Count the changes of the answers of all faces, and those of the labels beside them."""

    minutes: float  # from each face's first answer to its last, summed
    answers: int  # changes from one answer to the next
    confident: int  # changes from one CONFIDENT answer to the next CONFIDENT one
    labels: int  # changes of the label, from one labelled answer to the next
    answers_per_minute: float | None  # None where there is no time
    confident_per_minute: float | None
    labels_per_minute: float | None


def measure_flips(
    *,
    face: np.ndarray,
    time_s: np.ndarray,
    answer: np.ndarray,
    is_confident: np.ndarray,
    label: np.ndarray,
) -> Flips:
    """Measure the flips of the answers of one recording, in the order in which they came.

    face: (M,) number of the face; time_s: (M,) seconds; answer and label: (M,) classes, labels
    below 0 where there is none; is_confident: (M,) bool.
    """
    minutes = 0.0
    for number in np.unique(face):
        own = time_s[face == number]
        minutes += max(0.0, float(own[-1] - own[0])) / 60
    is_labelled = label >= 0
    return _with_rates(
        minutes=minutes,
        answers=_count_changes(answer, face),
        confident=_count_changes(answer[is_confident], face[is_confident]),
        labels=_count_changes(label[is_labelled], face[is_labelled]),
    )


def pool_flips(flips: Sequence[Flips]) -> Flips:
    """Pool the flips of several recordings."""
    return _with_rates(
        minutes=sum(item.minutes for item in flips),
        answers=sum(item.answers for item in flips),
        confident=sum(item.confident for item in flips),
        labels=sum(item.labels for item in flips),
    )


def _with_rates(*, minutes: float, answers: int, confident: int, labels: int) -> Flips:
    return Flips(
        minutes=minutes,
        answers=answers,
        confident=confident,
        labels=labels,
        answers_per_minute=answers / minutes if minutes else None,
        confident_per_minute=confident / minutes if minutes else None,
        labels_per_minute=labels / minutes if minutes else None,
    )


def _count_changes(values: np.ndarray, face: np.ndarray) -> int:
    """Count where a value (M,) differs from the one before of the same face."""
    order = np.argsort(face, kind='stable')
    is_same_face = np.diff(face[order]) == 0
    return int((np.diff(values[order]) != 0)[is_same_face].sum())
