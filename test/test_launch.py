# SPDX-License-Identifier: Apache-2.0
"""fer.launch.py through the real launch_ros, and the parameters file that it hands to the node."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import fer_perception
from fer_perception.node_parameters import PARAMETERS

CHECKOUT = Path(__file__).parents[1]
LAUNCH_FILE = CHECKOUT / 'launch' / 'fer.launch.py'
PARAMETERS_FILE = CHECKOUT / 'config' / 'fer.yaml'
LIMIT_S = 60.0

ARGUMENTS = {  # name: choices
    'image_topic': None,
    'image_transport': ['', 'raw', 'compressed'],
    'params_file': None,
    'recognizer': ['', 'pst_bln', 'fer_gcn', 'part_ensemble', 'abaw_ensemble', 'fused'],
    'model': None,
    'image_model': None,
    'device': ['', 'auto', 'cpu', 'cuda'],
    'hri_mode': ['', 'off', 'standalone', 'attached'],
    'autostart': ['', 'true', 'false', 'True', 'False'],
    'namespace': None,
    'use_sim_time': ['', 'true', 'false', 'True', 'False'],
    'log_level': ['debug', 'info', 'warn', 'error', 'fatal'],
}

# Launches a file with name:=value arguments. Ends with 1 if launch or a process failed.
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource

failed = []

def keep(event, context):
    if event.returncode:
        failed.append(event.process_name)

arguments = [tuple(argument.split(':=', 1)) for argument in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
service = LaunchService()
service.include_launch_description(LaunchDescription([
    RegisterEventHandler(OnProcessExit(on_exit=keep)),
    IncludeLaunchDescription(source, launch_arguments=arguments),
]))
sys.exit(service.run() or bool(failed))
"""

# Stands in for fer_node: writes down what it was started with.
SPY = """
import json, os, sys
from pathlib import Path

arguments = sys.argv[1:]
files = [arguments[i + 1] for i, name in enumerate(arguments) if name == '--params-file']
started = {'arguments': arguments, 'parameters': [Path(file).read_text() for file in files]}
Path(os.environ['SPY_FILE']).write_text(json.dumps(started))
"""


def parameters_of(text: str | Path) -> dict[str, Any]:
    """Return the parameters in a parameters file, or in its text, that are for every node."""
    content = YAML(typ='safe', pure=True).load(text)
    assert list(content) == ['/**']
    assert list(content['/**']) == ['ros__parameters']
    return content['/**']['ros__parameters']


class Launcher:
    """Launches fer.launch.py with this checkout installed as a ROS package in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.share = folder / 'prefix' / 'share' / 'fer_perception'
        self.executable = folder / 'prefix' / 'lib' / 'fer_perception' / 'fer_node'
        index = folder / 'prefix' / 'share' / 'ament_index' / 'resource_index' / 'packages'
        for parent in (index, self.share, self.executable.parent):
            parent.mkdir(parents=True)
        (index / 'fer_perception').touch()
        for name in ('launch', 'config'):
            shutil.copytree(CHECKOUT / name, self.share / name)
        self.install('-m', 'fer_perception.node')
        self.environment = {
            **os.environ,
            'AMENT_PREFIX_PATH': _paths(folder / 'prefix', os.environ.get('AMENT_PREFIX_PATH')),
            'PYTHONPATH': _paths(
                Path(fer_perception.__file__).parents[1], os.environ.get('PYTHONPATH')
            ),
            'ROS_LOG_DIR': str(folder / 'log'),
            'TMPDIR': str(folder),
            'SPY_FILE': str(folder / 'spy.json'),
        }

    def install(self, *python_arguments: str) -> None:
        """Make the executable one that runs Python with these arguments."""
        command = shlex.join([sys.executable, *python_arguments])
        self.executable.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        self.executable.chmod(0o755)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the launch in a process group of its own, as a shell does."""
        self._output = (self.folder / 'output.txt').open('w')
        return subprocess.Popen(
            [sys.executable, '-c', LAUNCH, str(self.share / 'launch' / 'fer.launch.py')]
            + list(arguments),
            env=self.environment,
            cwd=self.folder,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        """Return what launch and the node have written."""
        return (self.folder / 'output.txt').read_text()

    def started_with(self, *arguments: str) -> tuple[list[str], list[dict[str, Any]]]:
        """Launch a stand-in; return its command line and the content of its parameter files."""
        self.install('-c', SPY)
        assert self.start(*arguments).wait(LIMIT_S) == 0, self.output
        started = json.loads(Path(self.environment['SPY_FILE']).read_text())
        return started['arguments'], [parameters_of(text) for text in started['parameters']]


def _paths(first: Path, others: str | None) -> str:
    return os.pathsep.join([str(first), *([others] if others else [])])


@pytest.fixture
def launch_api() -> Any:
    # Not of `launch`: the folder of that name in the checkout is importable as well.
    pytest.importorskip('launch_ros.actions', reason='launch_ros is neither installed nor sourced')
    import launch.actions
    import launch.launch_description_sources

    return launch


@pytest.fixture
def launcher(launch_api: Any, tmp_path: Path) -> Launcher:
    return Launcher(tmp_path)


@pytest.fixture
def watcher() -> Iterator[Any]:
    """Yield a node that sees who publishes and subscribes in the domain of the tests."""
    rclpy = pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
    pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('launch_watcher', context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Wait until a condition holds, the process has ended, or the time is over."""
    end = time.monotonic() + LIMIT_S
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_the_parameters_file_names_every_parameter_with_its_default() -> None:
    written = parameters_of(PARAMETERS_FILE)
    defaults = {name: parameter.default for name, parameter in PARAMETERS.items()}
    assert written == defaults
    # 1 == 1.0 == True, but ROS refuses a parameter of another type.
    assert {name: type(value) for name, value in written.items()} == {
        name: type(default) for name, default in defaults.items()
    }


def test_every_argument_is_declared_with_description_and_choices(launch_api: Any) -> None:
    source = launch_api.launch_description_sources.PythonLaunchDescriptionSource(str(LAUNCH_FILE))
    description = source.get_launch_description(launch_api.LaunchContext())
    declared = [
        entity
        for entity in description.entities
        if isinstance(entity, launch_api.actions.DeclareLaunchArgument)
    ]
    assert declared == description.get_launch_arguments()  # what `ros2 launch -s` shows
    assert {argument.name: argument.choices for argument in declared} == ARGUMENTS
    for argument in declared:
        assert argument.default_value is not None, f'{argument.name} must not be required'
        assert '.' in argument.description, f'{argument.name} has no description'


def test_without_arguments_the_parameters_file_alone_is_in_force(launcher: Launcher) -> None:
    arguments, parameters = launcher.started_with()
    assert parameters == [parameters_of(PARAMETERS_FILE)]
    assert '-p' not in arguments
    assert arguments[arguments.index('--log-level') + 1] == 'info'
    assert {'__ns:=/fer', 'image:=/image_raw'} <= set(arguments)


def test_arguments_override_the_parameters_file(launcher: Launcher) -> None:
    own = launcher.folder / 'own.yaml'
    own.write_text('/**:\n  ros__parameters: {mc_samples: 7, device: auto}\n')
    arguments, parameters = launcher.started_with(
        f'params_file:={own}',
        'image_topic:=/camera/image',
        'namespace:=robot/head',
        'log_level:=debug',
        'image_transport:=compressed',
        'model:=5',
        'device:=cpu',
        'use_sim_time:=True',
    )
    assert parameters == [
        {'mc_samples': 7, 'device': 'auto'},
        {'image_transport': 'compressed', 'model': '5', 'device': 'cpu', 'use_sim_time': True},
    ]
    assert arguments[arguments.index('--log-level') + 1] == 'debug'
    assert {'__ns:=/robot/head', 'image:=/camera/image'} <= set(arguments)


@pytest.mark.parametrize(
    ('name', 'value'), [('device', 'cpu'), ('use_sim_time', False), ('model', '/m.safetensors')]
)
def test_one_argument_overrides_one_parameter(launcher: Launcher, name: str, value: Any) -> None:
    text = value if isinstance(value, str) else str(value).lower()
    _, parameters = launcher.started_with(f'{name}:={text}')
    assert parameters == [parameters_of(PARAMETERS_FILE), {name: value}]


@pytest.mark.parametrize(
    ('argument', 'words'),
    [
        ('params_file:=/no/such.yaml', 'params_file /no/such.yaml does not exist'),
        ('device:=gpu', 'Argument "device" provided value "gpu" is not valid'),
        ('use_sim_time:=yes', 'Argument "use_sim_time" provided value "yes" is not valid'),
    ],
)
def test_a_wrong_argument_ends_the_launch_with_the_reason(
    launcher: Launcher, argument: str, words: str
) -> None:
    assert launcher.start(argument).wait(LIMIT_S) == 1
    assert words in launcher.output
    assert 'Traceback' not in launcher.output
    assert 'process started' not in launcher.output


@pytest.mark.parametrize(
    ('arguments', 'namespace', 'images'),
    [
        ((), '/fer', '/image_raw'),
        (
            ('namespace:=robot/head', 'image_transport:=compressed', 'image_topic:=/camera/image'),
            '/robot/head',
            '/camera/image/compressed',
        ),
    ],
    ids=['default', 'own names'],
)
def test_the_node_comes_up_and_ctrl_c_ends_it_cleanly(
    launcher: Launcher,
    watcher: Any,
    landmark_model_path: Path,
    arguments: tuple[str, ...],
    namespace: str,
    images: str,
) -> None:
    def is_node(endpoint: Any) -> bool:
        return (endpoint.node_namespace, endpoint.node_name) == (namespace, 'fer_node')

    def is_up() -> bool:
        outputs = [
            f'{namespace}/{name}'
            for name in ('expression', 'expressions', 'landmarks', 'image_annotated')
        ]
        return any(map(is_node, watcher.get_subscriptions_info_by_topic(images))) and all(
            any(map(is_node, watcher.get_publishers_info_by_topic(topic))) for topic in outputs
        )

    process = launcher.start('device:=cpu', *arguments)
    try:
        assert wait_for(is_up, process), f'{namespace}/fer_node is not up:\n{launcher.output}'
        os.killpg(process.pid, signal.SIGINT)  # to launch and to the node, as a terminal does
        assert process.wait(LIMIT_S) == 0, launcher.output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert 'Traceback' not in launcher.output
