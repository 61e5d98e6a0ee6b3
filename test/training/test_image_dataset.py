# SPDX-License-Identifier: Apache-2.0
"""Items are chosen in order, and landmarks go wherever an augmentation takes the image."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from clip_faces_made import Piece, cut_clip, write_clip_faces
from face_sets_made import MadeSequence, write_face_set
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.faces.crop import FaceCrop, ImageNormalization
from fer_perception.graph.landmarks import MIRROR
from fer_training.dataset import IGNORED
from fer_training.face_sets import FaceSequence, FaceSet
from fer_training.image_dataset import (
    FaceImages,
    FaceView,
    ImageAugmentation,
    centred_items,
    class_indices,
    spread_items,
    window_items,
)

PLAIN = ImageNormalization(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
EVERYTHING = ImageAugmentation(
    mirror=True, random_crop=True, illumination=0.3, rotation=15.0, shear=0.1, translation=0.05
)


def sequence(start: int, stop: int, *, frame_rate: float = 25.0) -> FaceSequence:
    """Name frames of somebody."""
    return FaceSequence(name=f's{start}', subject='a', part='', label='', start=start, stop=stop,
                        frame_rate=frame_rate)


def small_set(folder: Path) -> FaceSet:
    """Write a set of two labelled sequences and one without labels."""
    return write_face_set(
        folder / 'set',
        [
            MadeSequence(labels=('neutral',) * 5, label='neutral', subject='a'),
            MadeSequence(labels=('happiness',) * 3, label='happiness', subject='b'),
            MadeSequence(labels=('',) * 4, subject='c'),
        ],
    )


@given(count=st.integers(1, 60), frames=st.integers(1, 20))
def test_spread_frames_go_from_first_to_last_in_order(count: int, frames: int) -> None:
    labels = np.zeros(count, np.int64)
    items = spread_items([sequence(0, count)], labels, frames=frames)
    (row,) = items.frames
    assert row.shape == (frames,) and row[0] == 0 and (np.diff(row) >= 0).all()
    if frames > 1:
        assert row[-1] == count - 1
        assert set(np.diff(row)) <= {(count - 1) // (frames - 1), -(-(count - 1) // (frames - 1))}


@given(count=st.integers(1, 40), frames=st.sampled_from([3, 5, 9]), step=st.integers(1, 9))
def test_windows_have_every_labelled_frame_and_its_own_label(
    count: int, frames: int, step: int
) -> None:
    labels = np.arange(100, 100 + count + 7) % 3 - 1  # some unknown
    one = sequence(7, 7 + count)
    step = min(step, frames)
    if (labels[7:7 + count] < 0).all():
        with pytest.raises(ValueError, match='no frame of any sequence has a class'):
            window_items([one], labels, frames=frames, step=step)
        return
    items = window_items([one], labels, frames=frames, step=step)
    known = items.targets != IGNORED
    np.testing.assert_array_equal(items.targets[known], labels[items.frames[known]])
    expected = {frame for frame in range(7, 7 + count) if labels[frame] >= 0}
    assert set(items.frames[known].tolist()) == expected
    for row, own in zip(items.frames, known, strict=True):
        assert (row >= 7).all() and (row < 7 + count).all()
        assert set(np.diff(row)) <= {0, 1}
        assert len(set(row[own].tolist())) == own.sum()  # a repeated frame teaches once


@given(count=st.integers(1, 30), frames=st.sampled_from([1, 5, 9]))
def test_centred_windows_answer_for_their_middle(count: int, frames: int) -> None:
    labels = np.arange(count) % 2
    items = centred_items([sequence(0, count)], labels, frames=frames)
    np.testing.assert_array_equal(items.frames[:, frames // 2], np.arange(count))
    np.testing.assert_array_equal(items.targets, labels)
    assert items.frames.min() == 0 and items.frames.max() == count - 1


def test_stills_make_no_sequences() -> None:
    stills = [sequence(0, 4, frame_rate=0.0)]
    labels = np.zeros(4, np.int64)
    assert len(centred_items(stills, labels, frames=1)) == 4
    with pytest.raises(ValueError, match='s0 has no frame rate'):
        spread_items(stills, labels, frames=16)
    with pytest.raises(ValueError, match='s0 has no frame rate'):
        window_items(stills, labels, frames=9, step=4)


@pytest.mark.parametrize('seed', range(12))
def test_landmarks_move_with_the_image(tmp_path: Path, seed: int) -> None:
    """A disc is drawn at one landmark; it is found where the moved landmark says."""
    whole, size = 96, 84
    random = np.random.default_rng(seed)
    landmarks = random.uniform(0.3, 0.7, (68, 2)).astype(np.float32)
    drawn = 40  # of the right eye, which a mirror makes another
    crop = np.zeros((whole, whole, 3), np.uint8)
    centre = landmarks[drawn] * whole - 0.5
    cv2.circle(crop, [round(float(v) * 16) for v in centre], 4 * 16, (200, 200, 200), -1,
               cv2.LINE_AA, 4)
    view = FaceView.draw(EVERYTHING, whole, size, np.random.default_rng(seed))
    image = view.show(crop)[..., 0].astype(float)
    image = np.maximum(image - np.median(image) - 20, 0)
    y, x = (np.array(axis) for axis in np.mgrid[:size, :size])
    found = np.array([(image * x).sum(), (image * y).sum()]) / image.sum()
    moved = view.move(landmarks)
    told = moved[MIRROR[drawn] if view.mirrored else drawn] * size - 0.5
    np.testing.assert_allclose(found, told, atol=0.25)


def test_views_differ_and_are_the_same_for_the_same_draws() -> None:
    views = [FaceView.draw(EVERYTHING, 96, 84, np.random.default_rng(seed)) for seed in range(40)]
    again = FaceView.draw(EVERYTHING, 96, 84, np.random.default_rng(0))
    np.testing.assert_array_equal(views[0].matrix, again.matrix)
    assert len({view.matrix.tobytes() for view in views}) == len(views)
    assert 5 < sum(view.mirrored for view in views) < 35


def test_all_frames_of_an_item_are_varied_alike(tmp_path: Path) -> None:
    faces = small_set(tmp_path)
    images = FaceImages.of(faces, FaceCrop(size=32), PLAIN)
    frames = np.array([[0, 0, 1], [0, 0, 1]])
    batch = images.read(
        frames, augmentation=EVERYTHING, generator=np.random.default_rng(1)
    )
    assert batch.images.shape == (2, 3, 3, 32, 32) and batch.landmarks.shape == (2, 3, 68, 2)
    np.testing.assert_array_equal(batch.images[:, 0], batch.images[:, 1])
    assert not np.array_equal(batch.images[0], batch.images[1])


def test_without_augmentation_the_middle_is_seen_as_the_crop_of_the_model_shows_it(
    sample_clip: Path, landmark_model_path: Path, tmp_path: Path
) -> None:
    """The smaller crop that the model's description names is the middle of the set's."""
    large, small = FaceCrop(size=256), FaceCrop(size=112, margin=0.06875)
    copy = cut_clip(sample_clip, landmark_model_path, crop=large, frames=1)
    direct = cut_clip(sample_clip, landmark_model_path, crop=small, frames=1)
    piece = Piece(copy=0, frames=(0,), label='neutral', subject='he')
    faces = write_clip_faces(tmp_path / 'faces', [copy], [piece], crop=large)
    batch = FaceImages.of(faces, small, PLAIN).read(np.array([[0]]))
    np.testing.assert_allclose(batch.landmarks[0, 0], direct.landmarks[0], atol=0.005)
    difference = batch.images[0, 0].numpy() - np.moveaxis(direct.images[0] / 255.0, -1, 0)
    assert np.abs(difference).mean() < 0.02


def test_a_set_that_was_cut_closer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='prepare the set with that margin'):
        FaceImages.of(small_set(tmp_path), FaceCrop(size=32, margin=0.5), PLAIN)


def test_labels_become_classes_and_may_be_dropped(tmp_path: Path) -> None:
    faces = small_set(tmp_path)
    expected = [1] * 5 + [0] * 3 + [-1] * 4
    np.testing.assert_array_equal(class_indices(faces, ('happiness', 'neutral')), expected)
    dropped = class_indices(faces, ('neutral',), {'happiness': ''})
    np.testing.assert_array_equal(dropped, [0] * 5 + [-1] * 7)
    named = class_indices(faces, ('joy', 'neutral'), {'happiness': 'joy'})
    np.testing.assert_array_equal(named, expected[:5] + [0] * 3 + [-1] * 4)


@pytest.mark.parametrize(
    ('classes', 'mapping', 'message'),
    [
        (('neutral',), {}, 'labels that the model lacks: happiness'),
        (('neutral', 'happiness'), {'contempt': ''}, 'lacks: contempt'),
        (('neutral',), {'happiness': 'joy'}, 'classes that the model lacks: happiness=joy'),
        (('neutral',), {'neutral': '', 'happiness': ''}, 'drops every label'),
    ],
)
def test_labels_that_do_not_fit_are_named(
    tmp_path: Path, classes: tuple[str, ...], mapping: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        class_indices(small_set(tmp_path), classes, mapping)


def test_a_set_without_labels_teaches_nothing(tmp_path: Path) -> None:
    faces = write_face_set(tmp_path / 'set', [MadeSequence(labels=('',) * 4)])
    with pytest.raises(ValueError, match='made has no labels'):
        class_indices(faces, ('neutral',))


@pytest.mark.parametrize(
    'changes', [{'illumination': -0.1}, {'rotation': 200.0}, {'shear': 2.0}, {'translation': -1.0}]
)
def test_augmentations_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        ImageAugmentation(**changes)  # type: ignore[arg-type]
