# SPDX-License-Identifier: Apache-2.0
"""fer_evaluate on real bags: the same numbers each time, exit codes, one clear line for errors."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings_made import write_bag
from rosbags.rosbag2 import StoragePlugin

from fer_perception import evaluate
from fer_perception.evaluate import main
from fer_perception.sources import SourceFrame, open_source

HEADER = 'start_s,end_s,label,face\n'
LABELS = f'{HEADER}0,0.56,neutral,\n0.6,2.35,happiness,\n'  # of the sample clip, by hand
FEW = ['--mc-samples', '5']
LIMIT_S = 120.0
COMMAND = [sys.executable, '-m', 'fer_perception.evaluate']


@pytest.fixture(scope='module', autouse=True)
def landmark_model(landmark_model_path: Path) -> Iterator[None]:
    """Skip without the model; processes find it by the environment."""
    before = os.environ.get('FER_LANDMARK_MODEL')
    os.environ['FER_LANDMARK_MODEL'] = str(landmark_model_path)
    yield
    if before is None:
        del os.environ['FER_LANDMARK_MODEL']
    else:
        os.environ['FER_LANDMARK_MODEL'] = before


@pytest.fixture(scope='module')
def frames(sample_clip: Path) -> list[SourceFrame]:
    with open_source(str(sample_clip)) as source:
        return list(source)


@pytest.fixture(scope='module')
def bag(frames: list[SourceFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the sample clip as a bag, with its labels inside."""
    path = tmp_path_factory.mktemp('bags') / 'smile'
    write_bag(path, frames)
    (path / 'labels.csv').write_text(LABELS)
    return path


def evaluated(source: Path, out: Path, *options: str, code: int = 0) -> dict[str, Any]:
    assert main([str(source), '--out', str(out), *FEW, *options]) == code
    content: dict[str, Any] = json.loads((out / 'evaluation.json').read_text('utf-8'))
    return content


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 1) -> str:
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and error.startswith('fer_evaluate: ')
    return error


def test_the_sample_clips_bag_gives_the_same_files_twice(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('matplotlib', reason='reports need the extra [evaluation]')
    for name in ('first', 'second'):
        assert main([str(bag), '--out', str(tmp_path / name)]) == 0
    first, second = tmp_path / 'first', tmp_path / 'second'
    for name in ('evaluation.json', 'evaluation.md', 'report.html'):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    text = (first / 'evaluation.json').read_text('utf-8')
    content = json.loads(text)
    (found,) = content['recordings']
    assert (found['name'], found['topic'], found['images']) == ('smile', '/camera', 72)
    assert found['faces'] == ['a0000'] and found['fewest_samples'] == 100
    metrics = content['metrics']
    assert metrics['accuracy'] > 0.9 and metrics['face_coverage'] == 1.0
    assert metrics['missed_segments'] == 0
    assert 0.15 <= metrics['time_to_detect_longest_s'] < 0.5  # not before it has held
    assert 'accuracy' in capsys.readouterr().out
    assert 'latency' not in text and str(tmp_path) not in text


@pytest.mark.parametrize(
    ('storage', 'compressed', 'with_types'),
    [
        (StoragePlugin.MCAP, True, True),
        (StoragePlugin.SQLITE3, False, True),
        (StoragePlugin.SQLITE3, True, False),
    ],
)
def test_every_kind_of_bag_gives_the_same_numbers(
    frames: list[SourceFrame], tmp_path: Path, storage: StoragePlugin, compressed: bool,
    with_types: bool,
) -> None:
    labels = tmp_path / 'labels.csv'
    labels.write_text(f'{HEADER}0,0.5,neutral,\n')
    reference = tmp_path / 'reference'
    write_bag(reference, frames[:16])
    other = tmp_path / 'other'
    write_bag(
        other, frames[:16], storage=storage, compressed=compressed, with_types=with_types
    )
    scores = [
        evaluated(path, tmp_path / 'out', '--labels', str(labels))['scores']
        for path in (reference, other)
    ]
    assert scores[0]['scored'] > 4
    assert scores[0] == scores[1]


def test_labels_are_aligned_on_the_stamps_of_the_headers(
    frames: list[SourceFrame], tmp_path: Path
) -> None:
    """The bag received every image later than it was taken, by a time of which nothing depends."""
    write_bag(tmp_path / 'bag', frames[:12])
    (tmp_path / 'bag.csv').write_text(f'{HEADER}0.1,0.2,neutral,\n')
    content = evaluated(tmp_path / 'bag', tmp_path / 'out')
    assert content['scores']['faces']['labelled'] == 3  # at 0.1, 0.133 and 0.167 s
    assert content['recordings'][0]['duration_s'] == pytest.approx(11 / 30, abs=1e-6)


def test_several_faces_have_labels_of_their_own(shared_data: Path, tmp_path: Path) -> None:
    clip = shared_data / 'head-pose-face-detection-female-and-male.gif'
    labels = tmp_path / 'two.csv'
    labels.write_text(f'{HEADER}0,2,neutral,0\n0,2,happiness,1\n2,4,neutral,\n')
    content = evaluated(clip, tmp_path / 'out', '--labels', str(labels))
    (found,) = content['recordings']
    assert len(found['faces']) == 2
    matrix = np.array(content['scores']['recognition']['confusion_matrix'])
    assert matrix.sum(1)[[0, 4]].tolist() == [20 + 2 * 24, 20]
    assert [(item['line'], item['face']) for item in found['segments']] == [
        (2, 0), (3, 1), (4, 0), (4, 1)
    ]


def test_a_folder_is_evaluated_pooled_and_alone_whatever_is_broken_in_it(
    frames: list[SourceFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / 'bags'
    folder.mkdir()
    for name, count in (('a', 15), ('b', 20)):
        write_bag(folder / name, frames[:count])
        (folder / f'{name}.csv').write_text(f'{HEADER}0,0.45,neutral,\n')
    (folder / 'c.mcap').write_bytes(b'\x89MCAP0\r\n' + bytes(100))
    (folder / 'c.csv').write_text(LABELS)
    (folder / 'd.mcap').write_bytes(b'no labels either')
    alone = [evaluated(folder / name, tmp_path / name) for name in 'ab']
    capsys.readouterr()
    # A missed threshold is not heard of before what could not be evaluated at all.
    (tmp_path / 't.json').write_text('{"accuracy": {"max": 0.1}}')
    options = ['--jobs', '2', '--thresholds', str(tmp_path / 't.json')]
    together = evaluated(folder, tmp_path / 'together', *options, code=1)
    assert [item['name'] for item in together['recordings']] == ['a', 'b']
    assert [item['scores'] for item in together['recordings']] == [
        item['scores'] for item in alone
    ]
    assert together['scores']['scored'] == sum(item['scores']['scored'] for item in alone)
    assert [item['name'] for item in together['failures']] == ['c.mcap', 'd.mcap']
    assert not together['thresholds'][0]['is_passed']
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert 'cannot be read' in lines[0] and 'd.mcap has no labels' in lines[1]


def test_thresholds_set_the_exit_code(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thresholds = tmp_path / 'thresholds.json'
    for bounds, code, word in (({'min': 0.9}, 0, 'passed'), ({'max': 0.5}, 3, 'failed')):
        thresholds.write_text(json.dumps({'accuracy': bounds, 'face_coverage': {'min': 1}}))
        arguments = [str(bag), *FEW, '--thresholds', str(thresholds)]
        assert main(arguments) == code
        out = capsys.readouterr().out.splitlines()
        assert [line for line in out if line.startswith(f'{word}: accuracy')]
        assert [line for line in out if line.startswith('passed: face_coverage 1,')]


@pytest.mark.parametrize(
    ('thresholds', 'message'),
    [
        ('{"acuracy": {"min": 1}}', "unknown metric 'acuracy'"),
        ('{"recall.joy": {"min": 1}}', "unknown metric 'recall.joy'"),
        ('{"drop_rate": {"max": 0}}', '--live'),
        ('{', 'holds no thresholds'),
    ],
)
def test_wrong_thresholds_are_refused_before_the_work(
    thresholds: str, message: str, bag: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(*_: Any) -> None:
        raise AssertionError('it was read all the same')

    from fer_perception.evaluation import run

    monkeypatch.setattr(run, 'attempt', work)
    (tmp_path / 't.json').write_text(thresholds)
    error = error_of([str(bag), '--thresholds', str(tmp_path / 't.json')], capsys)
    assert message in error


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere'], "'nowhere' does not exist"),
        (['.'], 'neither bags nor videos'),
        (['BAG', '--labels', 'none.csv'], 'none.csv'),
        (['BAG', '--labels', 'bad.csv'], "bad.csv, line 2: end_s must be seconds.*'x'"),
        (['BAG', '--labels', 'other.csv'], 'other.csv, line 2: no image between 100 and 200'),
        (['BAG', '--labels', 'joy.csv'], "joy.csv, line 2: unknown label 'joy'"),
        (['BAG', '--topic', '/eye'], "no images on '/eye'"),
        (['BAG', '--model', 'none.safetensors'], 'none.safetensors'),
        (['BAG', '--landmark-model', 'none.dat'], 'none.dat'),
        (['BAG', '--mc-samples', '-1'], 'samples'),
        (['BAG', '--thresholds', 'none.json'], 'none.json'),
        (['BAG', '--out', 'bad.csv'], 'bad.csv'),
    ],
)
def test_bad_input_ends_with_one_line(
    arguments: list[str], message: str, bag: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bad.csv').write_text(f'{HEADER}0,x,neutral,\n')
    (tmp_path / 'other.csv').write_text(f'{HEADER}100,200,neutral,\n')
    (tmp_path / 'joy.csv').write_text(f'{HEADER}0,1,joy,\n')
    before = sorted(tmp_path.iterdir())
    error = error_of([str(bag) if item == 'BAG' else item for item in arguments], capsys)
    assert re.search(message, error)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    'arguments',
    [
        [],
        ['bag', '--live', '--mc-samples', '5'],
        ['bag', '--image-topic', '/eye'],
        ['bag', '--wait', '3'],
        ['bag', '--live', '--wait', 'nan'],
        ['bag', '--jobs', '0'],
        ['bag', '--nothing'],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['--help'])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for code in (0, 1, 2, 3, 130):
        assert f'\n  {code} ' in text


@pytest.mark.parametrize('name', ['sklearn', 'matplotlib'])
def test_a_missing_package_is_named_with_what_brings_it(
    name: str, bag: Path, tmp_path: Path
) -> None:
    code = (
        f'import sys; sys.modules[{name!r}] = None\n'
        'from fer_perception.evaluate import main\n'
        'sys.exit(main(sys.argv[1:]))'
    )
    ended = subprocess.run(
        [sys.executable, '-c', code, str(bag), '--out', str(tmp_path / 'out')],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )
    assert ended.returncode == 1
    assert name in ended.stderr and 'fer_perception[evaluation]' in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_nothing_is_written_that_was_not_asked_for(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(bag), *FEW]) == 0
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_with_130(bag: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'bags'
    shutil.copytree(bag, folder / 'a')
    shutil.copytree(bag, folder / 'b')
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [*COMMAND, str(folder), '--out', str(out), '--mc-samples', '1000', '--jobs', '1'],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )
    try:
        while not out.exists():  # made just before the work
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130, output
    assert 'Traceback' not in output and list(out.iterdir()) == []
    assert evaluate.INTERRUPTED == 130
