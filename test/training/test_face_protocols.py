# SPDX-License-Identifier: Apache-2.0
"""Data sets of face images are listed from the layouts in which they are distributed."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from data_sets_made import (
    write_ckplus_sequence,
    write_images,
    write_whole_casia,
    write_whole_ckplus,
)
from face_sets_made import (
    JAFFE_SUBJECTS,
    SFEW_FOLDERS,
    write_affwild2_video,
    write_jaffe,
    write_mmi_session,
    write_sfew,
)

from fer_training.face_samples import FaceSample
from fer_training.protocols.affwild2 import list_affwild2
from fer_training.protocols.casia import list_casia
from fer_training.protocols.ckplus import list_ckplus
from fer_training.protocols.face_listing import (
    FaceListing,
    first_and_last_stills,
    own_recordings,
    whole_recordings,
)
from fer_training.protocols.jaffe import list_jaffe
from fer_training.protocols.listing import LayoutError
from fer_training.protocols.mmi import list_mmi
from fer_training.protocols.sfew import list_sfew
from fer_training.samples import Sample

SEVEN = ('neutral', 'anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise')


def labels_of(listing: FaceListing) -> Counter[str]:
    return Counter(sample.recording.label for sample in listing.samples)


# SFEW.


def test_sfew_has_labelled_parts_and_an_unlabelled_test(tmp_path: Path) -> None:
    write_sfew(tmp_path, None, each=2)
    (tmp_path / 'Train' / 'Train_Aligned_Faces' / 'Angry').mkdir(parents=True)
    (tmp_path / 'Train' / 'LPQ_PHOG').mkdir()  # prepared features, no images
    listing = list_sfew(tmp_path)
    parts = Counter(sample.part for sample in listing.samples)
    assert parts == {'train': 14, 'val': 14, 'test': 2}
    assert listing.classes == SEVEN
    assert labels_of(listing) == dict.fromkeys(SEVEN, 4) | {'': 2}
    assert all(s.stills and s.is_image and not s.aligned for s in listing.samples)
    told = {s.recording.path.parent.name: s.recording.label for s in listing.samples}
    assert (told['Angry'], told['Happy'], told['Sad']) == ('anger', 'happiness', 'sadness')
    names = [sample.recording.name for sample in listing.samples]
    assert len(set(names)) == len(names)  # although the files of all classes have one name
    assert 'train 14, val 14, test 2' in listing.summary and '958' in listing.summary
    assert 'unlabelled 2' in listing.summary


@pytest.mark.parametrize('folders', [
    ('Train/Train_Aligned_Faces', 'Val/Val_Aligned_Faces', 'Test/Test_Aligned_Faces'),
    ('Train_Aligned_Faces', 'Val_Aligned_Faces_new/Val_Aligned_Faces', 'Test_Aligned_Faces'),
    ('Train_Aligned_Faces', 'Val/Val_Aligned_Faces_new'),
])
def test_aligned_faces_of_sfew_are_asked_for(tmp_path: Path, folders: tuple[str, ...]) -> None:
    write_sfew(tmp_path, None, folders=folders)
    samples = list_sfew(tmp_path, aligned=True).samples
    assert Counter(s.part for s in samples) == Counter(
        train=7, val=7, **({'test': 1} if len(folders) == 3 else {})
    )
    assert all(sample.aligned for sample in samples)
    with pytest.raises(LayoutError, match=r'SFEW 2\.0'):
        list_sfew(tmp_path)


def test_sfew_laid_out_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match='no folder: give the root'):
        list_sfew(tmp_path / 'missing')
    with pytest.raises(LayoutError, match='none of the folders Train'):
        list_sfew(tmp_path)
    for name in SFEW_FOLDERS:
        (tmp_path / 'Train' / name).mkdir(parents=True)
    with pytest.raises(LayoutError, match='no images such as Angry'):
        list_sfew(tmp_path)
    write_images(tmp_path / 'Train' / 'Smile', [None])
    with pytest.raises(LayoutError, match='Smile is not laid out as SFEW.*named after'):
        list_sfew(tmp_path)
    shutil.rmtree(tmp_path / 'Train' / 'Smile')
    write_images(tmp_path / 'Train' / 'Angry', [None])
    with pytest.raises(LayoutError, match='none of the folders Val'):
        list_sfew(tmp_path)


# JAFFE.


@pytest.mark.parametrize('folder', ['.', 'jaffe', 'jaffedbase'])
def test_jaffe_is_named_after_subject_and_expression(tmp_path: Path, folder: str) -> None:
    write_jaffe(tmp_path / folder, None)
    listing = list_jaffe(tmp_path)
    assert labels_of(listing) == dict.fromkeys(SEVEN, 30)
    assert {sample.recording.subject for sample in listing.samples} == set(JAFFE_SUBJECTS)
    told = {s.recording.path.name: (s.recording.subject, s.recording.label)
            for s in listing.samples}
    assert told['KA.AN1.1.tiff'] == ('KA', 'anger')
    assert told['YM.SU3.210.tiff'] == ('YM', 'surprise')
    assert all(sample.stills and sample.is_image for sample in listing.samples)


@pytest.mark.parametrize('name', ['face.tiff', 'KA.XX1.39.tiff', 'KA.AN1.tiff', 'ka.an1.39.tiff'])
def test_an_image_that_jaffe_does_not_have_names_itself(tmp_path: Path, name: str) -> None:
    write_jaffe(tmp_path, None, subjects=('KA',))
    (tmp_path / name).touch()
    with pytest.raises(LayoutError, match=f'{name} is not named as JAFFE'):
        list_jaffe(tmp_path)


def test_jaffe_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match='no images such as KA'):
        list_jaffe(tmp_path)
    with pytest.raises(LayoutError, match='no folder'):
        list_jaffe(tmp_path / 'missing')


# MMI.


def test_mmi_keeps_the_six_expressions_seen_from_the_front(tmp_path: Path) -> None:
    write_mmi_session(tmp_path, 1, name='S001-101', emotion='1')
    write_mmi_session(tmp_path, 2, name='S001-105', emotion='6', view='2')
    write_mmi_session(tmp_path, 10, name='S002-102', emotion='4')
    write_mmi_session(tmp_path, 11, name='S002-103', emotion='9')  # none of the six
    write_mmi_session(tmp_path, 12, name='S002-104', emotion=None)  # action units only
    write_mmi_session(tmp_path, 13, name='S003-101', emotion='2', view='1')  # in profile
    write_images(tmp_path / 'Sessions' / '14', [None], pattern='S053-{:03d}.jpg')  # stills
    listing = list_mmi(tmp_path)
    told = [(s.recording.name, s.recording.subject, s.recording.label) for s in listing.samples]
    assert told == [
        ('S001-101', 'S001', 'anger'), ('S001-105', 'S001', 'surprise'),
        ('S002-102', 'S002', 'happiness'),
    ]
    assert listing.classes == ('anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise')
    assert all(s.quarter_turns[0] == 0 and not s.stills for s in listing.samples)
    assert [s.recording.name for s in list_mmi(tmp_path / 'Sessions').samples] == [
        name for name, _, _ in told
    ]


def test_an_element_of_another_name_and_space_tells_the_expression_too(tmp_path: Path) -> None:
    write_mmi_session(tmp_path, 1, name='S001-101', emotion='1')
    file = tmp_path / 'Sessions' / '1' / 'S001-101.xml'
    file.write_text('<a xmlns="urn:b"><Metadata Name="Emotion" Value="5"/></a>')
    assert list_mmi(tmp_path).samples[0].recording.label == 'sadness'


@pytest.mark.parametrize('content', [
    '', '<a', '\x00', '<?xml version="1.0" encoding="no-such"?><a/>',
    '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', '<a>' + ' ' * (1 << 20) + '</a>',
])
@pytest.mark.parametrize('name', ['S001-101.xml', 'session.xml'])
def test_a_damaged_description_of_mmi_names_itself(
    tmp_path: Path, name: str, content: str
) -> None:
    write_mmi_session(tmp_path, 1, name='S001-101', emotion='1')
    (tmp_path / 'Sessions' / '1' / name).write_text(content)
    with pytest.raises(LayoutError, match=f'{name} is no description of a session'):
        list_mmi(tmp_path)


def test_mmi_laid_out_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match='no video of one of the six'):
        list_mmi(tmp_path)
    write_mmi_session(tmp_path, 1, name='anna', emotion='1')
    with pytest.raises(LayoutError, match=r'anna\.avi is not named'):
        list_mmi(tmp_path)


# Aff-Wild2.


def write_both_parts(root: Path) -> None:
    write_affwild2_video(root, 'video10', [0, 4, -1, 6, 4], [None] * 5, missing=[5])
    write_affwild2_video(root, 'video2_left', [1, 1], [None] * 3)  # an image beyond the labels
    write_affwild2_video(root, 'video3', [-1, -1], [None] * 2)  # without any label
    write_affwild2_video(root, 'val1', [3, 2], [None] * 2, part='Validation_Set')


def test_affwild2_keeps_frames_with_both_a_label_and_a_face(tmp_path: Path) -> None:
    write_both_parts(tmp_path)
    (tmp_path / 'cropped_aligned' / 'video10' / '.DS_Store').touch()
    write_affwild2_video(tmp_path, 'absent', [0], [None])
    shutil.rmtree(tmp_path / 'cropped_aligned' / 'absent')
    listing = list_affwild2(tmp_path)
    told = {s.recording.name: (s.part, s.images, s.labels) for s in listing.samples}
    assert told == {
        'video10': ('train', ('00001.jpg', '00002.jpg', '00004.jpg'),
                    ('neutral', 'happiness', 'surprise')),
        'video2_left': ('train', ('00001.jpg', '00002.jpg'), ('anger', 'anger')),
        'val1': ('val', ('00001.jpg', '00002.jpg'), ('fear', 'disgust')),
    }
    assert listing.classes == SEVEN
    assert all(s.aligned and not s.stills and not s.recording.label for s in listing.samples)
    assert 'anger 2' in listing.summary and 'train 2, val 1' in listing.summary


def test_variants_of_affwild2_are_found(tmp_path: Path) -> None:
    write_both_parts(tmp_path)
    labels = tmp_path / 'annotations' / 'EXPR_Set'
    (labels / 'Train_Set').rename(labels / 'Training_Set')
    labels.rename(tmp_path / 'EXPR_Set')
    (tmp_path / 'cropped_aligned').rename(tmp_path / 'batch1')
    (tmp_path / 'cropped_aligned_images').mkdir()
    (tmp_path / 'batch1').rename(tmp_path / 'cropped_aligned_images' / 'batch1')
    assert len(list_affwild2(tmp_path).samples) == 3


def test_the_header_tells_the_classes_and_other_is_left_out(tmp_path: Path) -> None:
    write_both_parts(tmp_path)
    write_affwild2_video(
        tmp_path, 'eight', [7, 0, 1], [None] * 3,
        header='Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\r',
    )
    sample, = (s for s in list_affwild2(tmp_path).samples if s.recording.name == 'eight')
    assert sample.images == ('00002.jpg', '00003.jpg') and sample.labels == ('neutral', 'anger')


@pytest.mark.parametrize(('content', 'message'), [
    ('', 'must name the classes'),
    ('0\n1\n', 'must name the classes'),
    ('Neutral,Anger\n0\n', 'must name the classes'),
    ('valence,arousal\n0.1,0.2\n', 'must name the classes'),
    ('Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise\n0\n7\n', "line 3: .*not '7'"),
    ('Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise\n\n0\n', 'line 2'),
    ('Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise\n0.5\n', 'line 2'),
    ('Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise\n' + '9' * 9999, 'line 2'),
    (b'\xff\xfe\x00', 'no label file'),
])
def test_a_wrong_label_file_names_itself(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    write_both_parts(tmp_path)
    file = tmp_path / 'annotations' / 'EXPR_Set' / 'Train_Set' / 'video10.txt'
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LayoutError, match=rf'video10\.txt.*{message}') as told:
        list_affwild2(tmp_path)
    assert len(str(told.value)) < 400


def test_affwild2_laid_out_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match='cropped_aligned'):
        list_affwild2(tmp_path)
    (tmp_path / 'cropped_aligned').mkdir()
    with pytest.raises(LayoutError, match='annotations/EXPR_Set'):
        list_affwild2(tmp_path)
    write_affwild2_video(tmp_path, 'video1', [0], [None])
    with pytest.raises(LayoutError, match='Validation_Set'):
        list_affwild2(tmp_path)
    write_affwild2_video(tmp_path, 'val1', [0], [None], part='Validation_Set', missing=[1])
    with pytest.raises(LayoutError, match='none of the 1 label files in .*Validation_Set'):
        list_affwild2(tmp_path)


# Frames of CK+ and Oulu-CASIA.


def test_ckplus_becomes_1308_stills_of_eight_classes(tmp_path: Path) -> None:
    write_whole_ckplus(tmp_path)
    for folder in (tmp_path / 'cohn-kanade-images').glob('*/*'):
        name = f'{folder.parent.name}_{folder.name}'
        write_images(folder, [None] * 6, pattern=name + '_{:08d}.png')
    listing = first_and_last_stills(list_ckplus(tmp_path))
    counts = Counter(label for sample in listing.samples for label in sample.labels)
    assert counts.total() == 1308
    assert counts['neutral'] == 327 and counts['contempt'] == 3 * 18
    assert listing.classes == (*SEVEN, 'contempt')
    first = listing.samples[0]
    assert [name[-6:-4] for name in first.images] == ['01', '04', '05', '06']
    assert first.stills and first.labels[0] == 'neutral' and len(set(first.labels[1:])) == 1
    assert len({sample.recording.subject for sample in listing.samples}) == 118
    assert 'neutral 327' in listing.summary


def test_short_sequences_give_each_image_once(tmp_path: Path) -> None:
    write_ckplus_sequence(tmp_path, 'S005', '001', 'fear', [None] * 3)
    sample, = first_and_last_stills(list_ckplus(tmp_path)).samples
    assert sample.labels == ('neutral', 'fear', 'fear') and len(set(sample.images)) == 3
    sample, = first_and_last_stills(list_ckplus(tmp_path), last=1).samples
    assert sample.labels == ('neutral', 'fear') and sample.images[1].endswith('3.png')
    write_ckplus_sequence(tmp_path, 'S005', '002', 'fear', [None])
    with pytest.raises(LayoutError, match=r'002 has 1 image'):
        first_and_last_stills(list_ckplus(tmp_path))


def test_whole_sequences_keep_classes_subjects_and_labels(tmp_path: Path) -> None:
    write_whole_casia(tmp_path)
    listing = whole_recordings(list_casia(tmp_path))
    assert len(listing.samples) == 480 and listing.classes == list_casia(tmp_path).classes
    assert all(not s.images and not s.labels and not s.stills for s in listing.samples)
    assert len({sample.recording.subject for sample in listing.samples}) == 80


# One's own.


def test_own_recordings_have_different_names(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ('a/b/x.mp4', 'a/c/x.mp4', 'd/b/y.mp4')]
    samples = [Sample(path=path, label=label)
               for path, label in zip(paths, ('nod', 'fear', ''), strict=True)]
    listing = own_recordings(samples, data_set='own', frame_rate=25.0)
    assert [s.recording.name for s in listing.samples] == ['b/x.mp4', 'c/x.mp4', 'b/y.mp4']
    assert listing.classes == ('fear', 'nod')
    assert listing.summary == 'own: 3 recordings (fear 1, nod 1, unlabelled 1)'


def test_labels_belong_to_images(tmp_path: Path) -> None:
    recording = Sample(path=tmp_path)
    with pytest.raises(ValueError, match='2 labels for 1 images'):
        FaceSample(recording=recording, images=('a.png',), labels=('fear', 'fear'))
    with pytest.raises(ValueError, match="the label 'fear' for all"):
        FaceSample(recording=Sample(path=tmp_path, label='fear'), images=('a.png',),
                   labels=('fear',))
    with pytest.raises(ValueError, match='a way to be turned'):
        FaceSample(recording=recording, quarter_turns=())
