# SPDX-License-Identifier: Apache-2.0
"""Fixtures for files that a checkout does not hold; tests skip with the reason without them.

And the ROS domain of the test run's own.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from fer_perception.assets import AssetError, asset_path
from fer_perception.models.model_file import LoadedModel, load_model
from fer_perception.pipeline import SHIPPED_FILE

# Tests do not time things: a busy machine must not fail them.
settings.register_profile('untimed', deadline=None)
settings.load_profile('untimed')

# Threads that wait for one another at full speed are many times slower beside other work.
torch.set_num_threads(1)
os.environ.setdefault('OMP_NUM_THREADS', '1')  # of processes that tests start

# A background job inherits an ignored SIGINT, and what tests start and interrupt would as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def claim_ros_domain() -> socket.socket:
    """Take a ROS domain that no other test run on this machine has, and hold it by the socket."""
    for number in range(101):
        domain = 1 + (os.getpid() + number) % 101  # to 101: ports of higher ones may be taken
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f'\0fer_perception test domain {domain}')  # gone with the process
        except OSError:
            claim.close()
            continue
        os.environ['ROS_DOMAIN_ID'] = str(domain)
        return claim
    raise RuntimeError('other test runs have all 101 ROS domains: wait for one to end')


# Nothing of a test leaves the machine, nor meets another run's nodes.
DOMAIN_CLAIM = claim_ros_domain()
if os.environ.get('ROS_DISTRO') == 'humble':
    os.environ['ROS_LOCALHOST_ONLY'] = '1'
else:
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'


def path_or_skip(name: str) -> Path:
    """Return the path of a fetched asset, or skip the test with the reason."""
    try:
        return asset_path(name)
    except AssetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope='session')
def landmark_model_path() -> Path:
    """Return the path of dlib's 68-landmark model."""
    return path_or_skip('landmark_model')


@pytest.fixture(scope='session')
def sample_clip() -> Path:
    """Return the path of the clip of one man: neutral, smile, relax."""
    return path_or_skip('single_face.mp4')


@pytest.fixture(scope='session')
def no_face_clip() -> Path:
    """Return the path of the clip without any face."""
    return path_or_skip('no_face.mp4')


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Return the folder of data for tests, $FER_SHARED_DATA or ../shared/data by the checkout."""
    own = os.environ.get('FER_SHARED_DATA')
    folder = Path(own) if own else Path(__file__).parents[2] / 'shared' / 'data'
    if not folder.is_dir():
        pytest.skip(f'there is no folder {folder} with data for tests ($FER_SHARED_DATA)')
    return folder


@pytest.fixture(scope='session')
def shipped_model() -> LoadedModel:
    """Return the model of the package."""
    return load_model(SHIPPED_FILE)
