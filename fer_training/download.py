# SPDX-License-Identifier: Apache-2.0
"""Download of a file from http, https, ftp or file URLs; what was broken off is gone on with."""

import contextlib
import ftplib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import Request, url2pathname, urlopen

from tqdm import tqdm

TRIES = 3
PAUSE_S = 1.0  # before the second try, twice as long before the third
TIMEOUT_S = 30.0  # without an answer
CHUNK_BYTES = 1 << 18
SCHEMES = ('http', 'https', 'ftp', 'file')


class DownloadError(OSError):
    """Say which URL could not be downloaded, and why."""


def download_file(
    url: str, target: Path, *, progress: bool = False, timeout_s: float = TIMEOUT_S
) -> Path:
    """Download a file, unless it is there already; return its path.

    What has arrived is kept in `<target>.part` until it is whole, and the next call goes on from
    there, if the file on the server is still the same. The size is checked where the server tells
    it. A broken connection is tried again. Raises ValueError for a URL of another scheme, and
    DownloadError naming the URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f'cannot download {url!r}: it must begin with {"://, ".join(SCHEMES)}://')
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(target)
    for attempt in range(TRIES):
        try:
            _transfer(url, parts, partial, progress, timeout_s)
        except _GivenUp as error:
            raise DownloadError(f'cannot download {url}: {error}') from error
        except (OSError, EOFError, HTTPException, ftplib.Error) as error:
            if attempt == TRIES - 1:
                raise DownloadError(
                    f'cannot download {url}: {_reason(error)}; {partial.size} bytes have arrived, '
                    'another try goes on from there'
                ) from error
            time.sleep(PAUSE_S * (attempt + 1))
        else:
            break
    partial.finish()
    return target


class _GivenUp(Exception):
    """The server's answer will be the same next time."""


@dataclass(frozen=True)
class _Version:
    """What tells one version of a file from another."""

    size: int | None = None  # bytes; None: the server does not tell
    tag: str = ''  # changes with the content; empty: the server does not tell


@dataclass(frozen=True)
class _Begun:
    """What was begun of a file: nothing, if the offset is 0."""

    offset: int = 0  # bytes
    version: _Version = _Version()


@dataclass(frozen=True)
class _Remote:
    """An open file on a server."""

    stream: IO[bytes]
    offset: int  # of the file's byte that the stream begins with
    version: _Version


class _Partial:
    """What has arrived of a file, and of which version of it."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(f'{target.name}.part')
        self._note = target.with_name(f'{target.name}.part.json')

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def begun(self) -> _Begun | None:
        """What has arrived; None if that is nothing, or of a version that was not told."""
        try:
            version = _Version(**json.loads(self._note.read_text('utf-8')))
        except (OSError, ValueError, TypeError):
            return None
        return _Begun(self.size, version) if self.size and version != _Version() else None

    def begin(self, version: _Version) -> None:
        self.path.unlink(missing_ok=True)
        self._note.write_text(json.dumps(asdict(version)), 'utf-8')

    def finish(self) -> None:
        self.path.replace(self._target)
        self._note.unlink(missing_ok=True)


def _transfer(
    url: str, parts: SplitResult, partial: _Partial, progress: bool, timeout_s: float
) -> None:
    """Fetch what is missing of a file."""
    begun = partial.begun
    if begun is None or not _fetch(url, parts, partial, begun, progress, timeout_s):
        _fetch(url, parts, partial, _Begun(), progress, timeout_s)


def _fetch(
    url: str,
    parts: SplitResult,
    partial: _Partial,
    begun: _Begun,
    progress: bool,
    timeout_s: float,
) -> bool:
    """Append what the server gives; False if it has another version than what was begun."""
    with _open(url, parts, begun, timeout_s) as remote:
        if remote is None:
            return False
        if not remote.offset:
            partial.begin(remote.version)
        size = remote.version.size
        with (
            partial.path.open('ab') as file,
            tqdm(
                total=size, initial=remote.offset, desc=Path(parts.path).name, unit='B',
                unit_scale=True, disable=not progress,
            ) as bar,
        ):
            while chunk := remote.stream.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    if size is not None and partial.size != size:
        if partial.size > size:
            partial.path.unlink()
        raise ConnectionError(f'the file has {size} bytes, but {partial.size} came')
    return True


def _open(
    url: str, parts: SplitResult, begun: _Begun, timeout_s: float
) -> contextlib.AbstractContextManager[_Remote | None]:
    """Open a file where it was broken off, or at its start if the server can do no better.

    None if the server has another version of it by now.
    """
    if parts.scheme == 'ftp':
        return _open_ftp(parts, begun, timeout_s)
    if parts.scheme == 'file':
        return _open_local(parts, begun)
    return _open_http(url, begun, timeout_s)


@contextmanager
def _open_http(url: str, begun: _Begun, timeout_s: float) -> Iterator[_Remote | None]:
    offset = begun.offset
    headers = {'Range': f'bytes={offset}-'} if offset else {}
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout_s)
    except HTTPError as error:
        error.close()
        if error.code < 500 and not (error.code == 416 and offset):
            raise _GivenUp(f'the server says {error.code} {error.reason}') from error
        if error.code >= 500:
            raise
        response = None  # it has nothing from there on
    if response is None:
        yield None
        return
    with response:
        tag = response.headers.get('ETag') or response.headers.get('Last-Modified') or ''
        start, size = 0, _number(response.headers.get('Content-Length'))
        if response.status == 206:
            start, size = _content_range(response.headers.get('Content-Range', ''))
        version = _Version(size, tag)
        fits = start == 0 or (start == offset and version == begun.version)
        yield _Remote(response, start, version) if fits else None


@contextmanager
def _open_ftp(parts: SplitResult, begun: _Begun, timeout_s: float) -> Iterator[_Remote | None]:
    offset, path = begun.offset, unquote(parts.path).lstrip('/')
    server = ftplib.FTP(timeout=timeout_s)
    try:
        server.connect(parts.hostname or '', parts.port or ftplib.FTP_PORT)
        try:
            server.login(unquote(parts.username or ''), unquote(parts.password or ''))
            server.voidcmd('TYPE I')  # sizes are of bytes then
            version = _Version(
                _number(_asked(server, f'SIZE {path}')), _asked(server, f'MDTM {path}') or ''
            )
            if offset and version != begun.version:
                yield None
                return
            try:
                connection = server.transfercmd(f'RETR {path}', rest=offset or None)
            except ftplib.error_perm:
                if not offset:
                    raise
                offset = 0  # the server cannot begin in the middle
                connection = server.transfercmd(f'RETR {path}')
        except ftplib.error_perm as error:
            raise _GivenUp(f'the server says {error}') from error
        with connection, connection.makefile('rb') as stream:
            yield _Remote(stream, offset, version)
        server.voidresp()
        with contextlib.suppress(*ftplib.all_errors):
            server.quit()
    finally:
        server.close()


@contextmanager
def _open_local(parts: SplitResult, begun: _Begun) -> Iterator[_Remote | None]:
    if parts.netloc not in ('', 'localhost'):
        raise _GivenUp('a file URL names a file of this machine: file:///path')
    path = Path(url2pathname(parts.path))
    if not path.is_file():
        raise _GivenUp(f'there is no file {path}')
    with path.open('rb') as file:
        status = path.stat()
        version = _Version(status.st_size, str(status.st_mtime_ns))
        file.seek(begun.offset)
        fits = not begun.offset or version == begun.version
        yield _Remote(file, begun.offset, version) if fits else None


def _asked(server: ftplib.FTP, command: str) -> str | None:
    """Ask for a fact about a file; None if the server does not tell."""
    try:
        answer = server.sendcmd(command)
    except ftplib.error_perm:
        return None
    return answer[4:].strip() if answer.startswith('213') else None


def _content_range(text: str) -> tuple[int, int | None]:
    """Read 'bytes START-END/SIZE'; SIZE may be '*'. A start of -1 says that it is another text."""
    unit, _, rest = text.partition(' ')
    span, _, size = rest.partition('/')
    start = _number(span.partition('-')[0])
    return (-1 if start is None or unit != 'bytes' else start), _number(size)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _reason(error: Exception) -> str:
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        error = error.reason if isinstance(error.reason, Exception) else error
    return str(error) or type(error).__name__
