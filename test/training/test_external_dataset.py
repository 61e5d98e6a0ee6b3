# SPDX-License-Identifier: Apache-2.0
"""Data sets of the reference's format and of one's own become the same clips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fer_training.clips import ClipPreparation, Clips
from fer_training.external_dataset import (
    DATA_SETS,
    DatasetIterator,
    ExternalDataset,
    collect_batches,
    collect_clips,
    find_data_set,
    read_external_clips,
)
from fer_training.protocols.description import ProtocolDescription
from fer_training.reference_format import write_reference_clips
from fer_training.targets import Category, SkeletonSequence

CLASSES = ('Angry', 'Fear', 'Happy', 'Sad', 'Surprise', 'Disgust', 'Neutral')
FEATURES = np.random.default_rng(0).normal(size=(5, 2, 4, 12)).astype('f4')
LABELS = [0, 3, 1, 2, 6]


class Own(DatasetIterator):
    def __init__(self, samples: list[tuple[Any, ...]]) -> None:
        self.samples = samples

    def __getitem__(self, idx: int) -> tuple[Any, ...]:
        return self.samples[idx]

    def __len__(self) -> int:
        return len(self.samples)


def write(folder: Path) -> Clips:
    clips = Clips(
        features=FEATURES, labels=np.array(LABELS), classes=CLASSES, subjects=('',) * 5,
        names=tuple('abcde'),
    )
    write_reference_clips(folder / 'train.npy', folder / 'train_labels.pkl', clips)
    return clips


def read(folder: Path, classes: tuple[str, ...] = CLASSES) -> Clips:
    return read_external_clips(
        ExternalDataset(path=str(folder), dataset_type='afew'), data_file='train.npy',
        labels_file='train_labels.pkl', classes=classes,
    )


def test_the_classes_are_in_the_order_of_the_data_not_of_the_reference_s_swapped_file() -> None:
    assert DATA_SETS['AFEW'].classes == CLASSES == DATA_SETS['CK+'].classes
    assert DATA_SETS['CASIA'].classes == CLASSES[:6]
    assert [DATA_SETS[name].num_point for name in ('AFEW', 'CASIA', 'CK+')] == [312, 309, 303]


@pytest.mark.parametrize('name', ['AFEW', 'afew', 'CASIA', 'casia', 'CK+', 'ck+'])
def test_data_sets_are_found_in_any_spelling(name: str) -> None:
    assert ExternalDataset('somewhere', name).dataset_type == name.upper()


@pytest.mark.parametrize('name', ['coco', '', None, 3])
def test_unknown_data_sets_are_refused(name: object) -> None:
    with pytest.raises(ValueError, match='unknown data set .*; use AFEW, CASIA, CK+'):
        find_data_set(name)
    with pytest.raises(ValueError, match='path of a folder'):
        ExternalDataset(3, 'AFEW')  # type: ignore[arg-type]


def test_a_folder_is_read_without_being_copied(tmp_path: Path) -> None:
    write(tmp_path)
    clips = read(tmp_path)
    assert isinstance(clips.features, np.memmap) and np.array_equal(clips.features, FEATURES)
    assert clips.labels.tolist() == LABELS and clips.classes == CLASSES


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='nowhere of the data set does not exist'):
        read(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='train.npy does not exist'):
        read(tmp_path)


@pytest.mark.parametrize('place', ['.', '..'])
def test_a_protocol_beside_the_files_knows_the_classes_better(
    tmp_path: Path, place: str
) -> None:
    folder = tmp_path / 'fold_0'
    folder.mkdir()
    write(folder)
    names = ['anger', 'fear', 'happiness', 'sadness', 'surprise', 'disgust', 'neutral']
    assert read(folder).classes == CLASSES
    for seventh, expected in (('neutral', CLASSES), ('contempt', (*names[:6], 'contempt'))):
        write_protocol(folder / place, [*names[:6], seventh])
        assert read(folder).classes == expected
    write_protocol(folder / place, names[:3])
    with pytest.raises(ValueError, match='3 classes anger, fear, happiness, .* num_class=3'):
        read(folder)


def write_protocol(folder: Path, classes: list[str]) -> None:
    ProtocolDescription(
        data_set='AFEW', classes=tuple(classes), preparation=ClipPreparation(frames=4),
        features='landmarks', seed=0, augmentation=None, track_files=(), splits=(), left_out=(),
    ).write(folder)


def test_samples_of_one_s_own_become_clips() -> None:
    kinds: list[tuple[Any, ...]] = [
        (FEATURES[0], 0),
        (FEATURES[1][..., None], np.int64(3), 1),
        (SkeletonSequence(FEATURES[2:3]), Category(1)),
        (torch.from_numpy(FEATURES[3]), torch.tensor(2)),
        (FEATURES[4].astype('f8'), np.array([6])),
    ]
    clips = collect_clips(Own(kinds), classes=CLASSES)
    assert np.array_equal(clips.features, FEATURES) and clips.features.dtype == np.float32
    assert clips.labels.tolist() == LABELS
    assert clips.names == ('0', '1', '2', '3', '4')


def test_batches_of_a_loader_become_clips() -> None:
    samples = [(FEATURES[i][..., None], LABELS[i], i) for i in range(5)]
    loader: DataLoader[Any] = DataLoader(Own(samples), batch_size=2)  # type: ignore[arg-type]
    clips = collect_batches(loader, classes=CLASSES)
    assert np.array_equal(clips.features, FEATURES) and clips.labels.tolist() == LABELS


@pytest.mark.parametrize(
    ('sample', 'message'),
    [
        ((FEATURES[0],), 'sample 1'),
        ((FEATURES[:2], 0), 'sample 1 .* 2 sequences'),
        ((FEATURES[0, :, :2], 0), 'sample 1 .* that of the first'),
        ((FEATURES[0], 1.5), 'whole number'),
        ((FEATURES[0], 'Angry'), 'whole number'),
        ((FEATURES[0] * np.nan, 0), 'finite'),
        ((FEATURES[0], 9), 'labels must be 0 to 6'),
        (7, 'sample 1'),
    ],
)
def test_wrong_samples_are_named(sample: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect_clips(Own([(FEATURES[0], 0), sample]), classes=CLASSES)


def test_empty_data_sets_are_refused() -> None:
    with pytest.raises(ValueError, match='no samples'):
        collect_clips(Own([]), classes=CLASSES)
    with pytest.raises(ValueError, match='no samples'):
        collect_batches([], classes=CLASSES)


@pytest.mark.parametrize(
    ('shape', 'count'),
    [((3, 2, 4, 12, 1), 3), ((3, 2, 4, 12), 3), ((2, 4, 12, 1), 1), ((2, 4, 12), 1),
     ((2, 2, 4, 12), 2)],
)
def test_sequences_take_every_documented_shape(shape: tuple[int, ...], count: int) -> None:
    array = np.random.default_rng(0).normal(size=shape)
    sequence = SkeletonSequence(array)
    assert len(sequence) == count
    assert sequence.numpy().shape == (count, 2, 4, 12, 1)
    assert np.array_equal(sequence.data.ravel(), array.ravel())


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (np.zeros((3, 4, 12)), 'shape'),
        (np.zeros((1, 2, 4, 12, 2)), 'shape'),
        (np.zeros((0, 2, 4, 12)), 'shape'),
        (np.zeros(3), 'shape'),
        (np.full((2, 4, 12), np.inf), 'finite'),
        (np.array([[['a']]] * 2), 'real numbers'),
    ],
)
def test_what_is_no_sequence_is_refused(data: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SkeletonSequence(data)


def test_a_category_says_what_it_is() -> None:
    assert str(Category(3, 'Sad', 0.5)) == 'Class 3 (Sad) with confidence 0.500'
    assert str(Category(3)) == 'Class 3'
    assert Category(prediction=3, confidence=0.5, description='Sad').data == 3
