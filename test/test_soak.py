# SPDX-License-Identifier: Apache-2.0
"""A short soak of camera and node: memory stays flat; what grows is found."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')

SOAK = Path(__file__).parents[1] / 'scripts' / 'soak.py'


def soak(landmark_model: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SOAK), *options],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, 'FER_LANDMARK_MODEL': str(landmark_model)},
    )


def test_memory_stays_flat(landmark_model_path: Path, sample_clip: Path) -> None:
    # How many images are answered depends on the machine.
    ended = soak(landmark_model_path, '--minutes', '0.4', '--least-answered', '0')
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert '0.4 minutes' in ended.stdout


def test_too_few_answers_fail(landmark_model_path: Path, sample_clip: Path) -> None:
    ended = soak(landmark_model_path, '--minutes', '0.12', '--least-answered', '1.5')
    assert ended.returncode == 1 and 'of the images were answered' in ended.stderr


def test_what_grows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOAK.parent))
    growth_mib = runpy.run_path(str(SOAK))['growth_mib']
    times = [float(second) for second in range(600)]
    warm_up_alone = [300.0 + min(second, 100.0) for second in times]
    leak = [300.0 + 0.1 * second for second in times]
    assert abs(growth_mib(times, warm_up_alone)) < 0.01
    assert growth_mib(times, leak) == pytest.approx(45.0, rel=0.01)
