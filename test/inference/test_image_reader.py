# SPDX-License-Identifier: Apache-2.0
"""Images of tracked faces become samples: a stream answers what the whole sequence would."""

import numpy as np
import pytest
import torch
from faces_made import face_landmarks
from image_models_made import SMALL, exact_reader, small_image_model

from fer_perception.inference.face_reader import FaceReading
from fer_perception.inference.image_reader import ImageReader
from fer_perception.inference.recognizer import ExpressionRecognizer
from fer_perception.models.image_model_file import LoadedImageModel
from fer_perception.uncertainty.estimate import DecisionRule, ExpressionState

LANDMARKS = face_landmarks(frames=1, movement=0.0)[0] + (150.0, 120.0)
ELSEWHERE = LANDMARKS + (40.0, 10.0)
FRAMES = 9


def images(count: int = FRAMES) -> np.ndarray:
    """Make images (count, 240, 320, 3) of large patches."""
    noise = np.random.default_rng(3).integers(0, 256, (count, 12, 16, 3), np.uint8)
    return noise.repeat(20, 1).repeat(20, 2)


def of_clip(model: LoadedImageModel, pictures: np.ndarray, *, mirrored: bool) -> np.ndarray:
    """Answer for a sequence of whole pictures at once, dropout off: (C,) probabilities."""
    description = model.description
    crops = np.stack(
        [
            description.normalization.numbers(
                description.normalization.pixels(description.crop.cut(picture, LANDMARKS)[0])
            )
            for picture in pictures
        ]
    )
    tensor = torch.from_numpy(crops)[None]  # (1, T, 3, H, W)
    with torch.inference_mode():
        logits = model.network(tensor.flip(-1) if mirrored else tensor)
        return model.network.probabilities(logits)[0].numpy()


def mean_of(reading: FaceReading) -> np.ndarray:
    assert reading.weights is not None
    return np.asarray(reading.weights @ reading.samples)


@pytest.mark.parametrize('architecture', SMALL)
@pytest.mark.parametrize('views', [1, 2])
def test_a_stream_answers_what_the_last_frames_answer_together(
    architecture: str, views: int
) -> None:
    model = small_image_model(architecture, dropout=0.0)
    reader = exact_reader(model, views=views)
    pictures, frames = images(), model.network.frames
    for index, picture in enumerate(pictures):
        (reading,) = reader.update({'a': LANDMARKS}, index / 10, image=picture)['a']
        first = max(index + 1 - frames, 0)
        window = pictures[first : index + 1]
        window = np.concatenate([window[:1]] * (frames - len(window)) + [window])
        expected = np.mean(
            [of_clip(model, window, mirrored=mirrored) for mirrored in (False, True)[:views]], 0
        )
        np.testing.assert_allclose(mean_of(reading), expected, atol=1e-5)
        assert reading.samples.shape == (views * len(model.network.members), 7)
        assert reading.weights is not None and np.isclose(reading.weights.sum(), 1.0)
        np.testing.assert_allclose(reading.samples.sum(-1), 1.0, atol=1e-5)


@pytest.mark.parametrize('architecture', SMALL)
def test_bf16_answers_nearly_the_same_and_auto_only_takes_it_then(architecture: str) -> None:
    model = small_image_model(architecture, dropout=0.0)
    answers = {}
    for precision in ('fp32', 'bf16', 'auto'):
        reader = ImageReader(model, device='cpu', precision=precision)
        (reading,) = reader.update({'a': LANDMARKS}, 0.0, image=images(1)[0])['a']
        answers[precision] = mean_of(reading)
        assert precision == 'auto' or precision in reader.description
    assert 0.0 < np.abs(answers['bf16'] - answers['fp32']).max() < 0.2
    assert np.abs(answers['auto'] - answers['fp32']).max() < 0.1


def test_a_fast_camera_is_read_at_the_rate_of_the_model_and_a_slow_one_fills_it_up() -> None:
    model = small_image_model('fer_gcn')
    pictures = images(2)
    fast = exact_reader(model)
    answered = [
        index
        for index in range(12)
        if fast.update({'a': LANDMARKS}, index / 40, image=pictures[0])
    ]
    assert answered == [0, 4, 8] or answered == [0, 3, 7, 11]  # ticks of 0.1 s
    slow = exact_reader(model)
    slow.update({'a': LANDMARKS}, 0.0, image=pictures[0])
    (reading,) = slow.update({'a': LANDMARKS}, 0.3, image=pictures[1])['a']
    assert reading.window_s == pytest.approx(0.4)
    window = pictures[[0, 0, 0, 1, 1, 1]]
    np.testing.assert_allclose(
        mean_of(reading), of_clip(model, window, mirrored=False), atol=1e-5
    )


@pytest.mark.parametrize('architecture', SMALL)
def test_faces_do_not_mix_and_a_gap_starts_a_face_anew(architecture: str) -> None:
    model = small_image_model(architecture, dropout=0.0)
    pictures = images()
    alone = exact_reader(model)
    together = exact_reader(model)
    for index, picture in enumerate(pictures):
        own = alone.update({'a': LANDMARKS}, index / 10, image=picture)['a'][-1]
        both = together.update({'b': ELSEWHERE, 'a': LANDMARKS}, index / 10, image=picture)
        np.testing.assert_allclose(both['a'][-1].samples, own.samples, atol=1e-5)
    assert not np.allclose(both['b'][-1].samples, own.samples, atol=1e-4)
    later = together.update({'a': LANDMARKS}, 30.0, image=pictures[3])['a'][-1]
    fresh = exact_reader(model).update({'x': LANDMARKS}, 0.0, image=pictures[3])
    np.testing.assert_allclose(later.samples, fresh['x'][-1].samples, atol=1e-5)
    assert later.time_s == 0.0
    together.keep_only(['b'])
    again = together.update({'a': LANDMARKS}, 30.1, image=pictures[5])['a'][-1]
    assert again.time_s == 0.0


def test_dropout_gives_samples_that_repeat_with_the_seed() -> None:
    model = small_image_model('abaw_ensemble', dropout=0.5)

    def read(seed: int) -> FaceReading:
        reader = exact_reader(model, samples=7, seed=seed)
        return reader.update({'a': LANDMARKS}, 0.0, image=images(1)[0])['a'][0]

    first, again, other = read(1), read(1), read(2)
    assert first.samples.shape == (7 * 3, 7)
    np.testing.assert_array_equal(first.samples, again.samples)
    assert not np.allclose(first.samples, other.samples)
    assert first.weights is not None
    np.testing.assert_allclose(first.weights[:3], np.array([0.5, 0.3, 0.2]) / 7, atol=1e-6)


def test_a_single_image_is_an_answer_and_its_state_is_held_by_time() -> None:
    """The hold of the decision rule must pass although every image is read by itself."""
    model = small_image_model('part_ensemble')
    rule = DecisionRule(
        abstention_threshold=0.01, warm_up_s=0.0, confidence_margin=0.0, confidence_hold_s=0.25
    )
    recognizer = ExpressionRecognizer(exact_reader(model), rule=rule)
    picture = images(1)[0]
    states = [
        recognizer.update({'a': LANDMARKS}, index / 10, image=picture)['a'].state
        for index in range(6)
    ]
    assert states[0] == ExpressionState.UNCERTAIN
    assert states[-1] == ExpressionState.CONFIDENT


def test_what_cannot_be_read_is_refused() -> None:
    model = small_image_model('fer_gcn')
    with pytest.raises(ValueError, match='reads images'):
        exact_reader(model).update({'a': LANDMARKS}, 0.0)
    with pytest.raises(ValueError, match='image_views must be'):
        ImageReader(model, device='cpu', views=3)
    with pytest.raises(ValueError, match='precision must be'):
        ImageReader(model, device='cpu', precision='fp16')
