# SPDX-License-Identifier: Apache-2.0
"""Face sets are split as the papers have it; nobody is on both sides."""

from pathlib import Path

import pytest
from face_sets_made import MadeSequence, write_face_set
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_training.face_sets import FaceSet
from fer_training.face_splits import (
    FaceSplit,
    ascending_subject_splits,
    leave_one_subject_out_splits,
    part_split,
)


def made_set(folder: Path, subjects: list[str], parts: list[str] | None = None) -> FaceSet:
    parts = parts or [''] * len(subjects)
    return write_face_set(
        folder,
        [MadeSequence(labels=('neutral',), subject=subject, part=part)
         for subject, part in zip(subjects, parts, strict=True)],
        size=8,
    )


def check_splits(face_set: FaceSet, splits: list[FaceSplit]) -> None:
    """Every sequence is validated on once, by networks that never saw its subject."""
    subjects = [sequence.subject for sequence in face_set.sequences]
    everything = list(range(len(subjects)))
    assert sorted(index for split in splits for index in split.validation) == everything
    for split in splits:
        assert sorted(split.train + split.validation) == everything
        held = {subjects[index] for index in split.validation}
        assert held == set(split.subjects)
        assert not held & {subjects[index] for index in split.train}


def test_subjects_are_dealt_in_the_ascending_order_of_their_numbers(tmp_path: Path) -> None:
    subjects = [f'S{number}' for number in range(12, 0, -1)] * 2
    face_set = made_set(tmp_path / 'set', subjects)
    splits = ascending_subject_splits(face_set, count=5)
    assert [split.subjects for split in splits] == [
        ('S1', 'S6', 'S11'), ('S2', 'S7', 'S12'), ('S3', 'S8'), ('S4', 'S9'), ('S5', 'S10')
    ]
    assert [split.name for split in splits][::4] == ['fold_01', 'fold_05']
    assert splits[3].validation == (3, 8, 15, 20)
    check_splits(face_set, splits)


@settings(deadline=None, max_examples=15)
@given(owners=st.lists(st.integers(0, 14), min_size=1, max_size=30), count=st.integers(1, 12))
def test_folds_hold_everybody_once(
    tmp_path_factory: pytest.TempPathFactory, owners: list[int], count: int
) -> None:
    face_set = made_set(tmp_path_factory.mktemp('s') / 'set', [f'p{owner}' for owner in owners])
    people = len(set(owners))
    if people == 1 or not 2 <= count <= people:
        with pytest.raises(ValueError, match='2 subjects|folds'):
            ascending_subject_splits(face_set, count=count)
        return
    splits = ascending_subject_splits(face_set, count=count)
    assert len(splits) == count
    sizes = [len(split.subjects) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    check_splits(face_set, splits)


def test_each_subject_is_left_out_once(tmp_path: Path) -> None:
    face_set = made_set(tmp_path / 'set', ['KA', 'YM', 'KL', 'KA'])
    splits = leave_one_subject_out_splits(face_set)
    assert [split.validation for split in splits] == [(0, 3), (2,), (1,)]
    check_splits(face_set, splits)


def test_fixed_parts_leave_the_test_alone(tmp_path: Path) -> None:
    parts = ['train', 'val', 'test', 'train', '']
    split = part_split(made_set(tmp_path / 'set', [''] * 5, parts))
    assert (split.train, split.validation, split.subjects) == ((0, 3), (1,), ())


def test_what_cannot_be_split_is_told(tmp_path: Path) -> None:
    unknown = made_set(tmp_path / 'unknown', ['', 'a', 'b'], ['train', 'train', 'test'])
    for split_by in (ascending_subject_splits, leave_one_subject_out_splits):
        with pytest.raises(ValueError, match='1 of 3 clips have no subject'):
            split_by(unknown)
    with pytest.raises(ValueError, match='2 are of the part train and 0 of the part val'):
        part_split(unknown)
