# SPDX-License-Identifier: Apache-2.0
"""The papers' protocols come out of data sets laid out as distributed, and of track files."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_sets_made import (
    AFEW_FOLDERS,
    CASIA_FOLDERS,
    CKPLUS_COUNTS,
    small_frames,
    write_ckplus_sequence,
    write_images,
    write_video,
    write_whole_casia,
    write_whole_ckplus,
)
from faces_made import face_landmarks
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_perception.graph.landmarks import INNER_LANDMARKS, MIRROR, NOSE
from fer_perception.graph.normalization import face_size, normalize_landmarks
from fer_training.cli import main
from fer_training.clips import ClipPreparation
from fer_training.protocols.afew import list_afew
from fer_training.protocols.augmentation import ProtocolAugmentation
from fer_training.protocols.casia import list_casia
from fer_training.protocols.ckplus import list_ckplus, with_neutral_class
from fer_training.protocols.description import ProtocolFileError, read_protocol
from fer_training.protocols.folds import Fold, leave_one_subject_out, subject_folds
from fer_training.protocols.listing import LayoutError
from fer_training.protocols.writing import ClipConfig, NamedTracks, write_folds
from fer_training.reference_format import read_reference_clips
from fer_training.tracks import Track, read_tracks, write_tracks

BLANK = np.full((180, 320, 3), 90, np.uint8)


@pytest.fixture(scope='module')
def frames(sample_clip: Path) -> list[np.ndarray]:
    return small_frames(sample_clip, count=6)


@pytest.fixture
def model(landmark_model_path: Path) -> tuple[str, ...]:
    return ('--landmark-model', str(landmark_model_path), '--workers', '1')


def prepare(*arguments: str | Path) -> int:
    return main(['prepare', *map(str, arguments)])


def made_track(label: str, subject: str, *, frames: int = 8, seed: int = 1) -> Track:
    return Track(face_landmarks(frames=frames, seed=seed).astype(np.float32), label, subject, 30.0)


# Whole data sets: listing and folds, with empty files.


def check_folds(folds: Sequence[Fold], subjects: Sequence[str]) -> list[int]:
    """Every subject is in one fold; return the number of clips of each fold."""
    dealt = [subject for fold in folds for subject in fold.subjects]
    assert sorted(dealt) == sorted(set(subjects))
    clips = Counter(subjects)
    return [sum(clips[subject] for subject in fold.subjects) for fold in folds]


def test_the_whole_of_ckplus_has_327_sequences_of_118_subjects(tmp_path: Path) -> None:
    write_whole_ckplus(tmp_path)
    listing = list_ckplus(tmp_path)
    subjects = [sample.subject for sample in listing.samples]
    assert len(subjects) == 327 and len(set(subjects)) == 118
    assert Counter(sample.label for sample in listing.samples) == CKPLUS_COUNTS
    assert listing.classes == (
        'anger', 'fear', 'happiness', 'sadness', 'surprise', 'disgust', 'contempt'
    )
    folds = subject_folds(subjects, count=10, seed=1)
    sizes = check_folds(folds, subjects)
    assert len(folds) == 10 and sum(sizes) == 327
    assert max(sizes) - min(sizes) <= 3
    assert {len(fold.subjects) for fold in folds} == {11, 12}
    assert folds == subject_folds(subjects[::-1], count=10, seed=1)
    assert folds != subject_folds(subjects, count=10, seed=2)
    assert len(leave_one_subject_out(subjects)) == 118


def test_the_whole_of_ckplus_becomes_ten_folds_of_files(tmp_path: Path) -> None:
    write_whole_ckplus(tmp_path / 'root')
    listing = list_ckplus(tmp_path / 'root')
    tracks = [
        made_track(sample.label, sample.subject, seed=seed)
        for seed, sample in enumerate(listing.samples)
    ]
    named = NamedTracks(tracks=tracks, names=[sample.name for sample in listing.samples])
    folds = subject_folds([track.subject for track in tracks], count=10, seed=1)
    config = ClipConfig(
        classes=listing.classes,
        preparation=ClipPreparation(
            frames=4, sampling='first_and_last', normalization='centred'
        ),
    )
    write_folds(tmp_path, named, folds, config=config, progress=False)
    validated: list[str] = []
    for fold in folds:
        train, validation = (
            read_reference_clips(
                tmp_path / fold.name / f'{part}.npy', tmp_path / fold.name / f'{part}_labels.pkl',
                classes=listing.classes,
            )
            for part in ('train', 'val')
        )
        assert len(train) + len(validation) == 327
        assert train.features.shape[1:] == (2, 4, 51)
        assert not {name[:4] for name in train.names} & {name[:4] for name in validation.names}
        validated += validation.names
    assert sorted(validated) == sorted(named.names)


def test_the_whole_of_oulu_casia_has_480_sequences_of_80_subjects(tmp_path: Path) -> None:
    write_whole_casia(tmp_path)
    write_images(tmp_path / 'OriginalImg' / 'NI' / 'Strong' / 'P001' / 'Anger', [None])
    write_images(tmp_path / 'OriginalImg' / 'VL' / 'Dark' / 'P001' / 'Anger', [None])
    listing = list_casia(tmp_path)
    subjects = [sample.subject for sample in listing.samples]
    assert len(subjects) == 480 and len(set(subjects)) == 80
    assert set(Counter(sample.label for sample in listing.samples).values()) == {80}
    assert listing.classes == ('anger', 'fear', 'happiness', 'sadness', 'surprise', 'disgust')
    assert check_folds(subject_folds(subjects, count=10, seed=1), subjects) == [48] * 10
    assert len(list_casia(tmp_path, camera='NI').samples) == 1
    assert len(list_casia(tmp_path, illumination='Dark').samples) == 1


@pytest.mark.parametrize('variant', [
    'B_OriginalImg/VL', 'PreProcess_Img/VL_Acropped', 'PreProcess Img/VL_Acropped',
    'B_OriginalImg/B_OriginalImg/VL', 'VL',
])
def test_variants_of_oulu_casia_are_found(tmp_path: Path, variant: str) -> None:
    for name in CASIA_FOLDERS:
        write_images(tmp_path / variant / 'Strong' / 'P001' / name, [None])
    assert len(list_casia(tmp_path).samples) == 6


@pytest.mark.parametrize(('train', 'val'), [('Train', 'Val'), ('Train_AFEW', 'Val_AFEW')])
def test_afew_keeps_neutral_and_the_meaning_of_its_labels(
    tmp_path: Path, train: str, val: str
) -> None:
    for folder, count in ((train, 2), (val, 1)):
        for name in AFEW_FOLDERS:
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / folder / name / f'{number:09d}.avi').touch()
    (tmp_path / train / 'AlignedFaces_LBPTOP_Points').mkdir()
    training, validation = (list_afew(tmp_path, part=part) for part in ('train', 'val'))
    assert len(training.samples) == 14 and len(validation.samples) == 7
    assert not {s.path for s in training.samples} & {s.path for s in validation.samples}
    assert training.classes == (
        'anger', 'fear', 'happiness', 'sadness', 'surprise', 'disgust', 'neutral'
    )
    told = {sample.path.parent.name: sample.label for sample in training.samples}
    assert told == {
        'Angry': 'anger', 'Disgust': 'disgust', 'Fear': 'fear', 'Happy': 'happiness',
        'Neutral': 'neutral', 'Sad': 'sadness', 'Surprise': 'surprise',
    }


# Parts of a protocol.


@settings(deadline=None)
@given(
    clips=st.lists(st.integers(1, 9), min_size=2, max_size=30),
    count=st.integers(2, 12),
    seed=st.integers(0, 2**31),
)
def test_folds_are_balanced(clips: list[int], count: int, seed: int) -> None:
    subjects = [f's{index}' for index, number in enumerate(clips) for _ in range(number)]
    if count > len(clips):
        with pytest.raises(ValueError, match=f'2 to {len(clips)} folds'):
            subject_folds(subjects, count=count, seed=seed)
        return
    folds = subject_folds(subjects, count=count, seed=seed)
    sizes = check_folds(folds, subjects)
    numbers = [len(fold.subjects) for fold in folds]
    assert max(numbers) - min(numbers) <= 1
    assert max(sizes) - min(sizes) <= max(clips)


def test_folds_need_subjects() -> None:
    with pytest.raises(ValueError, match='2 of 3 clips have no subject'):
        subject_folds(['', 'a', ''], count=2, seed=1)
    with pytest.raises(ValueError, match='only a'):
        leave_one_subject_out(['a', 'a'])


def test_frames_are_chosen_among_those_with_a_face() -> None:
    landmarks = np.arange(8, dtype=np.float32)[:, None, None] * np.ones((1, 68, 2), np.float32)
    found = np.array([False, True, True, False, True, True, True, False])
    track = Track(landmarks, 'fear', 'a', 10.0, found=found)

    def numbers(frames: int, sampling: str) -> list[int]:
        preparation = ClipPreparation(frames=frames, sampling=sampling, normalization='centred')
        clip = preparation.landmarks(replace(track, landmarks=landmarks + places))
        assert clip.shape == (frames, 68, 2)
        return [int(frame) for frame in clip[:, 0, 0]]

    places = np.zeros((8, 68, 2), np.float32)
    places[:, 0, 0] = np.arange(8)  # of the first landmark, from the nose
    assert numbers(4, 'first_and_last') == [1, 4, 5, 6]
    assert numbers(5, 'first_and_last') == [1, 2, 4, 5, 6]
    assert numbers(7, 'first_and_last') == [1, 1, 1, 2, 4, 5, 6]
    assert numbers(3, 'intervals') == [1, 4, 6]
    assert numbers(12, 'intervals') == [1, 2, 4, 5, 6] * 2 + [1, 2]


def test_augmentation_makes_14_different_versions() -> None:
    points = normalize_landmarks(face_landmarks(frames=5), 'centred')
    augmentation = ProtocolAugmentation()
    made = dict(augmentation.augment(points, clip=3))
    assert len(made) == augmentation.versions == 14
    assert {version.shape for version in made.values()} == {(5, 68, 2)}
    flat = [version.tobytes() for version in made.values()]
    assert len(set(flat)) == 14
    assert np.array_equal(made[''], points)
    size = face_size(points).mean()
    for number, noise in enumerate(augmentation.noises, start=1):
        spread = (made[f'_noise{number}'] - points).std() / size
        assert spread == pytest.approx(noise, rel=0.1)
        # A turn keeps all distances.
        assert np.allclose(
            face_size(made[f'_noise{number}_turned']), face_size(made[f'_noise{number}'])
        )
    again = dict(augmentation.augment(points, clip=3))
    assert all(np.array_equal(again[name], made[name]) for name in made)
    other = dict(augmentation.augment(points, clip=4))
    assert not np.allclose(other['_noise1'], made['_noise1'])


def test_the_flip_mirrors_each_landmark_to_its_partner() -> None:
    points = normalize_landmarks(face_landmarks(frames=5), 'centred')
    made = dict(ProtocolAugmentation().augment(points, clip=0))
    for suffix in ('', '_noise2', '_noise3_turned'):
        mirrored = made[f'{suffix}_mirrored']
        assert np.allclose(mirrored[:, :, 1], made[suffix][:, MIRROR, 1])
        assert np.allclose(mirrored[:, :, 0], -made[suffix][:, MIRROR, 0])
    # The eyes stay on their sides.
    assert (made['_mirrored'][:, 45, 0] > made['_mirrored'][:, 36, 0]).all()
    reversed_in_time = dict(ProtocolAugmentation(flip='time').augment(points, clip=0))
    assert len(reversed_in_time) == 14
    assert np.array_equal(reversed_in_time['_reversed'], points[::-1])


@pytest.mark.parametrize('change', [{'flip': 'up'}, {'noises': ()}, {'max_turn_degrees': 0.0}])
def test_senseless_augmentation_is_refused(change: dict) -> None:
    with pytest.raises(ValueError):
        ProtocolAugmentation(**change)


def test_neutral_is_made_from_first_frames_in_place_of_contempt() -> None:
    tracks = [
        made_track('fear', 'a', seed=1), made_track('contempt', 'a', seed=2),
        made_track('contempt', 'b', seed=3),
    ]
    made, names = with_neutral_class(tracks, ['a1', 'a2', 'b1'])
    assert [(track.label, track.subject) for track in made] == [
        ('fear', 'a'), ('neutral', 'a'), ('neutral', 'b')
    ]
    assert names == ['a1', 'a_neutral', 'b_neutral']
    first_frames = np.stack([tracks[0].landmarks[0], tracks[1].landmarks[0]])
    assert np.array_equal(made[1].landmarks, first_frames)


# From a tree to files, with real faces.


def make_ckplus(root: Path, frames: list[np.ndarray]) -> None:
    for subject in ('S005', 'S010', 'S011'):
        write_ckplus_sequence(root, subject, '001', 'happiness', frames[:5])
        write_ckplus_sequence(root, subject, '002', None, [None])  # never read
    write_ckplus_sequence(root, 'S005', '003', 'contempt', frames[1:4])
    write_ckplus_sequence(root, 'S010', '003', 'anger', [BLANK, BLANK])


def read_split(
    out: Path, folder: str, classes: Sequence[str]
) -> tuple[np.ndarray, list[str], np.ndarray, list[str]]:
    parts = [
        read_reference_clips(
            out / folder / f'{part}.npy', out / folder / f'{part}_labels.pkl', classes=classes
        )
        for part in ('train', 'val')
    ]
    train, validation = (
        (clips.features, [clips.classes[label] for label in clips.labels]) for clips in parts
    )
    return *train, *validation


def test_ckplus_becomes_folds(
    tmp_path: Path, frames: list[np.ndarray], model: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_ckplus(tmp_path / 'ck', frames)
    out = tmp_path / 'out'
    assert prepare('ckplus', tmp_path / 'ck', '--out', out, '--folds', '3', *model) == 0
    protocol = read_protocol(out)
    assert protocol.preparation.frames == 4 and protocol.preparation.normalization == 'centred'
    assert protocol.left_out == ('S010_003',)
    assert protocol.augmentation is None and protocol.track_files == ('tracks.npz',)
    held = sorted(subject for split in protocol.splits for subject in split.validation_subjects)
    assert held == ['S005', 'S010', 'S011']
    for split in protocol.splits:
        train, train_labels, validation, labels = read_split(out, split.folder, protocol.classes)
        assert len(train) == split.train_clips and len(validation) == split.validation_clips
        assert len(train) + len(validation) == 4
        assert train.shape[1:] == (2, 4, 51)
        assert labels == (['happiness', 'contempt'] if 'S005' in split.validation_subjects
                          else ['happiness'])
    tracks = read_tracks(out / 'tracks.npz')
    assert [(track.label, track.subject, len(track.landmarks)) for track in tracks] == [
        ('happiness', 'S005', 5), ('contempt', 'S005', 3), ('happiness', 'S010', 5),
        ('happiness', 'S011', 5),
    ]
    # Centred on the nose; the first frame, then the last three.
    assert not validation[:, :, :, NOSE - 17].any()
    chosen = tracks[3].landmarks[[0, 2, 3, 4]]
    expected = normalize_landmarks(chosen, 'centred')[:, INNER_LANDMARKS]
    of_s011 = next(s for s in protocol.splits if s.validation_subjects == ('S011',))
    features = read_split(out, of_s011.folder, protocol.classes)[2]
    assert np.allclose(features[0], np.moveaxis(expected, -1, 0), atol=1e-4)
    shown = capsys.readouterr()
    assert '5 recordings of 3 subjects' in shown.out and '327 labelled' in shown.out
    assert 'left out 1 recording without any face' in shown.err
    assert not (out / 'extraction.part').exists()


def test_ckplus_as_the_reference_takes_it(
    tmp_path: Path, frames: list[np.ndarray], model: tuple[str, ...]
) -> None:
    make_ckplus(tmp_path / 'ck', frames)
    out = tmp_path / 'out'
    assert prepare('ckplus', tmp_path / 'ck', '--out', out, '--neutral', '--last-frames', '4',
                   '--edge-list', 'edges_312_reference', '--leave-one-subject-out', *model) == 0
    protocol = read_protocol(out)
    assert protocol.classes == (
        'anger', 'fear', 'happiness', 'sadness', 'surprise', 'disgust', 'neutral'
    )
    assert protocol.features == 'edges_312_reference' and len(protocol.splits) == 3
    train, _, validation, labels = read_split(out, 'fold_01', protocol.classes)
    assert train.shape == (4, 2, 5, 312) and validation.shape == (2, 2, 5, 312)
    assert labels == ['happiness', 'neutral']


def test_casia_becomes_folds(
    tmp_path: Path, frames: list[np.ndarray], model: tuple[str, ...]
) -> None:
    for subject in ('P001', 'P002'):
        for name in CASIA_FOLDERS:
            write_images(tmp_path / 'casia' / 'OriginalImg' / 'VL' / 'Strong' / subject / name,
                         frames[1:3], pattern='{:03d}.jpeg')
    out = tmp_path / 'out'
    assert prepare('casia', tmp_path / 'casia', '--out', out, '--folds', '2', *model) == 0
    protocol = read_protocol(out)
    assert len(protocol.splits) == 2 and len(protocol.classes) == 6
    for split in protocol.splits:
        train, train_labels, validation, labels = read_split(out, split.folder, protocol.classes)
        assert sorted(train_labels) == sorted(labels) == sorted(protocol.classes)
        assert train.shape == validation.shape == (6, 2, 4, 51)


def test_afew_becomes_14_versions_of_its_training_part(
    tmp_path: Path, frames: list[np.ndarray], model: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out = tmp_path / 'afew', tmp_path / 'out'
    for name in AFEW_FOLDERS[2:5]:
        write_video(root / 'Train' / name / '0001.avi', frames[:3])
        write_video(root / 'Val' / name / '0002.avi', [frames[4], BLANK, frames[5]])
    assert prepare('afew', root, '--out', out, *model) == 0
    protocol = read_protocol(out)
    split, = protocol.splits
    assert (split.folder, split.train_clips, split.validation_clips) == ('.', 3 * 14, 3)
    assert protocol.augmentation is not None and protocol.augmentation['flip'] == 'mirror'
    train, train_labels, validation, labels = read_split(out, '.', protocol.classes)
    assert train.shape == (42, 2, 150, 51) and validation.shape == (3, 2, 150, 51)
    assert Counter(train_labels) == {'fear': 14, 'happiness': 14, 'neutral': 14}
    assert labels == ['fear', 'happiness', 'neutral']
    # Tiled: three frames are repeated, in the validation part the two that show a face.
    assert np.array_equal(train[0, :, :3], train[0, :, 3:6])
    assert np.array_equal(validation[0, :, :2], validation[0, :, 148:])
    assert not np.allclose(train[0, :, :2], validation[0, :, :2])
    tracks = read_tracks(out / 'val_tracks.npz')
    assert len(read_tracks(out / 'train_tracks.npz')) == len(tracks) == 3
    assert tracks[0].found is not None and tracks[0].found.tolist() == [True, False, True]

    assert prepare('afew', root, '--out', out, *model) == 1
    assert 'holds prepared files already' in capsys.readouterr().err
    assert prepare('afew', root, '--out', tmp_path / 'plain', '--no-augment', '--frames', '5',
                   '--normalization', 'similarity', *model) == 0
    train, _, _, _ = read_split(tmp_path / 'plain', '.', protocol.classes)
    assert train.shape == (3, 2, 5, 51)


# From a track file.


def write_track_file(path: Path) -> None:
    tracks = [
        made_track(label, subject, frames=frames, seed=frames)
        for frames, (label, subject) in enumerate(
            [(label, subject) for label in ('surprise', 'nod', 'anger')
             for subject in ('a', 'b', 'c')], start=4,
        )
    ]
    write_tracks(path, tracks)


@pytest.mark.parametrize(
    ('options', 'frames', 'folds'),
    [
        (('--frames', '6', '--folds', '2'), 6, 2),
        (('--frames', '7', '--displacement', 'mean', '--leave-one-subject-out'), 7, 3),
        (('--last-frames', '2', '--folds', '3'), 3, 3),
    ],
)
def test_a_track_file_becomes_folds(
    tmp_path: Path, options: tuple[str, ...], frames: int, folds: int
) -> None:
    write_track_file(tmp_path / 'tracks.npz')
    out = tmp_path / 'out'
    assert prepare('tracks', tmp_path / 'tracks.npz', '--out', out, *options) == 0
    protocol = read_protocol(out)
    assert protocol.classes == ('anger', 'surprise', 'nod')  # expressions first
    assert protocol.preparation.normalization == 'similarity' and len(protocol.splits) == folds
    for split in protocol.splits:
        train, train_labels, validation, labels = read_split(out, split.folder, protocol.classes)
        assert train.shape[1:] == (2, frames, 51)
        assert len(train) + len(validation) == 9
        assert set(train_labels) == set(labels) == set(protocol.classes)


def test_chosen_classes_keep_their_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_track_file(tmp_path / 'tracks.npz')
    out = tmp_path / 'out'
    assert prepare('tracks', tmp_path / 'tracks.npz', '--out', out, '--frames', '4',
                   '--folds', '3', '--classes', 'nod', 'anger', '--augment', '--flip', 'time') == 0
    protocol = read_protocol(out)
    assert protocol.classes == ('nod', 'anger')
    assert [split.train_clips for split in protocol.splits] == [4 * 14] * 3
    assert [split.validation_clips for split in protocol.splits] == [2] * 3
    assert 'left out 3 tracks of other labels' in capsys.readouterr().err


def test_the_shared_tracks_become_folds(tmp_path: Path, shared_data: Path) -> None:
    out = tmp_path / 'out'
    assert prepare('tracks', shared_data / 'buhmap_tracks.npz', '--out', out, '--frames', '8',
                   '--leave-one-subject-out') == 0
    protocol = read_protocol(out)
    assert len(protocol.classes) == 8 and len(protocol.splits) > 2
    assert protocol.classes[:3] == ('neutral', 'happiness', 'sadness')


# Bad input.


def test_wrong_layouts_give_one_line(
    tmp_path: Path, model: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / 'empty'
    empty.mkdir()
    out = tmp_path / 'out'
    unlabelled = tmp_path / 'unlabelled'
    write_ckplus_sequence(unlabelled, 'S005', '001', None, [None])
    number = tmp_path / 'number'
    write_ckplus_sequence(number, 'S005', '001', 'fear', [None])
    label_file, = (number / 'Emotion').rglob('*.txt')
    label_file.write_text('nine')
    imageless = tmp_path / 'imageless'
    write_ckplus_sequence(imageless, 'S005', '001', 'fear', [])
    one_subject = tmp_path / 'one'
    write_ckplus_sequence(one_subject, 'S005', '001', 'fear', [None])
    casia = tmp_path / 'casia'
    write_images(casia / 'OriginalImg' / 'VL' / 'Strong' / 'P001' / 'Smile', [None])
    no_images = tmp_path / 'no_images'
    (no_images / 'OriginalImg' / 'VL' / 'Strong' / 'P001' / 'Anger').mkdir(parents=True)
    half = tmp_path / 'half'
    (half / 'Train' / 'Angry').mkdir(parents=True)
    (half / 'Train' / 'Angry' / '1.avi').touch()
    unreadable = tmp_path / 'unreadable'
    for subject in ('S005', 'S010'):
        write_ckplus_sequence(unreadable, subject, '001', 'fear', [None])
    write_tracks(tmp_path / 'nobody.npz', [made_track('fear', '')])
    write_tracks(empty / 'tracks.npz', [made_track('fear', name) for name in 'ab'])
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        (('ckplus', tmp_path / 'missing', *model), 'no folder: give the root of CK'),
        (('ckplus', empty, *model), 'not laid out as CK.*cohn-kanade-images'),
        (('ckplus', unlabelled, *model), 'no label file'),
        (('ckplus', number, *model), 'one number from 0 to 7'),
        (('ckplus', imageless, *model), 'has no images'),
        (('ckplus', one_subject, *model), '2 to 1 folds'),
        (('ckplus', unreadable, '--folds', '2', *model), '00000001.png.*remove or replace'),
        (('ckplus', unreadable, '--folds', '2', '--landmark-model', 'no.dat'),
         'no landmark model'),
        (('casia', empty, *model), 'not laid out as Oulu-CASIA.*OriginalImg/VL/Strong'),
        (('casia', casia, *model), 'Smile is not laid out as Oulu-CASIA.*named after'),
        (('casia', no_images, *model), 'no images such as P001/Anger'),
        (('afew', empty, *model), 'not laid out as AFEW.*Train'),
        (('afew', half, *model), 'not laid out as AFEW.*Val'),
        (('tracks', tmp_path / 'no.npz', '--frames', '4'), 'no.npz does not exist'),
        (('tracks', tmp_path / 'nobody.npz', '--frames', '4'), 'have no subject'),
        (('tracks', tmp_path / 'nobody.npz', '--frames', '4', '--classes', 'x'), 'no track of'),
        (('tracks', empty / 'tracks.npz', '--frames', '4', '--out', empty), 'would overwrite'),
    ]
    for arguments, message in cases:
        assert prepare(*(arguments if '--out' in arguments else (*arguments, '--out', out))) == 1
        lines = [
            line for line in capsys.readouterr().err.splitlines()
            if line.startswith('fer_train prepare: ')
        ]
        assert len(lines) == 1 and re.search(message, lines[0]), lines
        assert not (out / 'protocol.json').exists()


def test_a_wrong_label_file_names_itself(tmp_path: Path) -> None:
    write_ckplus_sequence(tmp_path, 'S005', '001', 'fear', [None])
    label_file, = (tmp_path / 'Emotion').rglob('*.txt')
    for content in ('', '8', '-1', 'nan', '1 2', '2.5', 'é'):
        label_file.write_text(content, 'utf-8')
        with pytest.raises(LayoutError, match=label_file.name):
            list_ckplus(tmp_path)


def test_wrong_protocol_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ProtocolFileError, match='protocol.json does not exist'):
        read_protocol(tmp_path)
    write_track_file(tmp_path / 'made.npz')
    assert prepare('tracks', tmp_path / 'made.npz', '--out', tmp_path, '--frames', '4',
                   '--folds', '2') == 0
    good = json.loads((tmp_path / 'protocol.json').read_text())
    wrong: list[object] = [
        {}, [], good | {'colour': 1}, good | {'splits': 3}, good | {'splits': [{}]}
    ]
    for content in wrong:
        (tmp_path / 'protocol.json').write_text(json.dumps(content))
        with pytest.raises(ProtocolFileError, match='protocol.json is no protocol file'):
            read_protocol(tmp_path)
    (tmp_path / 'protocol.json').write_text('{')
    with pytest.raises(ProtocolFileError, match='protocol.json is no protocol file'):
        read_protocol(tmp_path)
