# SPDX-License-Identifier: Apache-2.0
"""fer_view starts, warns, complains and ends as a program should."""

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from view_processes import ended_view, running_view

from fer_perception.view.cli import main, parse_arguments

pytest.importorskip('aiohttp', reason='the page needs the extra [view]')


@pytest.fixture(autouse=True)
def signals(landmark_model_path: Path) -> Iterator[None]:
    """Put back what main changes; without the landmark model these tests skip."""
    former = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, former)


def test_it_serves_the_page_on_this_machine_until_ctrl_c(sample_clip: Path) -> None:
    with running_view(sample_clip, '--mc-samples', '2') as view:
        assert view.address.startswith('http://127.0.0.1:')
        with urlopen(view.address, timeout=30) as response:
            assert b'<title>fer_view</title>' in response.read()
        returned, errors = view.interrupt()
    assert returned == 0 and errors == ''


def test_it_warns_when_the_network_can_see_the_faces(sample_clip: Path) -> None:
    with running_view(sample_clip, '--mc-samples', '2', '--host', '0.0.0.0') as view:
        returned, errors = view.interrupt()
    assert returned == 0
    assert 'warning' in errors and '0.0.0.0' in errors and 'password' in errors


def test_a_port_in_use_ends_with_one_line(sample_clip: Path) -> None:
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = other.getsockname()[1]
        ended = ended_view(str(sample_clip), '--port', str(port), '--mc-samples', '2')
    assert ended.returncode == 1
    assert f'port {port}' in ended.stderr and '--port' in ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and ended.stdout == ''


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('nowhere.mp4',), 'nowhere.mp4'),
        (('.', '--landmark-model', 'nothing.dat'), 'no image'),
        (('CLIP', '--landmark-model', 'nothing.dat'), 'nothing.dat'),
        (('CLIP', '--model', 'nothing.safetensors'), 'nothing.safetensors'),
        (('CLIP', '--mc-samples', '0'), 'samples'),
        (('CLIP', '--topic', '/image'), '/image'),
    ],
)
def test_bad_input_ends_with_one_line(
    arguments: tuple[str, ...],
    message: str,
    sample_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(sample_clip) if item == 'CLIP' else item for item in arguments]) == 1
    shown = capsys.readouterr()
    assert message in shown.err and len(shown.err.splitlines()) == 1 and shown.out == ''


def test_without_aiohttp_it_says_what_to_install(
    sample_clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'aiohttp', None)
    assert main([str(sample_clip)]) == 1
    error = capsys.readouterr().err
    assert 'aiohttp' in error and 'pip install' in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    'options', [('--rate', '0'), ('--rate', 'nan'), ('--port', '65536'), ('--host', '')]
)
def test_options_out_of_range_are_refused(
    options: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(['clip.mp4', *options])
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err
