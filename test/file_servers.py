# SPDX-License-Identifier: Apache-2.0
"""Servers of files on loopback, by http and ftp, that can break off and refuse."""

import hashlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class Behaviour:
    """What a server does besides its duty, and what it was asked for."""

    break_after: list[int] = field(default_factory=list)  # bytes of each coming transfer
    resumes: bool = True  # honours ranges and REST
    tells: bool = True  # says sizes and versions
    asked: list[str] = field(default_factory=list)  # paths, with the offset from 1 on


@contextmanager
def http_server(folder: Path) -> Iterator[tuple[str, Behaviour]]:
    """Serve a folder; yield its URL."""
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            path = folder / unquote(self.path).lstrip('/')
            offset = int(self.headers.get('Range', 'bytes=0-')[len('bytes='):-1])
            behaviour.asked.append(f'{path.name}+{offset}')
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            if offset and offset >= len(content) and behaviour.resumes:
                self.send_error(416)
                return
            if not behaviour.resumes:
                offset = 0
            self.send_response(206 if offset else 200)
            if offset:
                last = len(content) - 1
                self.send_header('Content-Range', f'bytes {offset}-{last}/{len(content)}')
            if behaviour.tells:
                self.send_header('Content-Length', str(len(content) - offset))
                self.send_header('ETag', hashlib.sha256(content).hexdigest())
            self.end_headers()
            rest = content[offset:]
            self.wfile.write(rest[: _next_break(behaviour, len(rest))])

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with _running(ThreadingHTTPServer(('127.0.0.1', 0), Handler)) as port:
        yield f'http://127.0.0.1:{port}', behaviour


@contextmanager
def ftp_server(folder: Path) -> Iterator[tuple[str, Behaviour]]:
    """Serve a folder; yield its URL."""
    behaviour = Behaviour()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say('220 ready')
            offset, passive = 0, None
            while line := self.rfile.readline().decode().strip():
                command, _, argument = line.partition(' ')
                path = folder / argument.lstrip('/')
                content = path.read_bytes() if argument and path.is_file() else None
                if command == 'USER':
                    self.say('331 password')
                elif command in ('PASS', 'TYPE'):
                    self.say('230 welcome' if command == 'PASS' else '200 binary')
                elif command in ('EPSV', 'PASV'):
                    passive = socket.create_server(('127.0.0.1', 0))
                    port = passive.getsockname()[1]
                    self.say(
                        f'229 extended (|||{port}|)' if command == 'EPSV'
                        else f'227 passive (127,0,0,1,{port >> 8},{port & 255})'
                    )
                elif command in ('SIZE', 'MDTM') and content is not None and behaviour.tells:
                    version = int(hashlib.sha256(content).hexdigest()[:12], 16)
                    self.say(f'213 {len(content) if command == "SIZE" else version}')
                elif command == 'REST' and behaviour.resumes:
                    offset = int(argument)
                    self.say('350 go on')
                elif command == 'RETR' and content is not None and passive is not None:
                    behaviour.asked.append(f'{path.name}+{offset}')
                    self.say('150 coming')
                    rest = content[offset:]
                    sent = _next_break(behaviour, len(rest))
                    with passive, passive.accept()[0] as data:
                        data.sendall(rest[:sent])
                    self.say('226 done' if sent == len(rest) else '426 broken off')
                elif command == 'QUIT':
                    self.say('221 bye')
                    return
                else:
                    self.say('550 no such file' if argument else '502 no')

        def say(self, line: str) -> None:
            self.wfile.write(f'{line}\r\n'.encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with _running(Server(('127.0.0.1', 0), Handler)) as port:
        yield f'ftp://127.0.0.1:{port}', behaviour


def _next_break(behaviour: Behaviour, length: int) -> int:
    return min(behaviour.break_after.pop(0), length) if behaviour.break_after else length


@contextmanager
def _running(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
