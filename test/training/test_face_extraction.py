# SPDX-License-Identifier: Apache-2.0
"""Faces are cut from videos, image folders and stills; bad input gives one clear line."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_sets_made import small_frames, write_ckplus_sequence, write_images, write_video
from face_sets_made import (
    write_affwild2_video,
    write_jaffe,
    write_mmi_session,
    write_sfew,
)

from fer_perception.faces.crop import FaceCrop
from fer_perception.faces.place import FacePlace
from fer_training.cli import main
from fer_training.extraction import ExtractionConfig, ExtractionError, FaceFinder
from fer_training.face_extraction import FaceExtractionConfig, extract_faces
from fer_training.face_samples import FaceSample, still_sample
from fer_training.face_sets import FaceSet, FaceSetError, read_face_set
from fer_training.protocols.face_listing import FaceListing
from fer_training.samples import Sample

BLANK = np.full((180, 320, 3), 90, np.uint8)
SIZE = 64


@pytest.fixture(scope='module')
def frames(sample_clip: Path) -> list[np.ndarray]:
    return small_frames(sample_clip, count=4)


@pytest.fixture(scope='module')
def faces(frames: list[np.ndarray], landmark_model_path: Path) -> list[np.ndarray]:
    """Cut the faces as closely as aligned data sets do: (112, 112, 3) uint8 BGR."""
    finder = FaceFinder(ExtractionConfig(landmark_model=landmark_model_path))
    found = []
    for frame in frames:
        landmarks = finder.find(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), None)
        assert landmarks is not None
        crop, _ = FaceCrop(size=112, margin=0.0).cut(frame, landmarks)
        found.append(crop[..., ::-1])
    return found


@pytest.fixture
def config(landmark_model_path: Path) -> FaceExtractionConfig:
    return FaceExtractionConfig(
        landmarks=ExtractionConfig(landmark_model=landmark_model_path),
        crop=FaceCrop(size=SIZE),
    )


@pytest.fixture
def options(landmark_model_path: Path) -> tuple[str, ...]:
    return ('--landmark-model', str(landmark_model_path), '--workers', '1', '--size', str(SIZE))


def run(command: str, *arguments: str | Path) -> int:
    return main([command, *map(str, arguments)])


def listed(
    *samples: FaceSample, classes: Sequence[str] = ('neutral', 'happiness')
) -> FaceListing:
    return FaceListing(data_set='made', samples=samples, classes=tuple(classes),
                       frame_rate=20.0, published='')


def check_crops(face_set: FaceSet) -> None:
    """Check that the eyes lie where upright crops have them, and that the pixels are skin."""
    eyes = face_set.landmarks[:, 36:48].mean(1)  # (F, 2)
    assert (abs(eyes[:, 0] - 0.5) < 0.08).all() and (abs(eyes[:, 1] - 0.4) < 0.12).all()
    level = face_set.landmarks[:, 42:48].mean(1) - face_set.landmarks[:, 36:42].mean(1)
    assert (abs(level[:, 1]) < 0.03).all() and (level[:, 0] > 0.25).all()
    middle = face_set.images[:, SIZE // 3 : -SIZE // 3, SIZE // 3 : -SIZE // 3].mean((1, 2))
    assert (middle[:, 0] > middle[:, 2] + 10).all()  # skin, and the order is RGB


def test_a_sequence_leaves_out_and_counts_frames_without_a_face(
    tmp_path: Path, frames: list[np.ndarray], config: FaceExtractionConfig
) -> None:
    write_video(tmp_path / 'video.mp4', frames[:2], frame_rate=10.0)
    write_images(tmp_path / 'folder', [frames[0], BLANK, frames[2]])
    write_images(tmp_path / 'nobody', [BLANK])
    paths = {'video': 'video.mp4', 'folder': 'folder', 'nobody': 'nobody'}
    samples = [
        FaceSample(
            recording=Sample(path=tmp_path / path, name=name, label='happiness', subject=name)
        )
        for name, path in paths.items()
    ]
    face_set = extract_faces(listed(*samples), config=config, out=tmp_path / 'set', workers=1)
    assert [(s.name, s.subject, s.frames, s.frame_rate) for s in face_set.sequences] == [
        ('video', 'video', 2, 10.0), ('folder', 'folder', 2, 30.0)
    ]
    assert face_set.left_out == ('nobody',) and face_set.frames_left_out == 2
    assert face_set.labels.tolist() == [1] * 4
    assert face_set.images.shape == (4, SIZE, SIZE, 3)
    check_crops(face_set)
    assert not (tmp_path / 'set.part').exists()


def test_frames_keep_their_own_labels_where_one_between_has_no_face(
    tmp_path: Path, frames: list[np.ndarray], config: FaceExtractionConfig
) -> None:
    write_images(tmp_path / 'clip', [frames[0], BLANK, frames[2], frames[3]])
    sample = FaceSample(
        recording=Sample(path=tmp_path / 'clip', name='clip'),
        images=('001.png', '002.png', '004.png'),
        labels=('neutral', 'neutral', 'happiness'),
        stills=True,
    )
    face_set = extract_faces(listed(sample), config=config, out=tmp_path / 'set', workers=1)
    assert face_set.labels.tolist() == [0, 1]
    assert face_set.sequences[0].frame_rate == 0.0 and face_set.sequences[0].label == ''
    check_crops(face_set)


def test_the_set_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, frames: list[np.ndarray], config: FaceExtractionConfig
) -> None:
    samples = []
    for number in range(3):
        # The first recording takes longest: the others wait for it.
        write_images(tmp_path / str(number), frames[: 4 - number])
        recording = Sample(path=tmp_path / str(number), name=str(number))
        samples.append(FaceSample(recording=recording))
    for workers in (1, 2):
        extract_faces(
            listed(*samples), config=config, out=tmp_path / f'set{workers}', workers=workers
        )
    for name in ('images.npy', 'landmarks.npy', 'labels.npy', 'face_set.json'):
        assert (tmp_path / 'set1' / name).read_bytes() == (tmp_path / 'set2' / name).read_bytes()


def test_an_interrupted_set_goes_on(
    tmp_path: Path, frames: list[np.ndarray], config: FaceExtractionConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = []
    for name in 'abc':
        write_images(tmp_path / name, frames[:2])
        samples.append(FaceSample(recording=Sample(path=tmp_path / name, name=name)))
    searched: list[np.ndarray] = []
    find = FaceFinder.find

    def counted(self: FaceFinder, grey: np.ndarray, previous: FacePlace | None) -> object:
        searched.append(grey)
        if interrupt_at is not None and len(searched) == interrupt_at:
            raise KeyboardInterrupt
        return find(self, grey, previous)

    monkeypatch.setattr(FaceFinder, 'find', counted)
    interrupt_at: int | None = 4  # in the second frame of b
    with pytest.raises(KeyboardInterrupt):
        extract_faces(listed(*samples), config=config, out=tmp_path / 'set', workers=1)
    assert not (tmp_path / 'set').exists()
    interrupt_at = None
    searched.clear()
    extract_faces(listed(*samples), config=config, out=tmp_path / 'set', workers=1)
    assert len(searched) == 4  # of b and c
    extract_faces(listed(*samples), config=config, out=tmp_path / 'whole', workers=1)
    for name in ('images.npy', 'landmarks.npy', 'face_set.json'):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ('set', 'whole'))
        assert one == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a', 'b', 'c', 'set', 'whole']


def test_changed_recordings_are_cut_anew(
    tmp_path: Path, frames: list[np.ndarray], config: FaceExtractionConfig
) -> None:
    samples = []
    for name in 'ab':
        write_images(tmp_path / name, frames[:1] if name == 'a' else [None])
        samples.append(FaceSample(recording=Sample(path=tmp_path / name, name=name)))
    for _ in range(2):
        with pytest.raises(ExtractionError, match=r'001\.png.*remove or replace'):
            extract_faces(listed(*samples), config=config, out=tmp_path / 'set', workers=1)
    write_images(tmp_path / 'a', frames[:3])
    write_images(tmp_path / 'b', frames[:1])
    face_set = extract_faces(listed(*samples), config=config, out=tmp_path / 'set', workers=1)
    assert [sequence.frames for sequence in face_set.sequences] == [3, 1]


def test_videos_that_lie_on_their_side_are_turned_where_that_is_asked_for(
    tmp_path: Path, frames: list[np.ndarray], config: FaceExtractionConfig
) -> None:
    write_images(tmp_path / 'lying', [np.rot90(BLANK), *(np.rot90(frame) for frame in frames[:2])])
    recording = Sample(path=tmp_path / 'lying', name='lying')
    turned = FaceSample(recording=recording, quarter_turns=(0, 1, 3))
    face_set = extract_faces(listed(turned), config=config, out=tmp_path / 'set', workers=1)
    assert face_set.sequences[0].frames == 2 and face_set.frames_left_out == 1
    check_crops(face_set)
    with pytest.raises(FaceSetError, match='no recording shows a face'):
        extract_faces(listed(FaceSample(recording=recording)), config=config,
                      out=tmp_path / 'none', workers=1)


def test_aligned_faces_are_their_own_boxes_where_none_is_found(
    tmp_path: Path, faces: list[np.ndarray], config: FaceExtractionConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_images(tmp_path / 'clip', faces)
    recording = Sample(path=tmp_path / 'clip', name='clip')
    monkeypatch.setattr(FaceFinder, 'place', lambda self, grey, previous: None)
    face_set = extract_faces(
        listed(FaceSample(recording=recording, aligned=True)), config=config,
        out=tmp_path / 'set', workers=1,
    )
    assert len(face_set.images) == 4
    check_crops(face_set)
    with pytest.raises(FaceSetError, match='no recording shows a face'):
        extract_faces(listed(FaceSample(recording=recording)), config=config,
                      out=tmp_path / 'none', workers=1)


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tiff', '.bmp'])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
def test_an_image_that_is_cut_off_names_itself(
    tmp_path: Path, config: FaceExtractionConfig, suffix: str, share: float
) -> None:
    path = tmp_path / f'face{suffix}'
    generator = np.random.default_rng(1)
    assert cv2.imwrite(str(path), generator.integers(0, 256, (150, 150, 3), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ExtractionError, match=f'face{suffix}'):
        extract_faces(listed(still_sample(path)), config=config, out=tmp_path / 'set', workers=1)


def test_a_wrong_label_is_told_before_anything_is_read(
    tmp_path: Path, config: FaceExtractionConfig
) -> None:
    sample = still_sample(tmp_path / 'missing.png', label='joy')
    with pytest.raises(ValueError, match="'joy' is not among the classes neutral, happiness"):
        extract_faces(listed(sample), config=config, out=tmp_path / 'set', workers=1)
    with pytest.raises(ExtractionError, match='nothing to cut faces from'):
        extract_faces(listed(), config=config, out=tmp_path / 'set', workers=1)
    with pytest.raises(ExtractionError, match=r'missing\.png cannot be read'):
        extract_faces(listed(still_sample(tmp_path / 'missing.png')), config=config,
                      out=tmp_path / 'set', workers=1)


# The command line.


def test_sfew_becomes_a_face_set_with_parts(
    tmp_path: Path, frames: list[np.ndarray], options: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_sfew(tmp_path / 'sfew', frames[0])
    write_images(tmp_path / 'sfew' / 'Train' / 'Sad', [BLANK], pattern='Nobody_{:09d}.png')
    assert run('prepare', 'sfew', tmp_path / 'sfew', '--out', tmp_path / 'out', *options) == 0
    face_set = read_face_set(tmp_path / 'out')
    parts = [sequence.part for sequence in face_set.sequences]
    assert (parts.count('train'), parts.count('val'), parts.count('test')) == (7, 7, 1)
    assert sorted(face_set.labels) == [-1, *sorted([*range(7), *range(7)])]
    assert face_set.left_out == ('train_Sad_Nobody_000000001',)
    assert all(sequence.frame_rate == 0 for sequence in face_set.sequences)
    assert face_set.crop == FaceCrop(size=SIZE) and '958' in face_set.published
    shown = capsys.readouterr()
    assert 'left out 1 frame without a face; recordings without any: 1, train_Sad' in shown.err
    assert '15 face images' in shown.out and 'the whole data set has 958' in shown.out
    assert run('prepare', 'sfew', tmp_path / 'sfew', '--out', tmp_path / 'out', *options) == 1
    assert 'is there already' in capsys.readouterr().err


def test_jaffe_becomes_a_face_set_of_stills(
    tmp_path: Path, frames: list[np.ndarray], options: tuple[str, ...]
) -> None:
    grey = cv2.cvtColor(frames[0], cv2.COLOR_BGR2GRAY)
    write_jaffe(tmp_path / 'jaffe', grey, subjects=('KA', 'YM'), takes=1)
    assert run('prepare', 'jaffe', tmp_path / 'jaffe', '--out', tmp_path / 'out', *options) == 0
    face_set = read_face_set(tmp_path / 'out')
    assert len(face_set.images) == 14 and face_set.classes[0] == 'neutral'
    assert [(s.subject, s.label) for s in face_set.sequences[:2]] == [
        ('KA', 'anger'), ('KA', 'disgust')
    ]
    assert (face_set.images[..., 0] == face_set.images[..., 1]).all()


def test_mmi_becomes_whole_sequences(
    tmp_path: Path, frames: list[np.ndarray], options: tuple[str, ...]
) -> None:
    write_mmi_session(tmp_path / 'mmi', 1, name='S001-101', emotion='4', images=frames[:3])
    lying = [np.ascontiguousarray(np.rot90(frame)) for frame in frames[:2]]
    write_mmi_session(tmp_path / 'mmi', 2, name='S002-101', emotion='6', images=lying)
    assert run('prepare', 'mmi', tmp_path / 'mmi', '--out', tmp_path / 'out', *options) == 0
    face_set = read_face_set(tmp_path / 'out')
    assert [(s.name, s.subject, s.label, s.frames, s.frame_rate) for s in face_set.sequences] == [
        ('S001-101', 'S001', 'happiness', 3, 25.0), ('S002-101', 'S002', 'surprise', 2, 25.0)
    ]
    check_crops(face_set)


def test_affwild2_keeps_a_label_for_each_frame(
    tmp_path: Path, faces: list[np.ndarray], options: tuple[str, ...]
) -> None:
    root = tmp_path / 'root'
    write_affwild2_video(root, 'one', [4, -1, 0, 4], faces)
    write_affwild2_video(root, 'two', [0, 0], faces[:2], part='Validation_Set')
    assert run('prepare', 'affwild2', root, '--out', tmp_path / 'out', *options) == 0
    face_set = read_face_set(tmp_path / 'out')
    assert face_set.labels.tolist() == [4, 0, 4, 0, 0]
    assert [(s.part, s.label, s.frame_rate) for s in face_set.sequences] == [
        ('train', '', 30.0), ('val', '', 30.0)
    ]
    check_crops(face_set)


def test_ckplus_becomes_whole_sequences_or_stills(
    tmp_path: Path, frames: list[np.ndarray], options: tuple[str, ...]
) -> None:
    root = tmp_path / 'ck'
    write_ckplus_sequence(root, 'S005', '001', 'happiness', [*frames, frames[3]])
    write_ckplus_sequence(root, 'S010', '001', 'contempt', frames[:2])
    arguments: tuple[str | Path, ...] = ('ckplus', root, '--faces', *options)
    assert run('prepare', *arguments, '--out', tmp_path / 'whole') == 0
    whole = read_face_set(tmp_path / 'whole')
    assert [(s.subject, s.label, s.frames, s.frame_rate) for s in whole.sequences] == [
        ('S005', 'happiness', 5, 30.0), ('S010', 'contempt', 2, 30.0)
    ]
    assert run('prepare', *arguments, '--stills', '--out', tmp_path / 'stills') == 0
    stills = read_face_set(tmp_path / 'stills')
    shown = [stills.classes[label] for label in stills.labels]
    assert shown == ['neutral'] + ['happiness'] * 3 + ['neutral', 'contempt']
    assert len(stills.classes) == 8
    few = ('--stills', '--last-frames', '1', '--out', tmp_path / 'few')
    assert run('prepare', *arguments, *few) == 0
    assert len(read_face_set(tmp_path / 'few').images) == 4


def test_casia_and_afew_have_faces_too(
    tmp_path: Path, frames: list[np.ndarray], options: tuple[str, ...]
) -> None:
    write_images(tmp_path / 'casia' / 'VL' / 'Strong' / 'P001' / 'Anger', frames[:2])
    assert run('prepare', 'casia', tmp_path / 'casia', '--faces', '--out', tmp_path / 'c',
               *options) == 0
    assert [s.label for s in read_face_set(tmp_path / 'c').sequences] == ['anger']
    for part, name in (('Train', 'Happy'), ('Val', 'Sad')):
        write_video(tmp_path / 'afew' / part / name / '1.avi', frames[:2])
    assert run('prepare', 'afew', tmp_path / 'afew', '--faces', '--out', tmp_path / 'a',
               *options) == 0
    afew = read_face_set(tmp_path / 'a')
    assert [(s.part, s.label) for s in afew.sequences] == [
        ('train', 'happiness'), ('val', 'sadness')
    ]
    assert '773' in afew.published and '383' in afew.published


def test_own_recordings_become_a_face_set(
    tmp_path: Path, frames: list[np.ndarray], options: tuple[str, ...]
) -> None:
    write_video(tmp_path / 'tree' / 'happiness' / 'anna' / '1.mp4', frames[:2])
    write_images(tmp_path / 'tree' / 'nod' / 'ben' / '1', frames[:1])
    arguments: tuple[str | Path, ...] = (tmp_path / 'tree', '--faces', *options)
    layout = ('--layout', '{label}/{subject}/*', '--out', tmp_path / 'own')
    assert run('extract', *arguments, *layout) == 0
    own = read_face_set(tmp_path / 'own')
    assert own.classes == ('happiness', 'nod') and own.data_set == 'own'
    assert [(s.subject, s.label) for s in own.sequences] == [('anna', 'happiness'), ('ben', 'nod')]
    assert run('extract', *arguments, '--out', tmp_path / 'unlabelled') == 0
    unlabelled = read_face_set(tmp_path / 'unlabelled')
    assert unlabelled.classes == () and (unlabelled.labels == -1).all()


def test_bad_input_gives_one_line(
    tmp_path: Path, frames: list[np.ndarray], options: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = tmp_path / 'empty'
    empty.mkdir()
    truncated = tmp_path / 'truncated'
    write_jaffe(truncated, frames[0], subjects=('KA',), takes=1)
    image = truncated / 'KA.AN1.1.tiff'
    image.write_bytes(image.read_bytes()[:500])
    text = tmp_path / 'text'
    write_jaffe(text, None, subjects=('KA',), takes=1)
    (text / 'KA.AN1.1.tiff').write_text('no image')
    ckplus = tmp_path / 'ck'
    write_ckplus_sequence(ckplus, 'S005', '001', 'fear', frames[:2])
    video = tmp_path / 'mmi'
    write_mmi_session(video, 1, name='S001-101', emotion='1')
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        (('prepare', 'sfew', tmp_path / 'missing'), 'no folder: give the root of SFEW'),
        (('prepare', 'sfew', empty), 'not laid out as SFEW'),
        (('prepare', 'jaffe', empty), 'no images such as KA'),
        (('prepare', 'mmi', empty), 'no video of one of the six expressions'),
        (('prepare', 'affwild2', empty), 'not laid out as Aff-Wild2'),
        (('prepare', 'jaffe', truncated), r'KA\.AN1\.1\.tiff.*remove or replace'),
        (('prepare', 'jaffe', text), r'KA\.AN1\.1\.tiff.*remove or replace'),
        (('prepare', 'mmi', video), r'S001-101\.avi.*no video'),
        (('prepare', 'jaffe', text, '--size', '4'), 'size must be 8 to'),
        (('prepare', 'jaffe', text, '--margin', '-1'), 'margin must be 0 to 1'),
        (('prepare', 'jaffe', text, '--landmark-model', 'no.dat'), 'no landmark model'),
        (('prepare', 'ckplus', ckplus, '--faces', '--folds', '3'), '--folds is of landmark clips'),
        (('prepare', 'ckplus', ckplus, '--faces', '--last-frames', '2'),
         '--last-frames is of landmark clips'),
        (('prepare', 'ckplus', ckplus, '--faces', '--neutral'), '--neutral is of landmark clips'),
        (('prepare', 'ckplus', ckplus, '--stills', '--size', '256'), '--stills is of face images'),
        (('prepare', 'ckplus', ckplus), '--size is of face images: add --faces'),
        (('extract', ckplus, '--faces', '--openface', 'x.csv'), 'either sources'),
        (('extract', '--faces', '--openface', 'x.csv'), 'hold no images'),
        (('extract', text, '--faces'), r'KA\.AN1\.1\.tiff.*remove or replace'),
    ]
    for (command, *arguments), message in cases:
        # The given arguments come last, so that they count where the options name the same.
        given = [*options, *arguments] if command == 'extract' else [
            arguments[0], *options, *arguments[1:]
        ]
        assert run(str(command), *given, '--out', tmp_path / 'out') == 1, message
        lines = [
            line for line in capsys.readouterr().err.splitlines()
            if line.startswith(f'fer_train {command}: ')
        ]
        assert len(lines) == 1 and re.search(message, lines[0]), (message, lines)
        assert not (tmp_path / 'out').exists()
        shutil.rmtree(tmp_path / 'out.part', ignore_errors=True)
