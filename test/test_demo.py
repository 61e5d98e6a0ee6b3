# SPDX-License-Identifier: Apache-2.0
"""The demo shows a face live over DDS, leaves its three files, and says why when it cannot."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from fer_perception.records import ExpressionRecord
from fer_perception.sources import open_source

pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')
pytest.importorskip('matplotlib', reason='the demo needs the extra [plots]')

DEMO = Path(__file__).parents[1] / 'scripts' / 'demo.py'


def run_demo(
    landmark_model: Path, folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), '--out', str(folder / 'demo'), *options],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, 'FER_LANDMARK_MODEL': str(landmark_model)},
    )


def test_demo_on_the_sample_clip(
    landmark_model_path: Path, sample_clip: Path, tmp_path: Path
) -> None:
    ended = run_demo(landmark_model_path, tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = (tmp_path / 'demo' / 'expressions.jsonl').read_text('utf-8').splitlines()
    records = [ExpressionRecord.from_json(line) for line in lines]
    # How many images are answered depends on the machine.
    assert len(records) >= 3
    assert 'happiness' in {record.expression for record in records}
    printed = [line for line in ended.stdout.splitlines() if records[0].face_id in line]
    assert len(printed) == len(records)
    with open_source(str(tmp_path / 'demo' / 'annotated.mp4')) as source:
        assert sum(1 for _ in source) >= 3
    assert cv2.imread(str(tmp_path / 'demo' / 'timeline.png')) is not None


def test_demo_without_a_face_fails_and_says_so(
    landmark_model_path: Path, no_face_clip: Path, tmp_path: Path
) -> None:
    ended = run_demo(landmark_model_path, tmp_path, '--video', str(no_face_clip))
    assert ended.returncode == 1
    assert 'no face in any' in ended.stderr and 'Traceback' not in ended.stderr


def test_demo_of_a_missing_video_fails_before_anything_starts(
    landmark_model_path: Path, tmp_path: Path
) -> None:
    ended = run_demo(landmark_model_path, tmp_path, '--video', 'nowhere.mp4')
    assert ended.returncode == 1
    assert 'nowhere.mp4' in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / 'demo').exists()


def test_demo_says_when_the_node_cannot_start(sample_clip: Path, tmp_path: Path) -> None:
    ended = run_demo(Path('/nowhere.dat'), tmp_path)
    assert ended.returncode == 1
    assert 'demo: fer_node is unconfigured' in ended.stderr and '/nowhere.dat' in ended.stderr
