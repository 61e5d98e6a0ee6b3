# SPDX-License-Identifier: Apache-2.0
"""The README's tables name what there is, all of it and nothing else."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')

from node_driver import Listener  # noqa: E402

from fer_perception.node_parameters import PARAMETERS  # noqa: E402

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / 'README.md').read_text('utf-8')
NODE = ('fer_node', '/fer')
EVERY_NODE = {'/rosout', '/parameter_events', '/fer/fer_node/transition_event'}


def table(header: str) -> list[list[str]]:
    """Return the cells of every row of the table whose first heading this is."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith(f'| {header} |'):
            break
    assert next(lines).startswith('|---')
    rows = []
    for line in lines:
        if not line.startswith('|'):
            break
        rows.append([cell.strip() for cell in line.strip('|').split(' | ')])
    return rows


def code(cell: str) -> str:
    """Return what is in the first backticks of a cell."""
    found = re.search(r'`([^`]+)`', cell)
    return found[1] if found else cell


def test_topics_are_those_of_the_node(
    node_in_process: Callable[..., Any], listener: Listener
) -> None:
    node_in_process()
    listener.wait_for_node()
    named = {code(row[0]): code(row[1]) for row in table('topic')}
    optional = {'/fer/image_annotations', '/humans/faces/...'}  # need packages of their own
    offered = dict(listener.node.get_publisher_names_and_types_by_node(*NODE))
    published = {
        topic: kinds[0].replace('/msg/', '/')
        for topic, kinds in offered.items()
        if topic not in EVERY_NODE
    }
    in_readme = {topic: kind for topic, kind in named.items() if topic.startswith('/')}
    assert published.items() <= in_readme.items()
    assert in_readme.keys() - optional <= published.keys()
    subscribed = dict(listener.node.get_subscriber_names_and_types_by_node(*NODE))
    assert named['image'] == 'sensor_msgs/Image'
    assert subscribed.keys() - EVERY_NODE - {'/clock'} == {'/fer/image'}


def test_services_are_those_of_the_node(
    running_node: Callable[..., Any], listener: Listener
) -> None:
    running_node()
    listener.wait_for_node()
    services: dict[str, list[str]] = {}

    def are_found() -> bool:
        services.update(listener.node.get_service_names_and_types_by_node(*NODE))
        return '/fer/fer_node/reset' in services

    assert listener.wait(are_found)
    own = {
        name: kinds[0].replace('/srv/', '/')
        for name, kinds in services.items()
        if 'lifecycle_msgs' not in kinds[0] and 'interfaces' not in kinds[0]
    }
    named = {code(row[0]): code(row[1]) for row in table('service')}
    assert named.pop('/fer/fer_node/change_state') == 'lifecycle_msgs'
    assert sum('lifecycle_msgs' in kinds[0] for kinds in services.values()) == 5
    assert own == named


def test_parameters_are_those_of_the_node_with_their_defaults() -> None:
    rows = table('parameter')
    assert [code(row[0]) for row in rows] == list(PARAMETERS)
    for name, default, text in rows:
        parameter = PARAMETERS[code(name)]
        expected = parameter.default
        written = "''" if expected == '' else str(expected).lower()
        assert code(default) == written, name
        assert ('Live' in text) == (parameter.read == 'live'), name


def test_tools_are_those_that_are_installed_with_their_exit_codes() -> None:
    setup = (CHECKOUT / 'setup.py').read_text('utf-8')
    commands = dict(re.findall(r"f?'(fer_\w+) = \{?(\w+)\}?", setup))
    rows = {code(row[0]): row for row in table('command')}
    assert set(rows) == set(commands)
    for name, (_, text, exit_codes) in rows.items():
        assert text and exit_codes.startswith('0'), name


@pytest.mark.parametrize(
    'command', [code(row[0]) for row in table('command') if '2 command line' in row[2]]
)
def test_a_wrong_command_line_ends_with_2(command: str) -> None:
    setup = (CHECKOUT / 'setup.py').read_text('utf-8')
    found = re.search(rf"'{command} = (\S+):main'", setup)
    assert found is not None
    module = found[1].replace('{PACKAGE}', 'fer_perception')
    run = f'import sys; sys.argv = ["{command}", "--no-such-option"]; import {module} as tool; '
    run += 'sys.exit(tool.main())'
    ended = subprocess.run(
        [sys.executable, '-c', run], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 2, ended.stderr
    assert 'Traceback' not in ended.stderr
