# SPDX-License-Identifier: Apache-2.0
"""The server gives its page the pictures, and nobody else anything."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('aiohttp', reason='the page needs the extra [view]')

from aiohttp import (  # noqa: E402
    ClientWebSocketResponse,
    WSMsgType,
    WSServerHandshakeError,
    web,
)
from aiohttp.test_utils import TestClient, TestServer  # noqa: E402

from fer_perception.drawing import STATE_COLOURS  # noqa: E402
from fer_perception.pipeline import Pipeline, PipelineConfig  # noqa: E402
from fer_perception.records import ExpressionRecord  # noqa: E402
from fer_perception.sources import open_source  # noqa: E402
from fer_perception.view.access import own_names  # noqa: E402
from fer_perception.view.hub import MOST_PAGES, MOST_UNDER_WAY, Hub  # noqa: E402
from fer_perception.view.picture import Picture  # noqa: E402
from fer_perception.view.server import FILES, PICTURES, ViewServer  # noqa: E402
from fer_perception.view.watcher import SourceWatcher  # noqa: E402

LIMIT_S = 60.0  # for what must happen at all

Client = Any  # TestClient takes type arguments in some versions of aiohttp only


def run(
    scenario: Callable[[Client, Hub], Awaitable[None]],
    *,
    hub: Hub | None = None,
    on_page: Callable[[], None] = lambda: None,
) -> None:
    """Run a scenario against a server."""

    async def serve() -> None:
        own = hub or Hub()
        server = ViewServer(
            hub=own, source_name='clip.mp4', names=own_names('127.0.0.1'), on_page=on_page
        )
        async with TestClient(TestServer(server.application())) as client:
            await asyncio.wait_for(scenario(client, own), LIMIT_S)

    asyncio.run(serve())


def origin(client: Client) -> str:
    return str(client.make_url('/').origin())


async def connect(client: Client, **headers: str) -> ClientWebSocketResponse:
    socket: ClientWebSocketResponse = await client.ws_connect(
        PICTURES, headers={'Origin': origin(client), **headers}
    )
    return socket


async def greeted(client: Client) -> ClientWebSocketResponse:
    socket = await connect(client)
    assert (await socket.receive_json())['kind'] == 'greeting'
    return socket


def picture(number: int, size: int = 10) -> Picture:
    text = json.dumps({'kind': 'picture', 'number': number})
    return Picture(number=number, text=text, jpeg=bytes(size))


async def receive_picture(socket: ClientWebSocketResponse) -> int:
    content = await socket.receive_json()
    assert content['kind'] == 'picture'
    assert await socket.receive_bytes()
    return int(content['number'])


@pytest.mark.parametrize('path', list(FILES))
def test_every_file_of_the_page_comes_with_the_headers_that_keep_it_apart(path: str) -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        response = await client.get(path)
        assert response.status == 200
        name, kind = FILES[path]
        assert response.content_type == kind and response.charset == 'utf-8'
        text = resources.files('fer_perception.view').joinpath(name).read_text('utf-8')
        assert await response.text() == text
        policy = response.headers['Content-Security-Policy']
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert 'unsafe' not in policy and '*' not in policy and 'http' not in policy
        assert response.headers['X-Content-Type-Options'] == 'nosniff'
        assert response.headers['Cache-Control'] == 'no-store'

    run(scenario)


def test_the_page_asks_no_other_server_for_anything() -> None:
    for name, _ in FILES.values():
        text = resources.files('fer_perception.view').joinpath(name).read_text('utf-8')
        addresses = set(re.findall(r'https?://[^\'"\s)]*|[\'"(]//[^\'"\s)]*', text))
        assert addresses <= {'http://www.w3.org/2000/svg'}  # a name, not an address
        assert '@import' not in text and 'style="' not in text and 'onclick' not in text


@pytest.mark.parametrize('path', ['/nothing', '/../cli.py', '/view.py', '/%2e%2e/cli.py'])
def test_there_are_no_other_files(path: str) -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        response = await client.get(path)
        assert response.status == 404
        assert 'Content-Security-Policy' in response.headers

    run(scenario)


def test_nothing_can_be_written() -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        for path in (*FILES, PICTURES):
            assert (await client.post(path, data=b'x')).status == 405

    run(scenario)


def test_a_foreign_host_name_gets_nothing() -> None:
    """DNS rebinding: a name of the attacker's that leads to this machine."""

    async def scenario(client: Client, hub: Hub) -> None:
        hub.publish(picture(1))
        host = f'evil.example:{client.port}'
        for path in FILES:
            assert (await client.get(path, headers={'Host': host})).status == 403
        with pytest.raises(WSServerHandshakeError) as refused:
            await connect(client, Host=host, Origin=f'http://{host}')
        assert refused.value.status == 403
        assert not hub.pages

    run(scenario)


@pytest.mark.parametrize('foreign', ['http://evil.example', 'null', '', 'http://127.0.0.1:1'])
def test_a_page_of_another_origin_gets_no_picture(foreign: str) -> None:
    """Cross-site WebSocket hijacking."""

    async def scenario(client: Client, hub: Hub) -> None:
        hub.publish(picture(1))
        with pytest.raises(WSServerHandshakeError) as refused:
            await connect(client, Origin=foreign)
        assert refused.value.status == 403
        assert not hub.pages

    run(scenario)


def test_a_program_without_an_origin_gets_no_picture() -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect(PICTURES)
        assert refused.value.status == 403

    run(scenario)


def test_the_greeting_has_the_colours_that_are_drawn_elsewhere() -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        socket = await connect(client)
        greeting = await socket.receive_json()
        assert greeting['kind'] == 'greeting' and greeting['source'] == 'clip.mp4'
        colours = {
            state.name: '#{2:02x}{1:02x}{0:02x}'.format(*bgr)
            for state, bgr in STATE_COLOURS.items()
        }
        assert greeting['state_colours'] == colours

    run(scenario)


def test_several_pages_get_every_picture_they_can_take() -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        sockets = [await greeted(client) for _ in range(3)]
        for number in range(1, 8):
            hub.publish(picture(number))
            for socket in sockets:
                assert await receive_picture(socket) == number
                await socket.send_str(str(number))

    run(scenario)


def test_a_slow_page_neither_delays_others_nor_fills_the_memory() -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        slow, quick = await greeted(client), await greeted(client)
        for number in range(1, 200):
            hub.publish(picture(number, size=100_000))
            assert await receive_picture(quick) == number
            await quick.send_str(str(number))
        received = [await receive_picture(slow) for _ in range(MOST_UNDER_WAY)]
        assert received == [1, 2]
        await slow.send_str('2')
        assert await receive_picture(slow) == 199  # the newest, at once
        with pytest.raises(asyncio.TimeoutError):
            await slow.receive(timeout=0.05)

    run(scenario)


def test_a_page_opened_later_gets_the_last_picture_and_the_end() -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        hub.publish(picture(1))
        hub.publish(picture(2))
        hub.finish('camera 0 delivers no more images')
        socket = await greeted(client)
        assert await receive_picture(socket) == 2
        assert await socket.receive_json() == {
            'kind': 'end', 'error': 'camera 0 delivers no more images',
        }

    run(scenario)


@pytest.mark.parametrize('text', ['2', '-1', 'x', '', '1' * 31, '1' * 100, '{"number": 1}'])
def test_a_page_that_sends_anything_else_is_closed(text: str) -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        hub.publish(picture(1))
        socket, other = await greeted(client), await greeted(client)
        assert await receive_picture(socket) == 1
        await socket.send_str(text)
        assert (await socket.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
        assert await receive_picture(other) == 1

    run(scenario)


def test_there_is_a_limit_to_pages() -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        sockets = [await greeted(client) for _ in range(MOST_PAGES)]
        with pytest.raises(WSServerHandshakeError) as refused:
            await connect(client)
        assert refused.value.status == 503
        await sockets[0].close()
        await greeted(client)

    run(scenario)


def test_a_page_that_goes_is_forgotten() -> None:
    async def scenario(client: Client, hub: Hub) -> None:
        socket = await greeted(client)
        assert len(hub.pages) == 1
        await socket.close()
        while hub.pages:
            await asyncio.sleep(0.01)

    run(scenario)


def test_pages_that_do_not_read_do_not_hold_the_server() -> None:
    async def scenario() -> None:
        hub = Hub()
        server = ViewServer(
            hub=hub, source_name='clip.mp4', names=frozenset(), on_page=lambda: None
        )
        runner = web.AppRunner(server.application(), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, '127.0.0.1', 0).start()
        host, port = runner.addresses[0][:2]
        request = (
            f'GET {PICTURES} HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: http://{host}:{port}\r\n'
            'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n'
            'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n'
        )
        pages = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request.encode())
            assert b' 101 ' in await reader.readline()
            pages.append(writer)
        hub.publish(picture(1, size=40_000_000))  # more than fits on the way to them
        await asyncio.sleep(0.2)
        await asyncio.wait_for(runner.cleanup(), LIMIT_S / 2)
        for page in pages:
            page.close()

    asyncio.run(scenario())


def test_the_sample_clip_over_the_wire(sample_clip: Path, landmark_model_path: Path) -> None:
    hub = Hub()
    pipeline = Pipeline(PipelineConfig(landmark_model=landmark_model_path, mc_samples=5))
    watchers: list[SourceWatcher] = []

    async def scenario(client: Client, hub: Hub) -> None:
        loop = asyncio.get_running_loop()

        def tell(action: Callable[[Any], None], argument: Any) -> None:
            loop.call_soon_threadsafe(action, argument)

        watchers.append(
            SourceWatcher(
                source=source,
                pipeline=pipeline,
                is_looped=False,
                on_picture=partial(tell, hub.publish),
                on_end=partial(tell, hub.finish),
            )
        )
        socket = await greeted(client)
        records: list[ExpressionRecord] = []
        while (content := await socket.receive_json())['kind'] == 'picture':
            jpeg = await socket.receive_bytes()
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert image is not None and image.shape == (360, 640, 3)
            records += [
                ExpressionRecord.from_json(json.dumps(face['record']))
                for face in content['faces']
                if face['record'] is not None
            ]
            await socket.send_str(str(content['number']))
        assert content == {'kind': 'end', 'error': ''}
        assert {'neutral', 'happiness'} <= {record.expression for record in records}

    with open_source(str(sample_clip)) as source:
        run(scenario, hub=hub, on_page=lambda: watchers[0].start())
        assert watchers[0].stop()
    pipeline.close()
