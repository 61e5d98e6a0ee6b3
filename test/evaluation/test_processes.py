# SPDX-License-Identifier: Apache-2.0
"""Work in processes comes back whole, and one that dies takes nothing else with it."""

import os
import signal
import time
from pathlib import Path

import pytest
from work_made import die, double, mark_and_sleep

from fer_perception.evaluation.processes import ProcessError, WorkProcesses


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize('jobs', [1, 3])
def test_every_item_is_done(jobs: int) -> None:
    with WorkProcesses(double, [3, 1, 2], jobs=jobs) as processes:
        assert sorted(processes) == [(0, 6), (1, 2), (2, 4)]


def test_a_process_that_dies_loses_only_its_own_item() -> None:
    with WorkProcesses(die, ['well', 'crash', 'exit', 'fine'], jobs=2) as processes:
        results = dict(processes)
    assert results[0] == 'well' and results[3] == 'fine'
    for index, text in ((1, 'SIGSEGV'), (2, 'exit code 7')):
        assert isinstance(results[index], ProcessError) and text in str(results[index])


def test_an_interrupt_ends_what_runs_and_is_not_seen_by_it(tmp_path: Path) -> None:
    marks = [tmp_path / 'first', tmp_path / 'second', tmp_path / 'never']
    items = [marks[0], None, marks[1], marks[2]]

    def interrupt() -> None:
        with WorkProcesses(mark_and_sleep, items, jobs=2) as processes:
            iterator = iter(processes)
            assert next(iterator) == (1, None)
            end = time.monotonic() + 60
            while not (marks[0].exists() and marks[0].read_text()):
                assert time.monotonic() < end
                time.sleep(0.02)
            os.kill(int(marks[0].read_text()), signal.SIGINT)  # as a terminal's Ctrl-C would
            time.sleep(0.3)
            assert is_running(int(marks[0].read_text()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not is_running(int(marks[0].read_text()))
    assert not marks[2].exists()


def test_less_than_one_job_is_refused() -> None:
    with pytest.raises(ValueError, match='jobs must be 1 or more, not 0'):
        WorkProcesses(double, [1], jobs=0)
