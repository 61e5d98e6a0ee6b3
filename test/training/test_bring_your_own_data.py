# SPDX-License-Identifier: Apache-2.0
"""docs/bring-your-own-data.md: its commands are read from the page, parsed, and run as they stand.

Those for own clips run in their order on cuts of the sample clip. Only what makes them quick is
added: few sequences, one epoch, few samples.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_sets_made import write_video

from fer_perception import replay
from fer_perception.inference.backend import BackendConfig, open_backend
from fer_perception.sources import open_source
from fer_training import cli
from fer_training.tracks import read_tracks

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / 'docs' / 'bring-your-own-data.md'
OWN_CLIPS = '\n## Clips of your own\n'
BASIS = 'path/ict_facekit_68.npz'
LAUNCH = ['ros2', 'launch', 'fer_perception', 'fer.launch.py']
FACE = slice(0, 360), slice(140, 500)  # of the sample clip: it makes detection quick

MAINS: dict[str, Callable[[list[str]], int]] = {'fer_train': cli.main, 'fer_replay': replay.main}
PARSERS: dict[str, Callable[[list[str]], object]] = {
    'fer_train': cli.parse_arguments, 'fer_replay': replay.parse_arguments,
}
QUICK = {
    'extract': ['--workers', '1'],
    'synth': ['--count', '14'],
    'crossval': ['--epochs', '1', '--draws', '16', '--mc-samples', '4', '--engine', 'serial'],
    'fit': ['--epochs', '1', '--draws', '16'],
    'eval': ['--samples', '4'],
    'fer_replay': ['--mc-samples', '4'],
}


def commands_in(text: str) -> list[list[str]]:
    """Return the arguments of each command in the fenced blocks of a page."""
    blocks = text.split('```')[1::2]
    lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
    known = (*MAINS, 'ros2')
    return [shlex.split(line) for line in lines if line.split(' ')[0] in known]


def write_clips(clip: Path, folder: Path) -> None:
    """Write the folders of the page, of two people, and of one more."""
    with open_source(str(clip)) as source:
        frames = [np.ascontiguousarray(frame.image[FACE]) for frame in source]
    rest = frames[0:16:2] + frames[14::-2]
    nod = [np.roll(frame, round(12 * np.sin(index)), 0) for index, frame in enumerate(rest)]
    clips = {'happiness': frames[5:45:2], 'neutral': rest, 'nodding': nod}
    for root, subjects in (('my_clips', ('anna', 'ben')), ('other_clips', ('dora',))):
        for turned, subject in enumerate(subjects):
            for label, images in clips.items():
                shown = [np.ascontiguousarray(image[:, :: -1 if turned else 1])
                         for image in images]
                write_video(folder / root / label / subject / '1.mp4', shown, frame_rate=15.0)


def test_every_command_of_the_page_is_one() -> None:
    text = PAGE.read_text('utf-8')
    commands = commands_in(text)
    written = sum(text.count(f'\n{program} ') for program in (*MAINS, 'ros2'))
    assert len(commands) == written > 15
    declared = (CHECKOUT / 'launch' / 'fer.launch.py').read_text('utf-8')
    for program, *arguments in commands:
        if program in PARSERS:
            PARSERS[program](arguments)
        else:
            assert [program, *arguments[:3]] == LAUNCH
            for argument in arguments[3:]:
                assert f"'{argument.split(':=')[0]}'" in declared


def test_own_clips_become_a_model_that_streams(
    sample_clip: Path, landmark_model_path: Path, shared_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clips(sample_clip, tmp_path)
    (tmp_path / 'fer_perception').symlink_to(CHECKOUT / 'fer_perception')
    (tmp_path / 'path').mkdir()
    (tmp_path / BASIS).symlink_to(shared_data / 'ict_facekit_68.npz')
    seen = set()
    for program, *arguments in commands_in(PAGE.read_text('utf-8').split(OWN_CLIPS)[1]):
        if program == 'ros2':
            named = [argument.split(':=')[1] for argument in arguments if ':=' in argument]
            model = Path(named[0].replace('$PWD', str(tmp_path)))
            _, description = open_backend(model, BackendConfig(device='cpu', samples=4))
            assert 'happiness' in description.classes and description.frame_rate > 0
            seen.add(program)
            continue
        step = arguments[0] if program == 'fer_train' else program
        own = ['--landmark-model', str(landmark_model_path)]
        quick = QUICK[step] + (own if step in ('extract', 'fer_replay') else [])
        assert MAINS[program]([*arguments, *quick]) == 0, capsys.readouterr().err
        seen.add(step)
    assert seen == {*QUICK, 'ros2'}

    tracks = read_tracks(tmp_path / 'out' / 'my_tracks.npz')
    assert sorted((track.label, track.subject) for track in tracks) == [
        (label, subject) for label in ('happiness', 'neutral', 'nodding')
        for subject in ('anna', 'ben')
    ]
    for name in ('before', 'unseen/pst_bln_seed_1', 'others'):
        report = (tmp_path / 'out' / name / 'report.md').read_text('utf-8')
        assert '| nodding |' in report  # as what shows no expression
    for name in ('look.mp4', 'look.png', 'dora.mp4', 'dora.png'):
        assert (tmp_path / 'out' / name).stat().st_size
    assert '"probabilities"' in (tmp_path / 'out' / 'dora.jsonl').read_text('utf-8')
