# SPDX-License-Identifier: Apache-2.0
"""Fitting learns, repeats with the seed, resumes after an interruption; the commands work."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faces_made import face_landmarks
from tracks_made import whole_tracks

from fer_perception.graph.edges import load_edge_list
from fer_perception.models.model_file import load_model
from fer_perception.models.pst_bln import PstBln, PstBlnConfig
from fer_training import fitting
from fer_training.calibration import calibrate, threshold_for_risk
from fer_training.cli import main
from fer_training.dataset import IGNORED, TrainingSet, class_shares
from fer_training.fitting import EpochRecord, FitConfig, fit, measure_loss
from fer_training.inputs import Augmentation, NetworkInput
from fer_training.tracks import Track

CLASSES = ('neutral', 'happiness')
INPUT = NetworkInput(
    edges=torch.from_numpy(load_edge_list()), augmentation=Augmentation(mirror=True)
)
NETWORK = PstBlnConfig(channels=(4, 4), classes=2, edges=181, window=5, kernel_size=3)


def toy_data(count: int = 24, seed: int = 0) -> TrainingSet:
    """Make faces whose mouth is wide or not."""
    tracks = []
    for index in range(count):
        landmarks = face_landmarks(frames=12, seed=seed + index)
        if index % 2:
            landmarks[:, 48:68, 0] *= 1.4
        tracks.append(Track(landmarks, CLASSES[index % 2], f's{index}', 30.0))
    return whole_tracks(tracks, classes=CLASSES)


def silent(_: str) -> None:
    """Take a log line and say nothing."""


def weights(network: PstBln) -> dict[str, torch.Tensor]:
    return network.state_dict()


CONFIG = FitConfig(epochs=10, batch_size=8, warm_up_frames=2)


def fitted_to(
    data: TrainingSet,
    *,
    config: FitConfig = CONFIG,
    checkpoint: Path | None = None,
    log: Callable[[str], None] = silent,
) -> PstBln:
    torch.manual_seed(config.seed)
    network = PstBln(NETWORK, quiet=True)
    fit(
        network, data, network_input=INPUT, config=config, checkpoint=checkpoint, progress=False,
        log=log,
    )
    return network


@pytest.fixture(scope='module')
def fitted() -> PstBln:
    return fitted_to(toy_data())


def test_a_toy_task_is_learned_and_calibrated(fitted: PstBln) -> None:
    calibration = calibrate(fitted, toy_data(seed=1000), network_input=INPUT, every=2)
    assert calibration.accuracy > 0.95 and calibration.macro_f1 > 0.95
    assert calibration.temperature > 0
    assert calibration.risk <= 0.05 and 0.5 <= calibration.abstention_threshold <= 1.0
    assert not fitted.training


def test_the_same_seed_gives_the_same_network(fitted: PstBln) -> None:
    again = fitted_to(toy_data())
    for name, tensor in weights(fitted).items():
        assert torch.equal(tensor, weights(again)[name]), name


def test_an_interrupted_fit_goes_on_and_ends_the_same(
    fitted: PstBln, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / 'fit.checkpoint'
    lines: list[str] = []

    def stop_after_two(line: str) -> None:
        lines.append(line)
        if line.startswith('epoch 3'):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted_to(toy_data(), checkpoint=checkpoint, log=stop_after_two)
    assert checkpoint.is_file()
    lines.clear()
    resumed = fitted_to(toy_data(), checkpoint=checkpoint, log=lines.append)
    assert 'going on after epoch 2' in lines[0]
    for name, tensor in weights(fitted).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    checkpoint = tmp_path / 'fit.checkpoint'
    lines: list[str] = []
    network = PstBln(NETWORK, quiet=True)
    fitting.write_checkpoint(checkpoint, {'settings': {}, 'network': network.state_dict()})
    fitted_to(toy_data(8), config=FitConfig(epochs=1, batch_size=8), checkpoint=checkpoint,
              log=lines.append)
    assert 'other settings' in lines[0]


def test_commands_make_a_model_from_a_basis(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    basis = str(shared_data / 'ict_facekit_68.npz')
    for name, seed in (('train', '1'), ('validation', '2')):
        arguments = ['synth', '--basis', basis, '--out', str(tmp_path / f'{name}.npz')]
        assert main([*arguments, '--count', '28', '--seed', seed]) == 0
    arguments = ['fit', '--tracks', str(tmp_path / 'train.npz'), '--validation',
                 str(tmp_path / 'validation.npz'), '--out', str(tmp_path / 'model.safetensors')]
    arguments += ['--licence', 'none', '--mask-kind', 'edge']
    assert main([*arguments, '--channels', '3', '3', '--epochs', '1']) == 0
    assert not list(tmp_path.glob('*.checkpoint'))
    assert 'macro F1' in capsys.readouterr().out
    description = load_model(tmp_path / 'model.safetensors').description
    assert description.training['sequences'] == 28
    assert description.licence == 'none'
    assert description.network.channels == (3, 3)
    assert description.network.dropout_masks == 'edge'


def test_a_fit_takes_the_channels_of_another_model_and_nothing_else(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracks, grown = tmp_path / 'tracks.npz', tmp_path / 'grown.safetensors'
    arguments = ['synth', '--basis', str(shared_data / 'ict_facekit_68.npz'), '--count', '14']
    assert main([*arguments, '--out', str(tracks)]) == 0
    data = ['--tracks', str(tracks), '--validation', str(tracks)]
    fit_to = ['fit', *data, '--epochs', '1', '--out']
    assert main([*fit_to, str(grown), '--channels', '3', '2', '--seed', '5']) == 0
    same = [tmp_path / 'said.safetensors', tmp_path / 'taken.safetensors']
    assert main([*fit_to, str(same[0]), '--channels', '3', '2']) == 0
    assert main([*fit_to, str(same[1]), '--channels-of', str(grown)]) == 0
    said, taken = (load_model(path) for path in same)
    assert said.description.network == taken.description.network
    for name, tensor in weights(said.network).items():
        assert torch.equal(tensor, weights(taken.network)[name]), name
    assert any(
        not torch.equal(tensor, weights(taken.network)[name])
        for name, tensor in weights(load_model(grown).network).items()
    )
    capsys.readouterr()
    assert main([*fit_to, str(grown), '--channels-of', str(tmp_path / 'none.safetensors')]) == 1
    assert 'none.safetensors' in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments',
    [
        ['synth', '--basis', 'nowhere.npz', '--out', 'x.npz'],
        ['edges', '--basis', 'nowhere.npz', '--out', '.'],
        ['fit', '--tracks', 'nowhere.npz', '--validation', 'nowhere.npz', '--out', 'm'],
    ],
)
def test_bad_input_ends_with_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert 'nowhere.npz' in error and len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('optimizer', ['sgd', 'adam'])
def test_clips_with_one_target_are_learned_by_every_optimizer(optimizer: str) -> None:
    data = toy_data()
    clips = TrainingSet(data.features, data.targets[:, -1])
    config = FitConfig(
        epochs=12, batch_size=4, optimizer=optimizer, schedule='step', drop_after_epochs=(9,),
        learning_rate=0.1 if optimizer == 'sgd' else 0.01, label_smoothing=0.05,
    )
    torch.manual_seed(1)
    network = PstBln(replace(NETWORK, input_norm=True), quiet=True)
    before = measure_loss(network, clips, network_input=INPUT, config=config)
    records = fit(network, clips, network_input=INPUT, config=config, progress=False, log=silent)
    assert measure_loss(network, clips, network_input=INPUT, config=config) < 0.5 * before
    assert records[8].learning_rate == pytest.approx(10 * records[9].learning_rate)


def test_mixed_precision_learns_as_well(fitted: PstBln) -> None:
    config = replace(CONFIG, mixed_precision=True)
    network = fitted_to(toy_data(), config=config)
    losses = [
        measure_loss(one, toy_data(), network_input=INPUT, config=config)
        for one in (network, fitted)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(network).values())


def test_precise_norms_are_those_of_all_training_data() -> None:
    data = toy_data(10)
    config = FitConfig(epochs=1, batch_size=4, precise_norms=True)
    torch.manual_seed(1)
    network = PstBln(replace(NETWORK, input_norm=True), quiet=True)
    fit(network, data, network_input=INPUT, config=config, progress=False, log=silent)
    assert network.input_norm is not None and network.input_norm.running_mean is not None
    vectors = INPUT(torch.from_numpy(data.features))  # (N, 2, T, E)
    # Batches of 4, 4 and 2 count alike.
    means = [part.mean((0, 2)).T.flatten() for part in vectors.split(4)]  # (E * 2,) each
    torch.testing.assert_close(network.input_norm.running_mean, torch.stack(means).mean(0))
    assert not network.training


def test_a_loss_that_falls_no_more_ends_the_fit() -> None:
    records: list[EpochRecord] = []
    config = FitConfig(
        epochs=50, batch_size=8, schedule='step', learning_rate=1e-7, patience=2, warm_up_frames=2,
        patience_threshold=0.5,
    )
    network = PstBln(NETWORK, quiet=True)
    fit(network, toy_data(8), network_input=INPUT, config=config, on_epoch=records.append,
        progress=False, log=silent)
    assert len(records) == 3


def test_balanced_classes_weigh_the_same_however_rare() -> None:
    data = toy_data(40)
    happy = (data.targets == 1).any(1)
    chances = torch.where(happy, 0.05, 0.95) / torch.where(happy, 0.05, 0.95).sum()
    rare = replace(data, chances=chances, draws=400)

    def mean_happiness(class_balance: float) -> float:
        # Features that tell nothing: what is left is how often each class is met.
        blind = replace(rare, features=np.zeros_like(rare.features))
        torch.manual_seed(0)
        network = PstBln(NETWORK, quiet=True)
        fit(
            network, blind, network_input=INPUT, progress=False, log=silent,
            config=replace(CONFIG, epochs=4, class_balance=class_balance),
        )
        with torch.inference_mode():
            logits = network.logits_over_time(INPUT(torch.from_numpy(blind.features[:1])))
        return float(logits.softmax(-1)[..., 1].mean())

    unbalanced, halfway, balanced = (mean_happiness(value) for value in (0.0, 0.5, 1.0))
    assert unbalanced < 0.15
    assert 0.4 < balanced < 0.6
    assert unbalanced < halfway < balanced


def test_class_shares_count_what_is_drawn() -> None:
    targets = torch.tensor([[0, 0, IGNORED], [1, IGNORED, IGNORED], [0, 2, 2]])
    assert class_shares(targets).tolist() == pytest.approx([3 / 6, 1 / 6, 2 / 6])
    chances = torch.tensor([0.0, 0.5, 0.5])
    assert class_shares(targets, chances).tolist() == pytest.approx([1 / 4, 1 / 4, 2 / 4])
    assert class_shares(torch.tensor([0, 1, 1, 1])).tolist() == pytest.approx([0.25, 0.75])
    with pytest.raises(ValueError, match='no target'):
        class_shares(torch.full((2, 3), IGNORED))


def test_the_loss_does_not_depend_on_the_batches() -> None:
    network = PstBln(NETWORK, quiet=True)
    losses = [
        measure_loss(network, toy_data(10), network_input=INPUT, config=FitConfig(batch_size=size))
        for size in (1, 3, 10)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.parametrize(
    'bad',
    [{'optimizer': 'lion'}, {'schedule': 'cosine'}, {'epochs': 0}, {'learning_rate': 0.0},
     {'class_balance': 1.5}],
)
def test_settings_that_fit_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        FitConfig(**bad)


def test_calibration_without_targets_is_refused(fitted: PstBln) -> None:
    data = toy_data(4)
    empty = TrainingSet(data.features, torch.full_like(data.targets, -100))
    with pytest.raises(ValueError, match='no frame'):
        calibrate(fitted, empty, network_input=INPUT)


def test_threshold_keeps_the_risk() -> None:
    confidence = np.array([0.95, 0.9, 0.8, 0.7, 0.6])
    right = np.array([True, True, True, False, True])

    def threshold(max_risk: float, lowest: float = 0.5) -> float:
        return threshold_for_risk(confidence, right, max_risk, lowest=lowest)

    assert threshold(0.0) == pytest.approx(0.75)
    assert threshold(0.2) == 0.5
    assert threshold(0.2, 0.65) == pytest.approx(0.75)  # of four answers one would be too many
    assert threshold(0.2, 0.75) == 0.75
    assert threshold(0.0, 0.99) == 0.99
    assert threshold_for_risk(confidence, ~right, 0.05, lowest=0.5) == 1.0


def test_equally_confident_answers_are_confident_together() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.8])
    right = np.array([True, True, False, False])
    assert threshold_for_risk(confidence, right, 0.3, lowest=0.5) == pytest.approx(0.85)
    assert threshold_for_risk(confidence, right, 0.5, lowest=0.5) == 0.5
