# SPDX-License-Identifier: Apache-2.0
"""The web server: one page, its style and script, and a WebSocket of pictures.

Nothing a page sends changes anything here; it only says which pictures it has shown.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from importlib import resources

from aiohttp import WSCloseCode, WSMsgType, web

from fer_perception.drawing import STATE_COLOURS, hexadecimal
from fer_perception.view.access import is_own_host, is_own_origin
from fer_perception.view.hub import MOST_PAGES, Hub, Page

FILES = {
    '/': ('view.html', 'text/html'),
    '/view.css': ('view.css', 'text/css'),
    '/view.js': ('view.js', 'text/javascript'),
}
PICTURES = '/pictures'  # the WebSocket

HEADERS = {
    # Scripts, styles and connections of this server only, and nothing else at all.
    'Content-Security-Policy': (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
    'Cache-Control': 'no-store',
}
LONGEST_MESSAGE = 32  # bytes, of one from a page
HEARTBEAT_S = 15.0  # after which a page that has gone silently is noticed
CLOSE_LIMIT_S = 0.3  # for a page to take it that the server ends

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ViewServer:
    """Serves the page to requests that come from itself."""

    def __init__(
        self,
        *,
        hub: Hub,
        source_name: str,
        names: frozenset[str],
        on_page: Callable[[], None],
    ) -> None:
        """Read the files of the page.

        names: host names that this server goes by, see `own_names`; on_page is called whenever a
        page connects.
        """
        self._hub = hub
        self._names = names
        self._on_page = on_page
        folder = resources.files('fer_perception.view')
        self._files = {
            path: (folder.joinpath(name).read_text('utf-8'), kind)
            for path, (name, kind) in FILES.items()
        }
        self._greeting = json.dumps(
            {
                'kind': 'greeting',
                'session': secrets.token_hex(8),  # another one means that the server was restarted
                'source': source_name,
                'state_colours': {
                    state.name: hexadecimal(colour) for state, colour in STATE_COLOURS.items()
                },
            }
        )
        self._sockets: set[web.WebSocketResponse] = set()

    def application(self) -> web.Application:
        """Make the application of aiohttp."""
        application = web.Application(middlewares=[self._guard])
        for path in FILES:
            application.router.add_get(path, self._send_file)
        application.router.add_get(PICTURES, self._send_pictures)
        application.on_shutdown.append(self._close_sockets)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what another site sent; add the headers to every answer."""
        if not is_own_host(request.host, self._names):
            return web.Response(
                status=403,
                text='This server is not known by that name: open the address it printed.\n',
                headers=HEADERS,
            )
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _send_file(self, request: web.Request) -> web.Response:
        text, kind = self._files[request.path]
        return web.Response(text=text, content_type=kind, charset='utf-8')

    async def _send_pictures(self, request: web.Request) -> web.StreamResponse:
        if not is_own_origin(request.headers.get('Origin', ''), request.host):
            raise web.HTTPForbidden(text='Only the page of this server may connect.\n')
        if len(self._hub.pages) >= MOST_PAGES:
            raise web.HTTPServiceUnavailable(text=f'{MOST_PAGES} pages are open: close one.\n')
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, max_msg_size=LONGEST_MESSAGE, compress=False
        )
        with Page(self._hub) as page:
            await socket.prepare(request)
            self._sockets.add(socket)
            self._on_page()
            sender = asyncio.create_task(self._send_to(socket, page))
            try:
                async for message in socket:
                    if message.type != WSMsgType.TEXT:
                        raise ValueError('a page sends numbers only')
                    page.shown(int(message.data))
            except ValueError:
                await socket.close(code=WSCloseCode.POLICY_VIOLATION)
            finally:
                sender.cancel()
                self._sockets.discard(socket)
        return socket

    async def _send_to(self, socket: web.WebSocketResponse, page: Page) -> None:
        try:
            await socket.send_str(self._greeting)
            while True:
                item = await page.next()
                if isinstance(item, str):
                    await socket.send_str(json.dumps({'kind': 'end', 'error': item}))
                else:
                    await socket.send_str(item.text)
                    await socket.send_bytes(item.jpeg)
        except ConnectionError:  # the page has gone; the loop that reads ends as well
            pass

    async def _close_sockets(self, application: web.Application) -> None:
        closing = [
            asyncio.wait_for(socket.close(code=WSCloseCode.GOING_AWAY), CLOSE_LIMIT_S)
            for socket in self._sockets
        ]
        await asyncio.gather(*closing, return_exceptions=True)
