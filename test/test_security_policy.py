# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy grants the running node what it needs and no more; no code runs what it reads.

Fast DDS of the PyPI wheels has no security, so nothing is enforced here: what a node does is asked
of the ROS graph.
"""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[1]
POLICY = CHECKOUT / 'config' / 'fer_policy.xml'
NAMESPACE, NODE = '/fer', 'fer_node'
LIMIT_S = 60.0

# SROS2's schema, version 0.2.0 (sros2/policy/schemas/policy.xsd), as far as the file may use it:
# the attributes that an element has, with what they may say, and the elements in it.
SCHEMA: dict[str, tuple[dict[str, str], set[str]]] = {
    'policy': ({'version': r'0\.2\.0'}, {'enclaves'}),
    'enclaves': ({}, {'enclave'}),
    'enclave': ({'path': '(/[a-z_]+)+'}, {'profiles'}),
    'profiles': ({}, {'profile'}),
    'profile': ({'ns': '(/[a-z_]+)+', 'node': '[a-z_]+'}, {'topics', 'services'}),
    'topics': ({'publish': 'ALLOW', 'subscribe': 'ALLOW'}, {'topic'}),
    'services': ({'reply': 'ALLOW', 'request': 'ALLOW'}, {'service'}),
    'topic': ({}, set()),
    'service': ({}, set()),
}
ROLES = ('publish', 'subscribe', 'reply', 'request')
NAME = re.compile(r'(~?/)?[a-z_]+(/[a-z_]+)*')  # no wildcards

# Not of every node: the parameters that bring them are set below, or the reason stands here.
UNUSED_WITHOUT = {
    'foxglove_msgs': ('publish', '/fer/image_annotations'),
    'type_description_interfaces': ('reply', '/fer/fer_node/get_type_description'),  # Humble
}
VARIANTS = (
    (),
    ('-p', 'use_sim_time:=true', '-p', 'image_transport:=compressed'),
)

Grants = set[tuple[str, str]]  # role and resolved name


def granted() -> Grants:
    """Read the policy's grants, names resolved as SROS2 does: ~ is the node, others relative."""
    grants: Grants = set()
    for profile in ElementTree.parse(POLICY).iter('profile'):
        namespace = profile.get('ns', '').rstrip('/')
        for rules in profile:
            for expression in rules:
                name = (expression.text or '').strip()
                if name.startswith('~'):
                    name = f'{namespace}/{profile.get("node")}{name[1:]}'
                elif not name.startswith('/'):
                    name = f'{namespace}/{name}'
                grants |= {(role, name) for role in ROLES if rules.get(role) == 'ALLOW'}
    return grants


def test_the_policy_is_of_the_schema_and_has_no_wildcards() -> None:
    root = ElementTree.parse(POLICY).getroot()
    assert root.tag == 'policy'
    for element in root.iter():
        attributes, children = SCHEMA[element.tag]
        for name, value in element.attrib.items():
            assert re.fullmatch(attributes[name], value), (element.tag, name, value)
        assert {child.tag for child in element} <= children, element.tag
        text = (element.text or '').strip()
        if children:
            assert len(element) and not text, element.tag
            is_rule = element.tag in ('topics', 'services')
            assert len(element.attrib) == (1 if is_rule else len(attributes)), element.tag
        else:
            assert NAME.fullmatch(text), text


def test_the_policy_is_of_the_node_and_grants_nothing_twice() -> None:
    profiles = list(ElementTree.parse(POLICY).iter('profile'))
    assert [(profile.get('ns'), profile.get('node')) for profile in profiles] == [
        (NAMESPACE, NODE)
    ]
    names = [
        (*rules.attrib, expression.text) for rules in profiles[0] for expression in rules
    ]
    assert len(names) == len(set(names)) == len(granted())


@pytest.fixture
def used(landmark_model_path: Path) -> Iterator[Callable[..., Grants]]:
    """Start nodes as fer.launch.py does and ask the graph what they do, once they are active."""
    rclpy = pytest.importorskip('rclpy', reason='ROS is neither installed nor sourced')
    pytest.importorskip('fer_msgs', reason='fer_msgs is not built or not sourced')
    rclpy.init()
    probe = rclpy.create_node('probe')
    questions: dict[str, Callable[[str, str], Any]] = {
        'publish': probe.get_publisher_names_and_types_by_node,
        'subscribe': probe.get_subscriber_names_and_types_by_node,
        'reply': probe.get_service_names_and_types_by_node,
        'request': probe.get_client_names_and_types_by_node,
    }
    started: list[subprocess.Popen[str]] = []

    def ask() -> Grants:
        return {
            (role, name) for role in ROLES for name, _ in questions[role](NODE, NAMESPACE)
        }

    def start(*arguments: str) -> Grants:
        process = subprocess.Popen(
            [sys.executable, '-m', 'fer_perception.node', '--ros-args',
             '-r', 'image:=/image_raw', *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, 'FER_LANDMARK_MODEL': str(landmark_model_path)},
        )
        started.append(process)
        end = time.monotonic() + LIMIT_S
        found: Grants = set()
        quiet = 0
        while quiet < 10:  # nothing new for a second after the camera's topic is subscribed
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, f'the node did not become active: {found}'
            time.sleep(0.1)
            before = found
            if (NODE, NAMESPACE) in probe.get_node_names_and_namespaces():
                found = found | ask()
            is_active = any(role == 'subscribe' and 'image' in name for role, name in found)
            quiet = quiet + 1 if is_active and found == before else 0
        process.terminate()
        process.communicate(timeout=LIMIT_S)
        while (NODE, NAMESPACE) in probe.get_node_names_and_namespaces():
            assert time.monotonic() < end
            time.sleep(0.1)
        return found

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    probe.destroy_node()
    rclpy.try_shutdown()


def test_the_running_node_uses_what_is_granted_and_nothing_else(
    used: Callable[..., Grants]
) -> None:
    found: Grants = set()
    for arguments in VARIANTS:
        found |= used(*arguments)
    unused = {
        grant for package, grant in UNUSED_WITHOUT.items()
        if importlib.util.find_spec(package) is None
    }
    assert found - granted() == set(), 'needed, but not granted'
    assert granted() - found - unused == set(), 'granted, but not used'


# What may run what it reads, unless it is called as it is here.
DANGEROUS = {'eval', 'exec', 'compile', 'os.system', 'os.popen', 'pickle.load', 'pickle.Unpickler',
             'joblib.load', 'dill.load', 'dill.loads', 'marshal.loads', 'yaml.load'}
HARMLESS_WITH = {
    'np.load': ('allow_pickle', False),
    'torch.load': ('weights_only', True),
    'npy.read_array': ('allow_pickle', False),
}
UNPICKLERS = {'fer_training/reference_format.py'}  # after it has looked at every instruction


def calls_that_may_run_something(text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {
            keyword.arg: keyword.value.value for keyword in node.keywords
            if isinstance(keyword.value, ast.Constant)
        }
        rule = HARMLESS_WITH.get(name)
        is_open = rule is not None and given.get(rule[0]) is not rule[1]
        if name in DANGEROUS or is_open or given.get('shell'):
            found.append(f'line {node.lineno}: {name}')
        elif name == 'pickle.loads':
            found.append(name)
    return found


@pytest.mark.parametrize(
    'call',
    ['eval(x)', 'np.load(x)', 'np.load(x, allow_pickle=True)', 'torch.load(x)', 'pickle.loads(x)',
     'subprocess.run(x, shell=True)', 'os.system(x)'],
)
def test_calls_that_may_run_something_are_found(call: str) -> None:
    assert calls_that_may_run_something(f'y = [{call}]')


@pytest.mark.parametrize('folder', ['fer_perception', 'fer_training', 'launch', 'scripts'])
def test_nothing_that_is_read_is_run(folder: str) -> None:
    files = sorted((CHECKOUT / folder).rglob('*.py'))
    assert files
    for file in files:
        name = file.relative_to(CHECKOUT).as_posix()
        found = calls_that_may_run_something(file.read_text('utf-8'))
        assert found == (['pickle.loads'] if name in UNPICKLERS else []), name
