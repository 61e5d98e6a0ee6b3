# SPDX-License-Identifier: Apache-2.0
"""Members, masks and views vote by their weights; the metrics are those of every recogniser."""

from pathlib import Path

import numpy as np
import pytest
import torch
from face_sets_made import MadeSequence, write_face_set
from image_models_made import small_image_model
from sklearn.metrics import accuracy_score, f1_score

from fer_perception.faces.crop import FaceCrop
from fer_perception.inference.image_samples import draw_samples
from fer_perception.models.image_model_file import LoadedImageModel
from fer_training.image_dataset import FaceImages, ImageItems
from fer_training.image_plan import LabelledFaces, answer_items
from fer_training.image_predictions import (
    MemberLogits,
    VotedPredictions,
    abaw_score,
    pool_sequences,
    predict_images,
)

CLASSES = ('neutral', 'happiness', 'sadness')
RECOGNIZERS = ('fer_gcn', 'part_ensemble', 'abaw_ensemble')


def small(recognizer: str) -> LoadedImageModel:
    """Make a small network with random weights, with dropout where it may have some."""
    if recognizer == 'part_ensemble':
        return small_image_model(recognizer, classes=CLASSES)
    return small_image_model(recognizer, classes=CLASSES, dropout=0.3)


@pytest.fixture
def faces(tmp_path: Path) -> LabelledFaces:
    """Write sequences of all classes."""
    sequences = [
        MadeSequence(labels=(name,) * 4, label=name, subject=f'p{index}')
        for index, name in enumerate((*CLASSES, 'neutral'))
    ]
    write_face_set(tmp_path / 'set', sequences, classes=CLASSES, size=64)
    return LabelledFaces.read(tmp_path / 'set')[0]


def read(
    model: LoadedImageModel, faces: LabelledFaces, *, views: int = 2, seed: int = 0
) -> tuple[FaceImages, ImageItems, MemberLogits]:
    """Let a model read faces."""
    description = model.description
    crop = FaceCrop(size=description.crop.size)
    images = FaceImages.of(faces.face_set, crop, description.normalization)
    items = answer_items(model.network, faces)
    logits = predict_images(
        model.network, images, items, samples=4, views=views, seed=seed, batch_size=3
    )
    return images, items, logits


@pytest.mark.parametrize('recognizer', RECOGNIZERS)
def test_the_single_pass_is_the_network(faces: LabelledFaces, recognizer: str) -> None:
    """Shared features, batches and members in their order come to what the network answers."""
    model = small(recognizer)
    images, items, logits = read(model, faces)
    with torch.inference_mode():
        expected = model.network(images.read(items.frames).images)  # (N, M, C)
    found = torch.from_numpy(logits.single_pass).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    answers = logits.answers(2.0)
    voted = model.network.probabilities(expected / 2.0)
    np.testing.assert_allclose(answers.single_pass, voted, atol=1e-5)


@pytest.mark.parametrize('recognizer', RECOGNIZERS)
def test_samples_are_views_times_masks_times_members(
    faces: LabelledFaces, recognizer: str
) -> None:
    model = small(recognizer)
    _, items, logits = read(model, faces)
    members = model.network.member_weights
    masks = 1 if recognizer == 'part_ensemble' else 4
    assert logits.logits.shape == (2 * masks * len(members), len(items), 3)
    expected = np.tile(np.array(members) / (2 * masks), 2 * masks)
    np.testing.assert_allclose(logits.weights, expected, rtol=1e-6)
    answers = logits.answers(1.0)
    slow = sum(w * p for w, p in zip(logits.weights, answers.monte_carlo, strict=True))
    np.testing.assert_allclose(answers.ensemble, slow, atol=1e-6)


def test_the_seed_decides_and_a_mirrored_face_is_another_view(faces: LabelledFaces) -> None:
    model = small('abaw_ensemble')
    same = read(model, faces)[2].logits
    np.testing.assert_array_equal(same, read(model, faces)[2].logits)
    assert not np.array_equal(same, read(model, faces, seed=1)[2].logits)
    plain, mirrored = np.split(read(small('part_ensemble'), faces)[2].logits, 2)
    assert np.abs(plain - mirrored).max() > 1e-3


def test_samples_for_a_stream_are_the_same_draws() -> None:
    model = small('abaw_ensemble')
    features = torch.randn(2, model.network.frames, model.network.feature_size)

    def draw(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return draw_samples(
            model.network, features, samples=samples, temperature=2.0,
            generator=torch.Generator().manual_seed(seed),
        )

    drawn, weights = draw(40, 1)
    assert drawn.shape == (120, 2, 3) and weights.shape == (120,)
    torch.testing.assert_close(drawn.sum(-1), torch.ones(120, 2))
    assert float(weights.sum()) == pytest.approx(1.0)
    assert torch.equal(drawn, draw(40, 1)[0])
    assert not torch.equal(drawn, draw(40, 2)[0])
    network = small('part_ensemble').network
    still, _ = draw_samples(
        network, torch.randn(2, 1, network.feature_size), samples=40, temperature=1.0,
        generator=None,
    )
    assert still.shape == (5, 2, 3)  # no dropout: one sample of each member
    for wrong in ({'samples': 0, 'temperature': 1.0}, {'samples': 1, 'temperature': 0.0}):
        with pytest.raises(ValueError, match='must be'):
            draw_samples(model.network, features, generator=None, **wrong)  # type: ignore[arg-type]


def made_answers() -> VotedPredictions:
    """Make answers by three samples that do not count alike."""
    random = np.random.default_rng(3)
    samples = random.dirichlet((1.0, 1.0, 1.0), (3, 40)).astype(np.float32)
    return VotedPredictions(
        labels=random.integers(0, 3, 40),
        names=tuple(map(str, range(40))),
        monte_carlo=samples,
        single_pass=samples[0],
        weights=np.array([0.7, 0.2, 0.1]),
    )


def test_the_metrics_are_those_of_the_weighted_vote() -> None:
    answers = made_answers()
    vote, single = answers.measure(CLASSES)
    chosen = answers.ensemble.argmax(-1)
    accuracy = accuracy_score(answers.labels, chosen)
    macro_f1 = f1_score(answers.labels, chosen, average='macro')
    assert vote.accuracy == pytest.approx(accuracy)
    assert abaw_score(vote) == pytest.approx(0.67 * macro_f1 + 0.33 * accuracy)
    assert vote.samples is not None and len(vote.samples.accuracies) == 3
    assert vote.samples.ensemble_accuracy == vote.accuracy
    assert vote.error_detection_auroc.mutual_information is not None
    assert single.samples is None
    half = answers.subset(np.arange(40) < 20)
    np.testing.assert_allclose(half.ensemble, answers.ensemble[:20])


def test_calibration_weighs_the_samples() -> None:
    """A sample of no weight changes nothing, however wrong it is."""
    random = np.random.default_rng(4)
    targets = random.integers(0, 3, 60)
    good = random.normal(0, 1, (1, 60, 3))
    good[0, np.arange(60), targets] += 2.0
    logits = MemberLogits(
        members=('a', 'b'), member_weights=(1.0, 0.0), targets=targets,
        names=tuple(map(str, range(60))), sequences=('s',) * 60,
        logits=np.concatenate([good, -9.0 * good]), weights=np.array([1.0, 0.0]),
        single_pass=np.concatenate([good, -9.0 * good]),
    )
    found = logits.calibrate()
    right = good[0].argmax(-1) == targets
    assert found.accuracy == pytest.approx(right.mean())
    assert found.risk <= 0.05
    assert logits.member_accuracies()['a'] == pytest.approx(right.mean())


def test_sequences_are_pooled_over_their_frames(faces: LabelledFaces) -> None:
    _, _, logits = read(small('abaw_ensemble'), faces)
    answers = logits.answers(1.0)
    pooled = pool_sequences(answers, logits)
    assert pooled.names == ('s0', 's1', 's2', 's3')
    np.testing.assert_allclose(pooled.monte_carlo[:, 1], answers.monte_carlo[:, 4:8].mean(1))
    np.testing.assert_array_equal(pooled.labels, [0, 1, 2, 0])


def test_a_network_in_training_and_views_that_there_are_not_are_refused(
    faces: LabelledFaces,
) -> None:
    model = small('fer_gcn')
    with pytest.raises(ValueError, match='views must be 1 or 2'):
        read(model, faces, views=3)
    model.network.train()
    with pytest.raises(ValueError, match='evaluation mode'):
        read(model, faces)
