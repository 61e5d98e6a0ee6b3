# SPDX-License-Identifier: Apache-2.0
"""A fused answer is the weighted mean of a landmark reader's and an image reader's."""

import numpy as np
import pytest
from faces_made import face_landmarks
from image_models_made import exact_reader, small_image_model
from models_made import CLASSES, description_of, small_network

from fer_perception.inference.face_reader import FaceReader
from fer_perception.inference.fused_reader import FusedReader
from fer_perception.inference.image_reader import ImageReader
from fer_perception.inference.landmark_reader import LandmarkReader
from fer_perception.inference.recognizer import ExpressionRecognizer
from fer_perception.inference.streaming import TorchStreamingPstBln
from fer_perception.uncertainty.measures import measure_uncertainty

TRACK = face_landmarks(frames=12) + (150.0, 120.0)
PICTURES = np.random.default_rng(1).integers(0, 256, (12, 240, 320, 3), np.uint8)


def by_landmarks() -> LandmarkReader:
    network = small_network()
    return LandmarkReader(
        TorchStreamingPstBln(network, samples=6, seed=1), description_of(network)
    )


def by_images(classes: tuple[str, ...] = CLASSES) -> ImageReader:
    return exact_reader(small_image_model('fer_gcn', classes=classes), samples=6)


def probabilities(reader: FaceReader) -> list[np.ndarray]:
    """Read the track and return the mean probabilities after each frame."""
    recognizer = ExpressionRecognizer(reader)
    return [
        recognizer.update({'a': points}, index / 30, image=picture)['a'].probabilities
        for index, (points, picture) in enumerate(zip(TRACK, PICTURES, strict=True))
    ]


@pytest.mark.parametrize('weight', [0.0, 0.3, 1.0])
def test_the_fused_answer_is_the_weighted_mean(weight: float) -> None:
    fused = probabilities(FusedReader(by_landmarks(), by_images(), image_weight=weight))
    landmarks = probabilities(by_landmarks())
    images, latest = by_images(), {}
    for index, (points, picture) in enumerate(zip(TRACK, PICTURES, strict=True)):
        for face_id, steps in images.update({'a': points}, index / 30, image=picture).items():
            latest[face_id] = steps[-1]
        reading = latest['a']
        by_image = measure_uncertainty(reading.samples, weights=reading.weights).probabilities
        expected = (1.0 - weight) * landmarks[index] + weight * by_image
        np.testing.assert_allclose(fused[index], expected, atol=1e-5)


def test_classes_in_another_order_are_put_in_order() -> None:
    """The same network, its outputs renamed and named back, must answer alike."""
    turned = CLASSES[::-1]
    model = small_image_model('fer_gcn')
    renamed = small_image_model('fer_gcn', classes=turned)
    state = model.network.state_dict()
    state['classifier.weight'] = state['classifier.weight'].flip(0)
    state['classifier.bias'] = state['classifier.bias'].flip(0)
    renamed.network.load_state_dict(state)
    plain = probabilities(FusedReader(by_landmarks(), exact_reader(model)))
    other = probabilities(FusedReader(by_landmarks(), exact_reader(renamed)))
    np.testing.assert_allclose(plain, other, atol=1e-6)


def test_without_an_image_the_landmarks_answer_alone() -> None:
    reader = ExpressionRecognizer(FusedReader(by_landmarks(), by_images()))
    alone = ExpressionRecognizer(by_landmarks())
    for index, points in enumerate(TRACK):
        fused = reader.update({'a': points}, index / 30)['a']
        np.testing.assert_allclose(
            fused.probabilities, alone.update({'a': points}, index / 30)['a'].probabilities
        )


def test_two_sure_readers_that_disagree_are_uncertain_together() -> None:
    contradicting = measure_uncertainty(
        np.array([[0.99, 0.01], [0.01, 0.99]]), weights=np.array([0.5, 0.5])
    )
    assert contradicting.mutual_information > 0.6


def test_models_of_other_classes_and_weights_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match='same classes'):
        FusedReader(by_landmarks(), by_images(('neutral', 'smile')))
    with pytest.raises(ValueError, match='image_weight must be'):
        FusedReader(by_landmarks(), by_images(), image_weight=1.5)
