# SPDX-License-Identifier: Apache-2.0
"""What fit and grow load: labels mean the same in training and validation, in tracks and clips."""

from pathlib import Path

import numpy as np
import pytest
from tracks_made import write_made_tracks

from fer_training.cli import main, parse_arguments
from fer_training.commands.options import LoadedData, load_data
from fer_training.dataset import IGNORED
from fer_training.tracks import read_tracks, write_tracks

MAP = ('--map', 'sadness=happiness', 'nod=neutral', 'wink=', 'talk=neutral')


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Write tracks in which 'wink' is in the training only, 'talk' in the validation only."""
    return {
        name: write_made_tracks(
            tmp_path / f'{name}.npz', labels=labels, subjects=(name,), seed=seed, frames=60,
            knows_intensity=False,
        )
        for seed, (name, labels) in enumerate({
            'train': ('neutral', 'happiness', 'sadness', 'nod', 'wink'),
            'others': ('happiness', 'sadness', 'nod', 'talk'),
        }.items())
    }


def load(command: str, files: dict[str, Path], *more: str) -> LoadedData:
    return load_data(parse_arguments([
        command, '--tracks', str(files['train']), '--validation', str(files['others']),
        '--out', 'nowhere', *more,
    ]))


@pytest.mark.parametrize('command', ['fit', 'grow'])
def test_validation_tracks_are_mapped_as_training_tracks_are(
    files: dict[str, Path], command: str
) -> None:
    data = load(command, files, *MAP)
    assert data.classes == ('neutral', 'happiness') and len(data.training) == 4
    assert data.validation is not None
    assert [set(row.tolist()) for row in data.validation.targets] == [{1}, {1}, {0}, {0}]


def test_validation_intensity_is_estimated_as_that_of_training_is(
    files: dict[str, Path]
) -> None:
    data = load('fit', files, *MAP, '--estimate-intensity', '--piece-frames', '60')
    assert data.validation is not None
    for part, shown in ((data.training, (1, 2)), (data.validation, (0, 1))):
        for index, row in enumerate(part.targets):
            assert set(row.tolist()) == ({0, 1, IGNORED} if index in shown else {0})


@pytest.mark.parametrize('clips', [(), ('--frames', '8')])
def test_a_label_that_no_track_has_is_refused(
    files: dict[str, Path], clips: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match='no track has: shrug; the tracks have .*talk.*wink'):
        load('fit', files, *clips, *MAP, 'shrug=neutral')
    with pytest.raises(ValueError, match='model lacks: talk'):
        load('fit', files, *clips, *MAP[:-1])


def test_clips_are_mapped_as_tracks_are(files: dict[str, Path]) -> None:
    data = load('fit', files, '--frames', '8', *MAP)
    assert data.classes == ('neutral', 'happiness') and data.validation is not None
    assert data.training.targets.tolist() == [0, 1, 1, 0]
    assert data.validation.targets.tolist() == [1, 1, 0, 0]


def test_a_cross_validation_of_clips_is_mapped(files: dict[str, Path], tmp_path: Path) -> None:
    both = tmp_path / 'both.npz'
    write_tracks(both, read_tracks(files['train']) + read_tracks(files['others']))
    assert main(['crossval', '--tracks', str(both), '--frames', '4', *MAP, '--channels', '2',
                 '--epochs', '1', '--kernel-size', '3', '--mc-samples', '2', '--engine', 'serial',
                 '--out', str(tmp_path / 'cv')]) == 0
    with np.load(next((tmp_path / 'cv').glob('*.npz'))) as file:
        assert sorted(file['labels'].tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--tracks', 'train.npz', '--frames', '8', '--estimate-intensity'],
         '--estimate-intensity is for networks that stream'),
        (['--tracks', 'train.npz', '--frames', '8', '--synthetic', 'others.npz'],
         '--synthetic is for networks that stream'),
        (['--data', 'x.npy', '--labels', 'x.pkl', '--map', 'nod=neutral'], '--map goes with'),
    ],
)
def test_what_says_nothing_of_clips_is_refused(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], more: list[str], message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['fit', *more, '--validation', 'others.npz', '--out', 'm.safetensors']) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
