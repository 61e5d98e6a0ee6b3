# SPDX-License-Identifier: Apache-2.0
"""Image recognisers learn on real faces, stage by stage, and go on where they were interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_faces_made import CLASSES, cut_clip, every_third, write_people
from torch import Tensor
from torch.nn import functional as F

from fer_perception.faces.crop import FaceCrop
from fer_perception.models.image_network import ImageNetwork
from fer_perception.models.part_ensemble import PartEnsemble
from fer_training import image_fitting
from fer_training.dataset import IGNORED
from fer_training.fitting import write_checkpoint
from fer_training.image_dataset import FaceImages
from fer_training.image_fitting import ImageData, fit_images, learning_rate
from fer_training.image_plan import (
    FittedImages,
    ImagePlan,
    LabelledFaces,
    answer_items,
    training_items,
)
from fer_training.image_predictions import MemberLogits, predict_images
from fer_training.image_recipes import ImageFitConfig, paper_recipe
from fer_training.image_stages import cross_entropies, landmark_loss, stages_of, vote_loss

# Small enough for seconds, and hardly any augmentation: the copies differ already.
FER_GCN = {
    'image_size': 32, 'frames': 6, 'features': 32, 'width': 8, 'optimizer': 'adam',
    'learning_rate': 0.002, 'batch_size': 8, 'crop_share': 1.0, 'illumination': 0.0,
    'mirror': False, 'drop_after_epochs': (18,),
}
ABAW = {
    'image_size': 32, 'frames': 5, 'features': 16, 'heads': 2, 'feedforward': 32, 'width': 8,
    'blocks': (1, 1, 1, 1), 'optimizer': 'adam', 'learning_rate': 0.003, 'weight_decay': 0.0,
    'batch_size': 8, 'drop_after_epochs': (5,),
}
PARTS = {
    'image_size': 32, 'padding': 'same', 'channels': (4, 8, 8, 16), 'hidden': 16,
    'batch_size': 40,
}


@pytest.fixture(scope='module')
def faces(
    sample_clip: Path, landmark_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> LabelledFaces:
    """Cut sequences of people who differ a little."""
    crop = FaceCrop(size=64)
    clip = cut_clip(sample_clip, landmark_model_path, crop=crop)
    folder = tmp_path_factory.mktemp('clip') / 'faces'
    write_people(folder, clip, crop=crop, turn=6.0, shift=0.02)
    read, classes = LabelledFaces.read(folder)
    assert classes == CLASSES
    return read


def carry_out(
    faces: LabelledFaces, recognizer: str, settings: dict[str, Any], **options: Any
) -> FittedImages:
    """Fit a recogniser to the part train, quietly."""
    plan = ImagePlan.of(recognizer, classes=2, settings=settings)
    return plan.carry_out(
        faces.of_part('train'), faces.of_part('val'), progress=False, log=lambda _: None, **options
    )


def answers(faces: LabelledFaces, fitted: FittedImages, recognizer: str) -> MemberLogits:
    """Read those held out."""
    normalization = paper_recipe(recognizer, classes=2).normalization
    images = FaceImages.of(faces.face_set, fitted.crop, normalization)
    items = answer_items(fitted.network, faces.of_part('val'))
    return predict_images(fitted.network, images, items, samples=3)


@pytest.mark.parametrize(
    ('recognizer', 'settings', 'frame_rate'),
    [
        ('fer_gcn', {**FER_GCN, 'epochs': 24}, 5 / 0.24),
        ('abaw_ensemble', {**ABAW, 'epochs': 8}, 25.0),
    ],
)
def test_neutral_and_smile_over_time_are_learned(
    faces: LabelledFaces, recognizer: str, settings: dict[str, Any], frame_rate: float
) -> None:
    fitted = carry_out(faces, recognizer, settings)
    assert fitted.frame_rate == pytest.approx(frame_rate)
    logits = answers(faces, fitted, recognizer)
    vote, _ = logits.answers(1.0).measure(CLASSES)
    assert vote.accuracy >= 0.9  # measured: 1.0, of 12 sequences and of 84 frames
    calibration = logits.calibrate()
    assert calibration.risk <= 0.05
    assert calibration.frames == len(logits.targets)


def test_the_frozen_extractor_stays_as_it_is(
    faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights and its statistics, while those of the head change; then all of it changes."""
    seen: list[tuple[str, dict[str, Tensor]]] = []
    epoch = image_fitting._Run.epoch

    def recorded(self: Any, stage: Any, *arguments: Any) -> Any:
        record = epoch(self, stage, *arguments)
        state = {name: value.clone() for name, value in stage.module.state_dict().items()}
        seen.append((stage.name, state))
        return record

    monkeypatch.setattr(image_fitting._Run, 'epoch', recorded)
    settings = {**PARTS, 'kind': 'full', 'landmark_epochs': 1, 'head_epochs': 2, 'epochs': 1,
                'patience': 0}
    carry_out(every_third(faces), 'part_ensemble', settings)
    names = [name for name, _ in seen]
    member = ['landmarks', 'head', 'head', 'expression']
    assert names == [f'network_{number} {stage}' for number in range(1, 6) for stage in member]
    landmarks, _, head, expression = (state for _, state in seen[:4])
    for name in landmarks:
        is_extractor = name.startswith('extractor.')
        is_classifier = name.startswith('classification_head.')
        assert torch.equal(landmarks[name], head[name]) == (not is_classifier), name
        changes = is_extractor or is_classifier
        assert torch.equal(head[name], expression[name]) == (not changes), name


def test_baselines_learn_no_landmarks_and_no_two_are_the_same(faces: LabelledFaces) -> None:
    settings = {**PARTS, 'kind': 'baseline', 'epochs': 1, 'patience': 0}
    fitted = carry_out(every_third(faces), 'part_ensemble', settings)
    assert not fitted.fit.localization
    assert {record.stage.split()[1] for record in fitted.fit.epochs} == {'expression'}
    assert isinstance(fitted.network, PartEnsemble)
    first, second = (next(part.parameters()) for part in fitted.network.sub_networks[:2])
    assert not torch.equal(first, second)


def test_the_rate_steps_as_in_torch() -> None:
    recipe = paper_recipe('abaw_ensemble', classes=7)
    assert recipe.fit.drop_after_epochs == (2, 4, 8)
    stage = stages_of(torch.nn.Linear(1, 1), recipe.fit)[0]  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4, 8], gamma=0.1)
    expected, found = [], []
    for epoch in range(1, 11):
        expected.append(optimizer.param_groups[0]['lr'])
        found.append(learning_rate(recipe.fit, stage, epoch))
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found[::4], [5e-4, 5e-6, 5e-7])


class Interrupted(Exception):
    """Stand for whatever ends a run."""


@pytest.mark.parametrize(
    ('recognizer', 'settings', 'after'),
    [
        ('abaw_ensemble', {**ABAW, 'epochs': 3, 'batch_size': 40}, 2),
        ('part_ensemble', {**PARTS, 'landmark_epochs': 2, 'head_epochs': 1, 'epochs': 1,
                           'patience': 1}, 6),
    ],
)
def test_an_interrupted_fit_ends_as_an_unbroken_one(
    faces: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    recognizer: str, settings: dict[str, Any], after: int,
) -> None:
    few = every_third(faces) if recognizer == 'part_ensemble' else faces
    whole = carry_out(few, recognizer, settings)
    write, count = write_checkpoint, 0

    def interrupted(path: Path, state: dict[str, Any]) -> None:
        nonlocal count
        write(path, state)
        count += 1
        if count == after:
            raise Interrupted

    checkpoint = tmp_path / 'fit.checkpoint'
    monkeypatch.setattr(image_fitting, 'write_checkpoint', interrupted)
    with pytest.raises(Interrupted):
        carry_out(few, recognizer, settings, checkpoint=checkpoint)
    monkeypatch.setattr(image_fitting, 'write_checkpoint', write)
    resumed = carry_out(few, recognizer, settings, checkpoint=checkpoint)
    assert_same_weights(whole.network, resumed.network)
    assert resumed.fit.localization == whole.fit.localization
    told = [(item.stage, item.epoch, item.loss) for item in resumed.fit.epochs]
    assert told == [(item.stage, item.epoch, item.loss) for item in whole.fit.epochs]


def test_the_seed_decides(faces: LabelledFaces) -> None:
    one, same, other = (
        carry_out(faces, 'fer_gcn', {**FER_GCN, 'epochs': 1, 'seed': seed, 'workers': workers})
        for seed, workers in ((1, 0), (1, 1), (2, 0))
    )
    assert_same_weights(one.network, same.network)
    assert not torch.equal(*(next(item.network.parameters()) for item in (one, other)))


def assert_same_weights(one: ImageNetwork, other: ImageNetwork) -> None:
    """Compare two networks bit by bit."""
    expected = one.state_dict()
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_losses_equal_direct_computations() -> None:
    generator = torch.Generator().manual_seed(1)
    located, landmarks = torch.rand(2, 5, 9, 2, generator=generator)
    slow = sum(
        abs(float(located[n, p, axis]) - float(landmarks[n, p, axis]))
        for n in range(5) for p in range(9) for axis in range(2)
    ) / (5 * 9 * 2)
    assert float(landmark_loss(located, landmarks).loss) == pytest.approx(slow, rel=1e-5)

    logits = torch.randn(4, 3, 7, generator=generator)
    targets = torch.tensor([1, IGNORED, 6, 0])
    found = cross_entropies(logits, targets, lambda many: many.softmax(-1).mean(1))
    slow = -sum(
        float(logits[n, m].softmax(-1)[int(targets[n])].log()) / 3
        for m in range(3) for n in (0, 2, 3)
    )
    assert float(found.loss) == pytest.approx(slow, rel=1e-5)
    assert float(found.mean) == pytest.approx(slow / 3, rel=1e-5)
    assert (found.weight, found.known) == (3, 3)


def test_the_abaw_ensemble_is_trained_on_every_frame(faces: LabelledFaces) -> None:
    plan = ImagePlan.of('abaw_ensemble', classes=2, settings={**ABAW, 'dropout': 0.0})
    network = plan.build().eval()
    items = training_items(network, faces.of_part('train'), step=2)
    assert items.targets.shape == items.frames.shape == (len(items), 5)
    images = torch.randn(2, 5, 3, 32, 32)
    targets = torch.tensor([[0, 1, 1, 0, IGNORED], [1, 1, 0, 0, 0]])
    found = vote_loss(network, images, targets)
    logits = network.logits_over_time(network.deterministic_part(images))  # type: ignore[operator]
    expected = sum(
        F.cross_entropy(logits[:, :, member].flatten(0, 1), targets.flatten()).item()
        for member in range(3)
    )
    assert found.loss.item() == pytest.approx(expected, rel=1e-5)


def data_of(faces: LabelledFaces, network: ImageNetwork) -> ImageData:
    """Join images with the items of a network."""
    recipe = paper_recipe('fer_gcn', classes=2, settings=FER_GCN)
    images = FaceImages.of(faces.face_set, recipe.crop(faces.face_set.crop), recipe.normalization)
    return ImageData(images, training_items(network, faces, step=1))


def test_patience_needs_validation(faces: LabelledFaces) -> None:
    plan = ImagePlan.of('fer_gcn', classes=2, settings={**FER_GCN, 'patience': 2})
    network = plan.build()
    with pytest.raises(ValueError, match='needs validation data'):
        fit_images(network, data_of(faces, network), config=plan.recipe.fit,
                   augmentation=plan.recipe.augmentation)


def test_a_stage_ends_when_the_validation_loss_is_saturated(faces: LabelledFaces) -> None:
    """A rate of nearly nothing lowers nothing: the first epoch and the patience are all."""
    settings = {**FER_GCN, 'patience': 2, 'epochs': 9, 'learning_rate': 1e-12}
    fitted = carry_out(faces, 'fer_gcn', {**settings, 'patience_threshold': 0.5})
    assert len(fitted.fit.epochs) == 3


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: paper_recipe('vgg', classes=2), "unknown recogniser 'vgg'"),
        (lambda: paper_recipe('fer_gcn', classes=2, settings={'nodes': 3}), "no setting 'nodes'"),
        (lambda: paper_recipe('fer_gcn', classes=2, settings={'epochs': 1.5}),
         'epochs must be a whole number'),
        (lambda: paper_recipe('fer_gcn', classes=2, settings={'width': 0}), 'width'),
        (lambda: paper_recipe('fer_gcn', classes=2, settings={'crop_share': 0.0}), 'crop_share'),
        (lambda: ImageFitConfig(epochs=0, learning_rate=1.0), 'epochs must be at least 1'),
        (lambda: ImageFitConfig(epochs=1, learning_rate=0.0), 'learning_rate must be positive'),
        (lambda: ImageFitConfig(epochs=1, learning_rate=1.0, optimizer='x'), 'optimizer'),
    ],
)
def test_bad_settings_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_recipes_are_the_papers() -> None:
    gcn = paper_recipe('fer_gcn', classes=7)
    assert (gcn.fit.epochs, gcn.fit.learning_rate, gcn.fit.weight_decay) == (120, 1e-3, 5e-5)
    assert gcn.fit.optimizer == 'sgd' and gcn.crop_share == 224 / 256
    parts = paper_recipe('part_ensemble', classes=8).fit
    assert (parts.optimizer, parts.epsilon, parts.batch_size) == ('adam', 1e-7, 32)
    assert (parts.landmark_rate, parts.head_rate, parts.learning_rate) == (1e-2, 1e-2, 1e-4)
    baseline = paper_recipe('part_ensemble', classes=8, settings={'kind': 'baseline'}).fit
    assert (baseline.learning_rate, baseline.landmark_epochs) == (1e-2, 0)
    abaw = paper_recipe('abaw_ensemble', classes=7).fit
    assert (abaw.epochs, abaw.learning_rate, abaw.drop_factor) == (10, 5e-4, 0.1)
