# SPDX-License-Identifier: Apache-2.0
"""Cross-validation: nobody is trained and tried on, finished folds are kept, engines agree."""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from clips_made import easy_tracks

from fer_training import crossval
from fer_training.cli import main
from fer_training.crossval import FoldJob, run_fold
from fer_training.engines import run_jobs
from fer_training.results import read_crossval_result, read_predictions
from fer_training.tracks import write_tracks

SHORT = ['--epochs', '2', '--batch-size', '8', '--mc-samples', '4', '--kernel-size', '3']


@pytest.fixture(scope='module')
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('tracks') / 'easy.npz'
    write_tracks(path, easy_tracks())
    return path


def run(tracks: Path, out: Path, *more: str) -> int:
    arguments = ['crossval', '--tracks', str(tracks), '--out', str(out), '--frames', '6']
    return main([*arguments, '--engine', 'serial', *SHORT, *more])


def test_every_clip_is_tried_once_by_a_network_that_never_saw_its_subject(
    tracks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], set[str]]] = []
    real = FoldJob.load

    def watched(job: FoldJob):  # type: ignore[no-untyped-def]
        training, validation = real(job)
        seen.append((set(training.subjects), set(validation.subjects)))
        return training, validation

    monkeypatch.setattr(FoldJob, 'load', watched)
    assert run(tracks, tmp_path, '--channels', '3') == 0
    assert len(seen) == 4 and all(not training & held for training, held in seen)
    path = tmp_path / 'pst_bln_seed_1.json'
    result = read_crossval_result(path)
    assert [fold.subjects for fold in result.per_fold] == [('p0',), ('p1',), ('p2',), ('p3',)]
    assert result.monte_carlo.count == 24 and result.name == 'PST-BLN'
    predictions = read_predictions(path.with_suffix('.npz'))
    assert predictions.monte_carlo.shape == (4, 24, 2)
    assert len(set(predictions.names)) == 24


def test_finished_folds_are_kept_and_other_settings_refused(
    tracks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran: list[str] = []

    def counted(job: FoldJob) -> crossval.FoldOutcome:
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(job.name)
        return run_fold(job)

    monkeypatch.setattr(crossval, 'run_fold', counted)
    assert run(tracks, tmp_path, '--channels', '2') == 130
    assert not list(tmp_path.glob('*.json'))

    def counted_to_the_end(job: FoldJob) -> crossval.FoldOutcome:
        ran.append(job.name)
        return run_fold(job)

    monkeypatch.setattr(crossval, 'run_fold', counted_to_the_end)
    assert run(tracks, tmp_path, '--channels', '2') == 0
    assert ran == ['fold_01', 'fold_02', 'fold_03', 'fold_04']
    capsys.readouterr()
    assert run(tracks, tmp_path, '--channels', '2', '--dropout', '0.4') == 1
    assert 'other settings' in capsys.readouterr().err


def test_the_same_seed_gives_the_same_and_another_another(tracks: Path, tmp_path: Path) -> None:
    for out in ('a', 'b'):
        assert run(tracks, tmp_path / out, '--channels', '2', '--folds', '2',
                   '--seeds', '1', '2') == 0
    first, again = (
        read_predictions(tmp_path / out / 'pst_bln_seed_1.npz').monte_carlo for out in ('a', 'b')
    )
    other = read_predictions(tmp_path / 'a' / 'pst_bln_seed_2.npz').monte_carlo
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize('architecture', ['st_gcn', 'agcn', 'dgnn', 'st_bln'])
def test_the_comparison_networks_run_by_the_same_command(
    tracks: Path, tmp_path: Path, architecture: str
) -> None:
    assert run(tracks, tmp_path, '--architecture', architecture, '--channels', '3', '4',
               '--folds', '2') == 0
    result = read_crossval_result(next(tmp_path.glob('*.json')))
    assert result.name.replace('-', '_').lower() == architecture
    assert result.per_fold[0].topology == (3, 4)
    assert 0 < result.parameters_without_topology <= result.parameters_with_topology


def test_a_grown_network_keeps_the_history_of_each_fold(tracks: Path, tmp_path: Path) -> None:
    assert run(tracks, tmp_path, '--folds', '2', '--block-size', '2', '--max-blocks', '2',
               '--max-layers', '1', '--final-epochs', '1') == 0
    result = read_crossval_result(tmp_path / 'pst_bln_grown_seed_1.json')
    histories = sorted(tmp_path.glob('pst_bln_grown/seed_1/fold_*/history.json'))
    assert len(histories) == 2
    for fold, path in zip(result.per_fold, histories, strict=True):
        steps = json.loads(path.read_text())['steps']
        assert tuple(steps[-1]['accepted']) == fold.topology


def test_a_sweep_makes_a_result_for_each_combination(tracks: Path, tmp_path: Path) -> None:
    assert run(tracks, tmp_path, '--channels', '2', '--folds', '2', '--vary', 'dropout=0.1,0.3',
               '--vary', 'learning_rate=0.01') == 0
    names = {read_crossval_result(path).name for path in tmp_path.glob('*.json')}
    assert names == {
        'PST-BLN, dropout=0.1, learning_rate=0.01', 'PST-BLN, dropout=0.3, learning_rate=0.01'
    }


def test_a_sweep_compares_kinds_of_masks(tracks: Path, tmp_path: Path) -> None:
    assert run(tracks, tmp_path, '--channels', '2', '--folds', '2', '--dropout', '0.5',
               '--vary', 'dropout_masks=element,edge') == 0
    assert run(tracks, tmp_path, '--channels', '2', '--folds', '2', '--dropout', '0.5',
               '--mask-kind', 'edge') == 0
    swept, other, chosen = (
        read_predictions(tmp_path / f'pst_bln{name}_seed_1.npz').monte_carlo
        for name in ('_dropout_masks_edge', '_dropout_masks_element', '')
    )
    np.testing.assert_array_equal(swept, chosen)
    assert not np.array_equal(swept, other)


def test_folds_that_prepare_made_are_used(tracks: Path, tmp_path: Path) -> None:
    assert main(['prepare', 'tracks', str(tracks), '--out', str(tmp_path / 'p'), '--frames', '4',
                 '--folds', '2']) == 0
    arguments = ['crossval', '--prepared', str(tmp_path / 'p'), '--out', str(tmp_path / 'r')]
    assert main([*arguments, '--engine', 'serial', '--channels', '2', *SHORT]) == 0
    result = read_crossval_result(tmp_path / 'r' / 'pst_bln_seed_1.json')
    assert result.monte_carlo.count == 24 and result.folds == 'prepared'


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--folds', '9'], '2 to 4 folds'),
        (['--vary', 'colour=1'], "no setting 'colour'"),
        (['--vary', 'dropout'], 'SETTING=V1'),
        (['--architecture', 'st_gcn', '--dropout', '1.5'], 'dropout'),
        (['--architecture', 'st_gcn', '--mask-kind', 'edge'], "'edge' masks, not st_gcn"),
        (['--vary', 'dropout_masks=node'], 'dropout_masks must be element or edge or'),
    ],
)
def test_bad_settings_end_with_one_line(
    tracks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str],
    message: str,
) -> None:
    assert run(tracks, tmp_path, '--channels', '2', *more) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


# The work is of the standard library: worker processes cannot import a test's module.
@pytest.mark.parametrize('engine', ['serial', 'processes'])
def test_engines_run_all_jobs_and_pass_errors_on(engine: str) -> None:
    assert dict(run_jobs(math.factorial, [1, 2, 3], engine=engine)) == {0: 1, 1: 2, 2: 6}
    with pytest.raises(ValueError, match='negative'):
        dict(run_jobs(math.factorial, [-1], engine=engine))


def test_a_killed_process_is_reported() -> None:
    with pytest.raises(ChildProcessError, match='killed'):
        dict(run_jobs(os._exit, [9], workers=1))


def test_worker_processes_end_with_the_first_process(tmp_path: Path) -> None:
    script = tmp_path / 'first.py'
    script.write_text(
        'import time\n'
        'from fer_training.engines import run_jobs\n'
        "if __name__ == '__main__':\n"
        '    list(run_jobs(time.sleep, [600, 600], workers=2))\n'
    )
    first = subprocess.Popen([sys.executable, str(script)])
    workers: set[int] = set()
    deadline = time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
        workers = _workers_of(first.pid)
    time.sleep(2)  # they begin to work
    first.kill()
    first.wait()
    while (alive := {pid for pid in workers if _runs(pid)}) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(workers) == 2 and not alive


def _workers_of(parent: int) -> set[int]:
    found = set()
    for path in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):  # ended meanwhile
            after_name = path.read_text().rpartition(')')[2].split()
            command = (path.parent / 'cmdline').read_text()
            if int(after_name[1]) == parent and 'spawn_main' in command:
                found.add(int(path.parent.name))
    return found


def _runs(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(ValueError, match='steam'):
        dict(run_jobs(math.factorial, [1], engine='steam'))


def test_the_ray_engine_gives_what_the_others_give() -> None:
    pytest.importorskip('ray', reason='Ray is not installed')
    assert dict(run_jobs(math.factorial, [1, 2, 3], engine='ray')) == {0: 1, 1: 2, 2: 6}
    with pytest.raises(ValueError, match='negative'):
        dict(run_jobs(math.factorial, [-1], engine='ray'))


def test_a_process_takes_its_share_of_the_cores_but_no_more_threads_than_the_user_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores = len(os.sched_getaffinity(0))
    threads_there = '__import__("torch").get_num_threads()'
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    (_, threads), = run_jobs(eval, [threads_there], workers=1)
    assert 1 <= threads <= cores
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    (_, threads), = run_jobs(eval, [threads_there], workers=1)
    assert threads == 1
