# SPDX-License-Identifier: Apache-2.0
"""The whole way: a data set as distributed becomes a grown model, its scores and its export."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clips_made import easy_tracks
from data_sets_made import (
    AFEW_FOLDERS,
    CASIA_FOLDERS,
    small_frames,
    write_ckplus_sequence,
    write_images,
    write_video,
)

from fer_perception.inference.onnx_clips import OnnxMonteCarlo
from fer_perception.models.model_file import load_model
from fer_training.cli import main
from fer_training.growth import HISTORY_FILE
from fer_training.protocols.description import read_protocol
from fer_training.tracks import write_tracks

SHORT = ('--epochs', '1', '--final-epochs', '1', '--batch-size', '8', '--block-size', '2',
         '--max-blocks', '2', '--max-layers', '1', '--mc-samples', '4', '--kernel-size', '3')


def fer_train(*arguments: str | Path) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def write_tree(kind: str, root: Path, frames: list[np.ndarray]) -> None:
    """Write a small data set of two people, or of two parts."""
    if kind == 'ckplus':
        for subject in ('S005', 'S010'):
            write_ckplus_sequence(root, subject, '001', 'happiness', frames[:4])
            write_ckplus_sequence(root, subject, '002', 'anger', frames[2:6])
    elif kind == 'casia':
        for subject in ('P001', 'P002'):
            for name in CASIA_FOLDERS:
                folder = root / 'OriginalImg' / 'VL' / 'Strong' / subject / name
                write_images(folder, frames[1:3], pattern='{:03d}.jpeg')
    else:
        for name in AFEW_FOLDERS[3:5]:
            write_video(root / 'Train' / name / '0001.avi', frames[:3])
            write_video(root / 'Val' / name / '0002.avi', frames[3:])


@pytest.mark.parametrize(
    ('kind', 'options', 'fold'),
    [('ckplus', ('--folds', '2'), 'fold_01'), ('casia', ('--folds', '2'), 'fold_02'),
     ('afew', ('--frames', '6'), '.')],
)
def test_a_data_set_becomes_a_grown_model_with_scores_and_an_export(
    sample_clip: Path, landmark_model_path: Path, tmp_path: Path, kind: str,
    options: tuple[str, ...], fold: str,
) -> None:
    write_tree(kind, tmp_path / 'raw', small_frames(sample_clip, count=6))
    prepared = tmp_path / 'prepared'
    fer_train('prepare', kind, tmp_path / 'raw', '--out', prepared, *options,
              '--workers', '1', '--landmark-model', landmark_model_path)
    protocol = read_protocol(prepared)
    part = prepared / fold
    grown = tmp_path / 'grown'
    fer_train('grow', '--data', part / 'train.npy', '--labels', part / 'train_labels.pkl',
              '--validation', part / 'val.npy', '--validation-labels', part / 'val_labels.pkl',
              '--out', grown, *SHORT)

    description = load_model(grown / 'model.safetensors').description
    assert description.classes == protocol.classes
    assert description.clip_frames == protocol.preparation.frames
    assert description.clip_sampling == protocol.preparation.sampling
    assert description.normalization == 'centred'
    steps = json.loads((grown / HISTORY_FILE).read_text())['steps']
    assert description.network.channels == tuple(steps[-1]['accepted'])
    assert steps[0]['validation']['accuracy'] >= 0.0
    assert (grown / 'growth.png').is_file() and any((grown / 'tensorboard').iterdir())

    model = grown / 'model.safetensors'
    fer_train('eval', '--model', model, '--data', part / 'val.npy', '--labels',
              part / 'val_labels.pkl', '--json', tmp_path / 'clips.json', '--samples', '5')
    tracks = next(name for name in protocol.track_files if 'train' not in name)
    fer_train('eval', '--model', model, '--tracks', prepared / tracks, '--json',
              tmp_path / 'tracks.json', '--samples', '5')
    for name in ('clips', 'tracks'):
        scores = json.loads((tmp_path / f'{name}.json').read_text())
        assert 0.0 <= scores['monte_carlo']['accuracy'] <= 1.0
        assert scores['classes'] == list(protocol.classes)

    fer_train('export', '--model', model, '--out', tmp_path / 'model.onnx')
    answers = OnnxMonteCarlo(tmp_path / 'model.onnx', samples=3, seed=1)(
        np.zeros((2, 2, description.clip_frames, 181), np.float32)
    )
    assert answers.shape == (3, 2, len(protocol.classes))


def test_tracks_become_a_grown_model_that_streams(tmp_path: Path) -> None:
    for name, seed in (('train', 0), ('validation', 100)):
        write_tracks(tmp_path / f'{name}.npz', easy_tracks(8, frames=20, seed=seed))
    fer_train('grow', '--tracks', tmp_path / 'train.npz', '--validation',
              tmp_path / 'validation.npz', '--out', tmp_path / 'grown', '--window', '4', *SHORT)
    description = load_model(tmp_path / 'grown' / 'model.safetensors').description
    assert description.frame_rate == 30.0 and description.clip_frames == 0
    assert description.network.padding == 'causal' and description.network.window == 4
    assert description.classes == ('neutral', 'happiness')
    assert description.temperature > 0.0


def test_growth_may_be_judged_by_validation_and_grow_again_ends_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tracks(tmp_path / 'train.npz', easy_tracks(8))
    write_tracks(tmp_path / 'validation.npz', easy_tracks(4, seed=100))
    arguments: list[str | Path] = [
        'grow', '--tracks', tmp_path / 'train.npz', '--validation', tmp_path / 'validation.npz',
        '--frames', '4', '--out', tmp_path / 'grown', '--judge-by', 'validation', *SHORT,
    ]
    fer_train(*arguments)
    first = load_model(tmp_path / 'grown' / 'model.safetensors')
    capsys.readouterr()
    fer_train(*arguments)
    assert 'going on after step' in capsys.readouterr().out
    again = load_model(tmp_path / 'grown' / 'model.safetensors')
    assert again.description == first.description
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--tracks', 'nowhere.npz'], 'nowhere.npz'),
        ([], 'either --tracks'),
        (['--tracks', 'train.npz', '--data', 'train.npy'], 'either --tracks'),
        (['--data', 'train.npy'], 'belong together'),
        (['--data', 'train.npy', '--labels', 'train.pkl'], '--classes'),
        (['--tracks', 'train.npz', '--judge-by', 'validation'], 'needs --validation'),
        (['--tracks', 'train.npz', '--displacement', 'mean'], 'needs clips'),
        (['--tracks', 'train.npz', '--normalization', 'track'], 'needs whole clips'),
        (['--tracks', 'train.npz', '--block-threshold', '0'], 'block_threshold'),
        (['--tracks', 'train.npz', '--frames', '4', '--classes', 'fear'], 'lacks'),
        (['--tracks', 'train.npz', '--rotation', '-1'], 'rotation'),
    ],
)
def test_bad_input_ends_with_one_line_and_leaves_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tracks(Path('train.npz'), easy_tracks(4))
    assert main(['grow', '--out', 'grown', *arguments]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith('fer_train')]
    assert len(error) == 1 and message in error[0]
    assert not Path('grown/model.safetensors').exists()
