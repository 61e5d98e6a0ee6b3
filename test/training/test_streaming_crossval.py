# SPDX-License-Identifier: Apache-2.0
"""Streaming cross-validation: strangers stay strangers, folds resume, a start must fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from models_made import CLASSES, description_of, small_network
from tracks_made import write_made_tracks

from fer_perception.models.model_file import load_model, save_model
from fer_training import streaming_crossval
from fer_training.cli import main
from fer_training.frame_calibration import CalibrationRule, calibrate_frames
from fer_training.frame_predictions import read_frame_predictions
from fer_training.plan import NetworkPlan
from fer_training.streaming_crossval import StreamingFold, read_folds, run_streaming_fold

SHORT = ['--epochs', '2', '--batch-size', '8', '--draws', '16', '--kernel-size', '5',
         '--window', '5', '--no-input-norm']


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp('tracks')
    network = small_network(dropout=0.3)
    save_model(folder / 'start.safetensors', network, description_of(network))
    write_made_tracks(folder / 'gestures.npz', labels=('neutral', 'happiness', 'sadness', 'nod'),
                      subjects=('a', 'b', 'c'), seed=1, knows_intensity=False)
    write_made_tracks(folder / 'talkers.npz', labels=('talk',), subjects=('a', 'b', 'c', 'd'),
                      seed=2, knows_intensity=False)
    write_made_tracks(folder / 'made.npz', labels=CLASSES, subjects=('m',), seed=3)
    return {path.stem: str(path) for path in folder.iterdir()}


def data(files: dict[str, str]) -> list[str]:
    return ['--tracks', files['gestures'] + '@0.3', files['talkers'] + '@0.2',
            '--synthetic', files['made'] + '@0.5', '--map', 'nod=neutral', 'talk=neutral',
            '--estimate-intensity']


def crossval(files: dict[str, str], out: Path, *more: str) -> int:
    return main(['crossval', '--streaming', *data(files), '--out', str(out), '--engine', 'serial',
                 '--mc-samples', '3', *SHORT, *more])


def test_nobody_is_trained_and_tried_on_and_synthetic_people_are_always_in(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], set[str]]] = []
    real = StreamingFold.load

    def watched(job: StreamingFold):  # type: ignore[no-untyped-def]
        parts = real(job)
        seen.append(tuple({track.subject for track in part} for part in parts))  # type: ignore
        return parts

    monkeypatch.setattr(StreamingFold, 'load', watched)
    assert crossval(files, tmp_path, '--start', files['start']) == 0
    everybody = {f'gestures:{name}' for name in 'abc'} | {f'talkers:{name}' for name in 'abcd'}
    assert len(seen) == 3
    for training, held_out in seen:
        assert not training & held_out and training | held_out == everybody | {'made:m'}
        assert 'made:m' in training
        assert len([name for name in held_out if name.startswith('gestures')]) == 1
    assert set.union(*(held_out for _, held_out in seen)) == everybody
    frames = read_folds(tmp_path / 'pst_bln' / 'seed_1', classes=CLASSES)
    assert sorted(set(frames.tracks.subjects)) == sorted(everybody)
    assert len(frames.tracks.names) == 3 * 4 + 4 and len(frames.monte_carlo) == 3
    report = json.loads((tmp_path / 'pst_bln_seed_1' / 'report.json').read_text())
    assert {item['subject'] for item in report['scores']['subjects']} == everybody
    assert '| PST-BLN |' in (tmp_path / 'comparison.md').read_text()


def test_the_same_seed_gives_the_same_and_a_broken_run_goes_on(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran: list[str] = []

    def stopping(job: StreamingFold):  # type: ignore[no-untyped-def]
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(job.name)
        return run_streaming_fold(job)

    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    assert crossval(files, whole, '--start', files['start']) == 0
    monkeypatch.setattr(streaming_crossval, 'run_streaming_fold', stopping)
    assert crossval(files, broken, '--start', files['start']) == 130
    assert not (broken / 'comparison.md').exists()
    monkeypatch.setattr(streaming_crossval, 'run_streaming_fold', run_streaming_fold)
    assert crossval(files, broken, '--start', files['start']) == 0
    for number in (1, 2, 3):
        first, again = (
            read_frame_predictions(out / 'pst_bln' / 'seed_1' / f'fold_0{number}' / 'frames.npz')
            for out in (whole, broken)
        )
        np.testing.assert_array_equal(first.monte_carlo, again.monte_carlo)
    capsys.readouterr()
    assert crossval(files, broken, '--start', files['start'], '--dropout', '0.4') == 1
    assert 'other settings' in capsys.readouterr().err


def test_masks_are_compared_by_one_command(files: dict[str, str], tmp_path: Path) -> None:
    assert crossval(files, tmp_path, '--start', files['start'], '--dropout', '0.5', '--vary',
                    'dropout_masks=element,constant', '--seeds', '1', '2') == 0
    table = (tmp_path / 'comparison.md').read_text()
    assert 'dropout_masks=element |' in table and 'dropout_masks=constant |' in table
    assert '±' in table and '| 2 |' in table


@pytest.mark.parametrize(
    ('said', 'expected'),
    [([], ('constant', 0.3)), (['--mask-kind', 'edge', '--dropout', '0.1'], ('edge', 0.1))],
)
def test_dropout_is_that_of_the_start_unless_it_is_said(
    files: dict[str, str], tmp_path: Path, said: list[str], expected: tuple[str, float]
) -> None:
    network = small_network(dropout=0.3, dropout_masks='constant')
    start, out = tmp_path / 'begun.safetensors', tmp_path / 'model.safetensors'
    save_model(start, network, description_of(network))
    assert main(['fit', *data(files), *SHORT, '--epochs', '1', '--start', str(start),
                 '--validation', files['made'], '--out', str(out), *said]) == 0
    fitted = load_model(out).description.network
    assert (fitted.dropout_masks, fitted.dropout) == expected


@pytest.mark.parametrize(
    ('said', 'expected'), [([], 0), (['--normalization', 'similarity'], 1)]
)
def test_normalisation_is_that_of_the_start(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], said: list[str],
    expected: int,
) -> None:
    network = small_network()
    start, out = tmp_path / 'begun.safetensors', tmp_path / 'model.safetensors'
    save_model(start, network, description_of(network, normalization='frontal'))
    assert main(['fit', *data(files), *SHORT, '--epochs', '1', '--start', str(start),
                 '--validation', files['made'], '--out', str(out), *said]) == expected
    if expected:
        assert 'differs from the network to fit in normalization' in capsys.readouterr().err
    else:
        assert load_model(out).description.normalization == 'frontal'


def test_a_cross_validation_calibrates_the_model_that_is_fitted_to_all(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crossval(files, tmp_path / 'cv', '--start', files['start']) == 0
    folds = tmp_path / 'cv' / 'pst_bln' / 'seed_1'
    out = tmp_path / 'model.safetensors'
    fit = ['fit', *data(files), *SHORT, '--start', files['start'], '--out', str(out)]
    assert main([*fit, '--calibration', str(folds)]) == 0
    description = load_model(out).description
    expected = calibrate_frames(read_folds(folds, classes=CLASSES), classes=CLASSES)
    assert description.temperature == expected.temperature
    assert description.abstention_threshold == expected.abstention_threshold
    assert description.training['calibration']['folds'] == 'seed_1'
    assert description.training['calibration']['is_cautious']  # three people only
    assert description.temperature >= 1.0 and description.abstention_threshold >= 0.95
    cautions = [line for line in capsys.readouterr().err.splitlines() if 'fewer than 5' in line]
    assert [line.split(':')[0] for line in cautions] == [str(folds)] * 2  # of crossval and fit
    assert description.training['start'] == 'start.safetensors'
    other = tmp_path / 'looser.safetensors'
    assert main([*fit, '--calibration', str(folds), '--max-risk', '0.3', '--max-false-alarms',
                 '0.4', '--out', str(other)]) == 0
    looser = calibrate_frames(
        read_folds(folds, classes=CLASSES), classes=CLASSES,
        rule=CalibrationRule(max_risk=0.3, max_false_alarms=0.4),
    )
    description = load_model(other).description
    assert description.abstention_threshold == looser.abstention_threshold
    noted = description.training['calibration']
    assert (noted['max_risk'], noted['max_false_alarms']) == (0.3, 0.4)
    assert looser.abstention_threshold < expected.abstention_threshold
    with pytest.raises(SystemExit):
        main([*fit, '--calibration', str(folds), '--max-risk', '1.2'])
    assert '--max-risk: must be from 0 to 1, not 1.2' in capsys.readouterr().err
    assert main([*fit, '--validation', files['made'], '--max-risk', '0.1']) == 1
    assert 'go with --calibration' in capsys.readouterr().err
    assert main(['crossval', '--tracks', files['gestures'], '--max-false-alarms', '0.1', '--out',
                 str(tmp_path / 'clips')]) == 1
    assert 'go with --streaming' in capsys.readouterr().err
    assert main(fit) == 1 and '--validation' in capsys.readouterr().err
    assert main([*fit, '--calibration', str(tmp_path)]) == 1
    assert 'no folds' in capsys.readouterr().err

    json_path, folder = tmp_path / 'scores.json', tmp_path / 'report'
    assert main(['eval', '--model', str(out), '--tracks', files['gestures'], files['talkers'],
                 '--map', 'nod=neutral', 'talk=neutral', '--estimate-intensity', '--unit',
                 'frame', '--samples', '3', '--json', str(json_path), '--figures',
                 str(folder)]) == 0
    report = json.loads((folder / 'report.json').read_text())['scores']
    assert {item['temperature'] for item in report['subjects']} == {expected.temperature}
    assert json.loads(json_path.read_text())['monte_carlo']['count'] == (
        report['everything']['count']
    )


def test_a_cross_validation_of_other_classes_is_refused_before_the_fit(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert crossval(files, tmp_path / 'cv', '--start', files['start']) == 0
    monkeypatch.setattr(NetworkPlan, 'carry_out', None)  # would raise TypeError
    folds = tmp_path / 'cv' / 'pst_bln' / 'seed_1'
    fit = ['fit', *data(files), *SHORT, '--out', str(tmp_path / 'model.safetensors'),
           '--calibration', str(folds), '--classes']
    turned = list(reversed(CLASSES))
    for classes in (turned, [*CLASSES, 'wonder']):
        capsys.readouterr()
        assert main([*fit, *classes]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert f'fold_01 is of the classes {", ".join(CLASSES)}' in error
        assert f'the model is of {", ".join(classes)}' in error
    for path in folds.glob('fold_*/fold.json'):
        content = json.loads(path.read_text('utf-8'))
        del content['classes']  # as written before they were noted
        path.write_text(json.dumps(content), 'utf-8')
    assert len(read_folds(folds, classes=turned))
    with pytest.raises(ValueError, match=f'{len(CLASSES)} unnamed'):
        read_folds(folds, classes=[*CLASSES, 'wonder'])


def test_a_network_sees_the_baseline_in_fits_folds_and_evaluations(
    files: dict[str, str], tmp_path: Path
) -> None:
    seen = [*SHORT, '--channels', '3', '--baseline', '0.5']
    assert crossval(files, tmp_path / 'cv', '--channels', '3', '--baseline', '0.5') == 0
    out = tmp_path / 'model.safetensors'
    assert main(['fit', *data(files), *seen, '--out', str(out), '--calibration',
                 str(tmp_path / 'cv' / 'pst_bln' / 'seed_1')]) == 0
    description = load_model(out).description
    assert description.baseline_frames == 15 and description.network.in_channels == 4
    assert main(['eval', '--model', str(out), '--tracks', files['gestures'], '--map',
                 'nod=neutral', '--estimate-intensity', '--samples', '3', '--json',
                 str(tmp_path / 'scores.json')]) == 0
    assert main(['fit', '--tracks', files['made'], '--validation', files['made'], '--frames', '8',
                 '--baseline', '1', '--out', str(out)]) == 1


def test_fine_tuning_begins_with_the_weights_and_resumes(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(out: Path, *more: str) -> int:
        return main(['fit', '--tracks', files['made'], '--validation', files['made'], '--out',
                     str(out), '--start', files['start'], *SHORT, *more])

    assert fit(tmp_path / 'still.safetensors', '--learning-rate', '1e-12', '--mask-kind', 'edge',
               '--dropout', '0.5') == 0
    start = load_model(Path(files['start'])).network.state_dict()
    still = load_model(tmp_path / 'still.safetensors')
    assert still.description.network.dropout_masks == 'edge'
    for name, tensor in still.network.named_parameters():
        np.testing.assert_allclose(tensor.detach(), start[name], atol=1e-5)

    whole, broken = tmp_path / 'whole.safetensors', tmp_path / 'broken.safetensors'
    assert fit(whole) == 0
    from fer_training import fitting

    write = fitting.write_checkpoint

    def stopping(path: Path, state: dict[str, object]) -> None:
        write(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, 'write_checkpoint', stopping)
    assert fit(broken) == 130
    monkeypatch.setattr(fitting, 'write_checkpoint', write)
    assert fit(broken) == 0
    again = load_model(broken).network.state_dict()
    for name, value in load_model(whole).network.state_dict().items():
        np.testing.assert_array_equal(value, again[name])


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--channels', '4', '5'], 'differs from the network to fit in channels'),
        (['--classes', 'happiness', *(name for name in CLASSES if name != 'happiness')],
         'in classes'),
        (['--edge-list', 'edges_312_reference'], 'in edges'),
        (['--frame-rate', '25'], 'in frame_rate'),
        (['--kernel-size', '3'], 'in kernel_size'),
        (['--window', '6'], 'in window'),
        (['--baseline', '2'], 'in in_channels'),
    ],
)
def test_a_start_of_another_network_is_refused(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str],
    message: str,
) -> None:
    assert crossval(files, tmp_path, '--start', files['start'], *more) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()[-1:]) == 1


def test_a_start_that_changes_meanwhile_is_noticed(
    files: dict[str, str], tmp_path: Path
) -> None:
    from fer_training.first_weights import FirstWeights

    path = tmp_path / 'start.safetensors'
    path.write_bytes(Path(files['start']).read_bytes())
    weights = FirstWeights.of(path)
    network = small_network(seed=2, dropout=0.3)
    save_model(path, network, description_of(network))
    with pytest.raises(ValueError, match='has changed'):
        weights.load(network.config)


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--folds', '9'], 'folds'),
        (['--architecture', 'st_gcn'], 'only a pst_bln'),
        (['--map', 'shrug=neutral'], 'shrug'),
        (['--map', 'nod=wonder'], 'wonder'),
    ],
)
def test_bad_settings_end_with_one_line(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str],
    message: str,
) -> None:
    assert crossval(files, tmp_path, '--start', files['start'], *more) == 1
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
