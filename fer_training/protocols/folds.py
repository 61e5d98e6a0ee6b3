# SPDX-License-Identifier: Apache-2.0
"""Folds by subject: nobody is in the training and the validation part of one fold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Name the subjects on whom a fold is validated; it is trained on all others."""

    name: str
    subjects: tuple[str, ...]


def subject_folds(subjects: Sequence[str], *, count: int, seed: int) -> list[Fold]:
    """Deal subjects into folds, the same for the same seed.

    subjects: (N,) the subject of each clip. The numbers of subjects of two folds differ by at
    most one; those of clips hardly more, as subjects with many clips are dealt first, each time
    to the folds with the fewest clips. Raises ValueError for unknown subjects, or fewer of them
    than folds.
    """
    clips = _clips_of_subjects(subjects)
    if not 2 <= count <= len(clips):
        raise ValueError(
            f'there must be 2 to {len(clips)} folds (the number of subjects), not {count}'
        )
    names = sorted(clips)
    order = np.random.default_rng(seed).permutation(len(names))
    dealt = sorted((names[index] for index in order), key=lambda name: -clips[name])
    members: list[list[str]] = [[] for _ in range(count)]
    totals = [0] * count
    for start in range(0, len(dealt), count):
        fewest_first = sorted(range(count), key=lambda fold: totals[fold])
        for fold, name in zip(fewest_first, dealt[start : start + count], strict=False):
            members[fold].append(name)
            totals[fold] += clips[name]
    return [
        Fold(name=f'fold_{number:02d}', subjects=tuple(sorted(fold)))
        for number, fold in enumerate(members, start=1)
    ]


def leave_one_subject_out(subjects: Sequence[str]) -> list[Fold]:
    """Make one fold for each subject, in the order of their names.

    Raises ValueError for unknown subjects, or only one.
    """
    names = sorted(_clips_of_subjects(subjects))
    if len(names) < 2:
        raise ValueError(f'leaving one subject out needs 2 subjects, but there is only {names[0]}')
    return [
        Fold(name=f'fold_{number:02d}', subjects=(name,))
        for number, name in enumerate(names, start=1)
    ]


def _clips_of_subjects(subjects: Sequence[str]) -> Counter[str]:
    clips = Counter(subjects)
    if not clips:
        raise ValueError('there are no clips to make folds of')
    if unknown := clips.get('', 0):
        raise ValueError(
            f'folds by subject need to know who it is, but {unknown} of {len(subjects)} clips '
            'have no subject'
        )
    return clips
