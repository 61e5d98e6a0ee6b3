# SPDX-License-Identifier: Apache-2.0
"""Downloads arrive whole or not at all, and go on where they were broken off."""

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_servers import Behaviour, ftp_server, http_server

from fer_training import download
from fer_training.download import DownloadError, download_file
from fer_training.learner import ProgressiveSpatioTemporalBLNLearner
from fer_training.reference_server import SERVER_URL

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, 'PAUSE_S', 0.0)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / 'served'
    folder.mkdir()
    (folder / 'clip data.npy').write_bytes(CONTENT)
    return folder


@pytest.fixture(params=['http', 'ftp'])
def server(request: pytest.FixtureRequest, served: Path) -> Iterator[tuple[str, Behaviour]]:
    open_server = http_server if request.param == 'http' else ftp_server
    with open_server(served) as (url, behaviour):
        yield f'{url}/clip%20data.npy', behaviour


def assert_only(target: Path, content: bytes) -> None:
    assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def test_a_file_arrives_whole_and_is_not_fetched_twice(
    server: tuple[str, Behaviour], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, behaviour = server
    target = tmp_path / 'new' / 'folder' / 'data.npy'
    for _ in range(2):
        assert download_file(url, target) == target
    assert_only(target, CONTENT)
    assert behaviour.asked == ['clip data.npy+0']
    assert capsys.readouterr() == ('', '')
    download_file(url, tmp_path / 'again' / 'data.npy', progress=True)
    assert '300k' in capsys.readouterr().err


def test_a_file_of_this_machine_is_copied(served: Path, tmp_path: Path) -> None:
    source = served / 'clip data.npy'
    target = tmp_path / 'copy' / 'data.npy'
    download_file(source.as_uri(), target)
    assert_only(target, CONTENT)
    with pytest.raises(DownloadError, match='there is no file'):
        download_file(source.as_uri() + 'x', tmp_path / 'x')
    with pytest.raises(DownloadError, match='this machine'):
        download_file('file://elsewhere/data', tmp_path / 'x')


def test_a_broken_transfer_goes_on_where_it_ended(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.break_after = [100_000, 50_000]
    target = tmp_path / 'copy' / 'data.npy'
    download_file(url, target)
    assert_only(target, CONTENT)
    assert behaviour.asked == [f'clip data.npy+{offset}' for offset in (0, 100_000, 150_000)]


def test_a_later_call_goes_on_too(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.break_after = [70_000, 0, 0]
    target = tmp_path / 'copy' / 'data.npy'
    with pytest.raises(DownloadError, match='(but 70000 came|426).*70000 bytes have arrived'):
        download_file(url, target)
    assert not target.exists()
    behaviour.asked.clear()
    download_file(url, target)
    assert_only(target, CONTENT)
    assert behaviour.asked == ['clip data.npy+70000']


def test_a_file_that_has_changed_is_fetched_anew(
    server: tuple[str, Behaviour], served: Path, tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.break_after = [70_000, 0, 0]
    target = tmp_path / 'copy' / 'data.npy'
    with pytest.raises(DownloadError):
        download_file(url, target)
    for changed in (OTHER, OTHER[:50_000]):  # shorter than what has arrived: nothing to go on
        behaviour.break_after = []
        (served / 'clip data.npy').write_bytes(changed)
        download_file(url, target)
        assert_only(target, changed)
        target.unlink()
        behaviour.break_after = [70_000, 0, 0] if changed is OTHER else []
        if changed is OTHER:
            with pytest.raises(DownloadError):
                download_file(url, target)


@pytest.mark.parametrize('tells', [True, False])
def test_servers_that_cannot_resume_or_tell_sizes_serve_too(
    server: tuple[str, Behaviour], tmp_path: Path, tells: bool
) -> None:
    url, behaviour = server
    behaviour.resumes, behaviour.tells = False, tells
    behaviour.break_after = [90_000] if tells else []
    target = tmp_path / 'copy' / 'data.npy'
    download_file(url, target)
    assert_only(target, CONTENT)


def test_a_local_copy_goes_on_as_well(served: Path, tmp_path: Path) -> None:
    source, target = served / 'clip data.npy', tmp_path / 'copy' / 'data.npy'
    target.parent.mkdir()
    (target.parent / 'data.npy.part').write_bytes(b'x' * 10)  # of no known version
    download_file(source.as_uri(), target)
    assert_only(target, CONTENT)


def test_what_cannot_be_had_is_said_in_one_line(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    with pytest.raises(DownloadError, match='missing.npy.*(404|550)') as caught:
        download_file(url.replace('clip%20data', 'missing'), tmp_path / 'x')
    assert '\n' not in str(caught.value)
    assert len(behaviour.asked) <= 1  # the answer would be the same
    with socket.create_server(('127.0.0.1', 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(DownloadError, match='refused'):
        download_file(f'{url[: url.index(":")]}://127.0.0.1:{port}/x', tmp_path / 'x')
    assert not list(tmp_path.glob('x*'))


@pytest.mark.parametrize('url', ['data.npy', 'gopher://host/x', 'data:text/plain,x'])
def test_other_urls_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='must begin with http://'):
        download_file(url, tmp_path / 'x')


def test_the_learner_puts_the_files_where_its_users_look_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {
        'data/CK+': ('train.npy', 'train_labels.pkl', 'val.npy', 'val_labels.pkl'),
        'pretrained_models': ('pretrained_pstbln.pt', 'pretrained_pstbln.json'),
    }
    for place, files in names.items():
        (tmp_path / 'served' / place).mkdir(parents=True)
        for name in files:
            (tmp_path / 'served' / place / name).write_text(name)
    learner = ProgressiveSpatioTemporalBLNLearner(
        device='cpu', dataset_name='ck+', temp_path=str(tmp_path / 'temp')
    )
    with ftp_server(tmp_path / 'served') as (url, behaviour):
        for mode, where, brought in (
            ('train_data', 'CK+', ['train.npy', 'train_labels.pkl']),
            ('test_data', 'CK+/val.npy', ['val.npy']),
            ('val_data', 'CK+', ['val_labels.pkl']),  # val.npy is there already
            ('pretrained', 'pretrained_models', list(names['pretrained_models'])),
        ):
            behaviour.asked.clear()
            assert learner.download(mode=mode, url=f'{url}/') == str(tmp_path / 'temp' / where)
            assert sorted(behaviour.asked) == sorted(f'{name}+0' for name in brought)
        own = learner.download(str(tmp_path / 'own'), 'test_data', False, url)
    assert Path(own).read_text() == 'val.npy' and Path(own).parent.name == 'CK+'
    assert 'val.npy is there already' in capsys.readouterr().out


def test_the_class_downloads_without_a_learner(tmp_path: Path) -> None:
    (tmp_path / 'served/data/CASIA').mkdir(parents=True)
    (tmp_path / 'served/data/CASIA/val.npy').write_text('casia')
    path = ProgressiveSpatioTemporalBLNLearner.download(
        path=str(tmp_path / 'own'), mode='test_data', verbose=False,
        url=(tmp_path / 'served').as_uri(),
    )
    assert Path(path).read_text() == 'casia'
    with pytest.raises(ValueError, match="unknown mode 'demo'; use pretrained, train_data"):
        ProgressiveSpatioTemporalBLNLearner.download(mode='demo')


def test_the_default_server_is_that_of_the_reference() -> None:
    assert SERVER_URL == (
        'ftp://opendrdata.csd.auth.gr/perception/landmark_based_facial_expression_recognition/'
    )
