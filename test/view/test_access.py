# SPDX-License-Identifier: Apache-2.0
"""Only the page of this server may see faces: no other site in the same browser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_perception.view.access import (
    is_loopback,
    is_own_host,
    is_own_origin,
    own_names,
    page_address,
)

NAMES = frozenset({'robot', 'robot.local'})


@pytest.mark.parametrize(
    'host',
    [
        '127.0.0.1:8068', '127.0.0.1', 'localhost:8068', 'LOCALHOST', '[::1]:8068', '[::1]',
        '192.168.1.7:80', 'robot:8068', 'Robot.local',
    ],
)
def test_addresses_and_own_names_are_taken(host: str) -> None:
    assert is_own_host(host, NAMES)


@pytest.mark.parametrize(
    'host',
    [
        '', 'evil.example:8068', 'localhost.evil.example', '127.0.0.1.evil.example', 'robot.evil',
        '127.0.0.1@evil.example', 'evil.example#127.0.0.1', 'evil.example/127.0.0.1', '[::1',
        '127.0.0.1:8068:9', 'localhost ', '[::g]:1', '[127.0.0.1]', '[]', ':8068', '1', 'robot..',
    ],
)
def test_other_names_are_refused(host: str) -> None:
    assert not is_own_host(host, NAMES)


@given(st.text(max_size=40))
def test_no_header_is_too_strange_to_be_judged(header: str) -> None:
    assert is_own_host(header, NAMES) in (True, False)
    assert is_own_host(f'{header}.example', NAMES) is False


@pytest.mark.parametrize(
    ('origin', 'host', 'is_own'),
    [
        ('http://127.0.0.1:8068', '127.0.0.1:8068', True),
        ('http://Localhost:8068', 'localhost:8068', True),
        ('https://robot.local', 'robot.local', True),  # behind a proxy with a certificate
        ('', '127.0.0.1:8068', False),  # no browser's page
        ('null', '127.0.0.1:8068', False),  # a page in a sandbox, or a file
        ('http://evil.example', '127.0.0.1:8068', False),
        ('http://127.0.0.1:9999', '127.0.0.1:8068', False),  # another server of this machine
        ('http://localhost:8068', '127.0.0.1:8068', False),
        ('http://127.0.0.1:8068.evil.example', '127.0.0.1:8068', False),
        ('http://127.0.0.1:8068/', '127.0.0.1:8068', False),
    ],
)
def test_an_origin_must_be_the_host_itself(origin: str, host: str, is_own: bool) -> None:
    assert is_own_origin(origin, host) is is_own


@pytest.mark.parametrize('host', ['127.0.0.1', '127.3.2.1', '::1', 'localhost', 'LocalHost'])
def test_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize('host', ['0.0.0.0', '::', '192.168.1.7', 'robot', 'localhost.example'])
def test_the_network(host: str) -> None:
    assert not is_loopback(host)


def test_a_server_is_known_by_the_name_it_is_bound_to() -> None:
    assert is_own_host('my-robot:8068', own_names('My-Robot'))


@pytest.mark.parametrize(
    ('host', 'address'),
    [
        ('127.0.0.1', 'http://127.0.0.1:80/'),
        ('::1', 'http://[::1]:80/'),
        ('robot', 'http://robot:80/'),
    ],
)
def test_the_address_can_be_opened(host: str, address: str) -> None:
    assert page_address(host, 80) == address


@pytest.mark.parametrize('host', ['0.0.0.0', '::'])
def test_an_address_of_all_networks_is_told_by_name(host: str) -> None:
    address = page_address(host, 80)
    assert host not in address
    assert is_own_host(address.removeprefix('http://').removesuffix('/'), own_names(host))
