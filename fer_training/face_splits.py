# SPDX-License-Identifier: Apache-2.0
"""The papers' splits of face sets: by subject in ascending order, one left out, fixed parts."""

from dataclasses import dataclass
from pathlib import Path

from fer_training.face_sets import FaceSet
from fer_training.protocols.folds import Fold, leave_one_subject_out
from fer_training.samples import natural_key

FOLDS = 10


@dataclass(frozen=True, kw_only=True)
class FaceSplit:
    """Name the sequences to train on and those to validate on, as indices into a set's."""

    name: str
    train: tuple[int, ...]
    validation: tuple[int, ...]
    subjects: tuple[str, ...]  # those validated on; none where the parts are fixed


def ascending_subject_splits(face_set: FaceSet, *, count: int = FOLDS) -> list[FaceSplit]:
    """Deal the subjects into folds in the ascending order of their ids.

    The first subject to the first fold, the second to the second, and so on, round by round: what
    "sampling subject IDs in ascending order" (part-based ensemble, section II) is taken to mean.
    Numbers within the ids count as numbers. Raises ValueError for unknown subjects, or fewer of
    them than folds.
    """
    ones = leave_one_subject_out(_subjects(face_set))
    subjects = sorted(
        (subject for one in ones for subject in one.subjects),
        key=lambda subject: natural_key(Path(subject)),
    )
    if not 2 <= count <= len(subjects):
        raise ValueError(
            f'there must be 2 to {len(subjects)} folds (the number of subjects), not {count}'
        )
    folds = [
        Fold(name=f'fold_{number + 1:02d}', subjects=tuple(subjects[number::count]))
        for number in range(count)
    ]
    return [_by_subject(face_set, fold) for fold in folds]


def leave_one_subject_out_splits(face_set: FaceSet) -> list[FaceSplit]:
    """Validate on one subject after the other, as on JAFFE (part-based ensemble, section II).

    Raises ValueError for unknown subjects, or only one.
    """
    return [_by_subject(face_set, fold) for fold in leave_one_subject_out(_subjects(face_set))]


def part_split(face_set: FaceSet) -> FaceSplit:
    """Train on the part 'train' and validate on the part 'val', as on SFEW and Aff-Wild2.

    Raises ValueError if the set does not have both.
    """
    parts = [sequence.part for sequence in face_set.sequences]
    train, validation = (
        tuple(index for index, part in enumerate(parts) if part == wanted)
        for wanted in ('train', 'val')
    )
    if not train or not validation:
        raise ValueError(
            f'{face_set.data_set} has no parts to train and to validate on: of its '
            f'{len(parts)} sequences {len(train)} are of the part train and {len(validation)} of '
            'the part val; split it by subject'
        )
    return FaceSplit(name='parts', train=train, validation=validation, subjects=())


def _subjects(face_set: FaceSet) -> list[str]:
    return [sequence.subject for sequence in face_set.sequences]


def _by_subject(face_set: FaceSet, fold: Fold) -> FaceSplit:
    inside = [subject in fold.subjects for subject in _subjects(face_set)]
    return FaceSplit(
        name=fold.name,
        train=tuple(index for index, held in enumerate(inside) if not held),
        validation=tuple(index for index, held in enumerate(inside) if held),
        subjects=fold.subjects,
    )
