# SPDX-License-Identifier: Apache-2.0
"""ROS4HRI over real ROS traffic, with messages built for it where hri_msgs is not installed.

The tests themselves are in hri_traffic.py. They run in a process of their own, as the libraries of
messages that have just been built must be known before a process starts.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hri_messages_made import build, environment_of, missing_tools

TRAFFIC = Path(__file__).with_name('hri_traffic.py')
LIMIT_S = 300.0


@pytest.fixture
def environment_with_hri_msgs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Return an environment in which hri_msgs can be imported; built once, then kept."""
    pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
    if find_spec('hri_msgs') is not None:
        return dict(os.environ)
    if missing := missing_tools():
        pytest.skip(f'hri_msgs is not installed and cannot be built without {missing}')
    cache = getattr(request.config, 'cache', None)
    folder = tmp_path_factory.mktemp('hri') if cache is None else cache.mkdir('hri_msgs')
    return environment_of(build(Path(folder)))


def test_real_traffic(environment_with_hri_msgs: dict[str, str]) -> None:
    command = [sys.executable, '-m', 'pytest', '-q', '-rs', '-p', 'no:cacheprovider', str(TRAFFIC)]
    done = subprocess.run(
        command,
        cwd=TRAFFIC.parents[1],
        env=environment_with_hri_msgs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, 'see above'
