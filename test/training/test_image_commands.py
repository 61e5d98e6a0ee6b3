# SPDX-License-Identifier: Apache-2.0
"""fer_train with face sets: fit, eval, crossval and export of every image recogniser."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from face_sets_made import MadeSequence, write_face_set

from fer_perception.models.image_model_file import load_image_model
from fer_training.cli import main
from fer_training.image_onnx_export import largest_image_difference
from fer_training.results import read_crossval_result, read_evaluation_result

SMALL = {
    'fer_gcn': ['image_size=32', 'frames=4', 'features=8', 'width=2'],
    'part_ensemble': ['image_size=16', 'padding=same', 'channels=2,2,2,4', 'hidden=4',
                      'landmark_epochs=1', 'head_epochs=1'],
    'abaw_ensemble': ['image_size=32', 'frames=3', 'features=4', 'heads=2', 'feedforward=4',
                      'width=2', 'blocks=1,1,1,1', 'weights=0.5,0.25,0.25'],
}
FIT = ['--epochs', '1', '--batch-size', '8', '--device', 'cpu']


@pytest.fixture(scope='module')
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write faces of six people, with parts to train and to validate on."""
    folder = tmp_path_factory.mktemp('made') / 'set'
    write_face_set(
        folder,
        [
            MadeSequence(labels=(label,) * 4, label=label, subject=f'p{person}',
                         part='val' if person > 3 else 'train')
            for person in range(6)
            for label in ('neutral', 'happiness')
        ],
        size=40,
    )
    return folder


@pytest.mark.parametrize('recognizer', SMALL)
def test_a_model_is_fitted_tried_and_exported(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recognizer: str
) -> None:
    model, scores, export = (tmp_path / name for name in ('m.safetensors', 's.json', 'm.onnx'))
    assert main(['fit', '--recognizer', recognizer, '--faces', str(faces), '--out', str(model),
                 '--set', *SMALL[recognizer], *FIT]) == 0, capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [model.name]  # no checkpoint is left
    loaded = load_image_model(model)
    assert loaded.description.architecture == recognizer
    assert loaded.description.classes == ('neutral', 'happiness')
    assert 0.5 <= loaded.description.abstention_threshold <= 1.0
    again = load_image_model(model)
    images = torch.randn(2, loaded.network.frames, 3, *[loaded.network.image_size] * 2)
    with torch.inference_mode():
        assert torch.equal(loaded.network(images), again.network(images))

    assert main(['eval', '--model', str(model), '--faces', str(faces), '--part', 'val', '--views',
                 '2', '--samples', '3', '--json', str(scores),
                 '--figures', str(tmp_path / 'pictures')]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    result = read_evaluation_result(scores)
    assert result.unit == ('clip' if recognizer == 'fer_gcn' else 'frame')
    vote = result.monte_carlo
    assert f'{0.67 * vote.macro_f1 + 0.33 * vote.accuracy:.4f}' in said
    assert (tmp_path / 'pictures' / 'reliability.png').is_file()

    assert main(['export', '--model', str(model), '--out', str(export)]) == 0
    assert largest_image_difference(loaded.network, export) <= 1e-4


def test_an_export_that_differs_is_not_left(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, export = tmp_path / 'm.safetensors', tmp_path / 'm.onnx'
    main(['fit', '--recognizer', 'fer_gcn', '--faces', str(faces), '--out', str(model),
          '--set', *SMALL['fer_gcn'], *FIT])
    monkeypatch.setattr('fer_training.commands.export.largest_image_difference', lambda *_: 2e-4)
    assert main(['export', '--model', str(model), '--out', str(export)]) == 1
    assert 'differ by 2.0e-04' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


def test_folds_and_variations_give_the_report_of_every_network(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    settings = ['crossval', '--recognizer', 'part_ensemble', '--faces', str(faces), '--folds', '2',
               '--out', str(out), '--set', *SMALL['part_ensemble'], 'patience=1', *FIT, '--vary',
               'kind=parts,baseline', '--engine', 'serial']
    assert main(settings) == 0, capsys.readouterr().err
    names = {path.name for path in out.glob('*.json')}
    assert names == {f'part_based_ensemble_kind_{kind}_seed_1.json'
                     for kind in ('parts', 'baseline')}
    result = read_crossval_result(out / 'part_based_ensemble_kind_parts_seed_1.json')
    assert len(result.per_fold) == 2 and result.monte_carlo.count == 48
    held_out = [subject for fold in result.per_fold for subject in fold.subjects]
    assert sorted(held_out) == [f'p{person}' for person in range(6)]
    members = (out / 'members.md').read_text()
    assert 'eyebrows' in members and 'network_5' in members and 'Landmarks' in members
    assert main(['report', *map(str, out.glob('*.json')), '--out', str(out / 'r.md')]) == 0
    fold = out / 'part_based_ensemble_kind_parts' / 'seed_1' / 'fold_01'
    before = (fold / 'fold.json').stat().st_mtime_ns
    assert main(settings) == 0  # all is done already
    assert (fold / 'fold.json').stat().st_mtime_ns == before
    again = read_crossval_result(out / 'part_based_ensemble_kind_parts_seed_1.json')
    assert again.monte_carlo.accuracy == pytest.approx(result.monte_carlo.accuracy)


def test_table_v_can_be_varied(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert main(['crossval', '--recognizer', 'fer_gcn', '--faces', str(faces), '--folds', 'parts',
                 '--out', str(out), '--set', *SMALL['fer_gcn'], *FIT, '--engine', 'serial',
                 '--vary', 'modules=1,2', '--vary', 'weighted_fusion=true,false']) == 0
    parameters = {
        path.stem: json.loads(path.read_text())['parameters_with_topology']
        for path in out.glob('*.json')
    }
    assert len(parameters) == 4
    assert len(set(parameters.values())) == 2  # fusion has none of its own
    assert np.isfinite(list(parameters.values())).all()


def test_another_data_set_with_a_class_too_many(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, scores = tmp_path / 'm.safetensors', tmp_path / 's.json'
    main(['fit', '--recognizer', 'part_ensemble', '--faces', str(faces), '--out', str(model),
          '--set', *SMALL['part_ensemble'], *FIT])
    other = tmp_path / 'set'
    write_face_set(
        other,
        [MadeSequence(labels=(label,) * 2, label=label)
         for label in ('contempt', 'happiness', 'neutral')],
        classes=('contempt', 'happiness', 'neutral'),
        size=40,
    )
    command = ['eval', '--model', str(model), '--faces', str(other), '--json', str(scores)]
    assert main(command) == 1
    assert 'labels that the model lacks: contempt' in capsys.readouterr().err
    assert main([*command, '--map', 'contempt=']) == 0
    result = read_evaluation_result(scores)
    assert result.classes == ('neutral', 'happiness') and result.monte_carlo.count == 4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--recognizer', 'fer_gcn'], 'say --faces'),
        (['--recognizer', 'fer_gcn', '--faces', 'nowhere'], 'nowhere is no face set'),
        (['--recognizer', 'fer_gcn', '--faces', '{faces}', '--channels', '5'],
         '--channels is not for fer_gcn'),
        (['--faces', '{faces}', '--tracks', 'x.npz'], '--faces is for image recognisers'),
        (['--recognizer', 'fer_gcn', '--faces', '{faces}', '--set', 'nodes=3'],
         "no setting 'nodes'"),
        (['--recognizer', 'fer_gcn', '--faces', '{faces}', '--set', 'nodes'],
         '--set needs SETTING=VALUE'),
        (['--recognizer', 'fer_gcn', '--faces', '{faces}', '--classes', 'neutral', 'fear'],
         'labels that the model lacks: happiness'),
        (['--recognizer', 'fer_gcn', '--faces', '{faces}', '--backbone-weights', 'no.pth'],
         'there is no file no.pth'),
        (['--recognizer', 'part_ensemble', '--faces', '{faces}', '--backbone-weights', '{file}'],
         'part_ensemble has no backbone'),
        (['--recognizer', 'fer_gcn', '--faces', '{unlabelled}'], 'has no labels'),
        (['--recognizer', 'fer_gcn', '--faces', '{partless}'], 'has no parts train and val'),
    ],
)
def test_bad_input_gives_one_line(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str],
    message: str,
) -> None:
    places = {'faces': faces, 'file': faces / 'face_set.json'}
    for name, labels in (('unlabelled', ('',)), ('partless', ('neutral', 'happiness'))):
        places[name] = tmp_path / name / 'set'
        write_face_set(places[name], [MadeSequence(labels=labels)])
    filled = [text.format(**places) for text in arguments]
    assert main(['fit', '--out', str(tmp_path / 'm.safetensors'), *filled]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and '\n' not in error
    assert not (tmp_path / 'm.safetensors').exists()
