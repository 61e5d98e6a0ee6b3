# SPDX-License-Identifier: Apache-2.0
"""fer_view: shows a camera, video, image folder or rosbag in a web page of this machine."""

import argparse
import asyncio
import math
import signal
import sys
import threading
import webbrowser
from contextlib import ExitStack, suppress
from functools import partial
from importlib.util import find_spec
from typing import Any

from fer_perception.assets import AssetError
from fer_perception.pipeline import Pipeline
from fer_perception.pipeline_arguments import add_pipeline_arguments, pipeline_config
from fer_perception.sources import Source, SourceError, open_source
from fer_perception.view.access import is_loopback, own_names, page_address
from fer_perception.view.hub import Hub
from fer_perception.view.watcher import SourceWatcher

PORT = 8068  # by default
CLOSE_LIMIT_S = 0.2  # for requests under way


class ViewError(Exception):
    """Say why the page cannot be served."""


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='fer_view',
        description='Show a source in a web page of this machine: the images, the landmarks, '
        'every expression and how sure the recogniser is of it. A file starts to play when the '
        'page is opened. Nothing is stored. Ctrl-C ends.',
    )
    parser.add_argument('source', help='video, image folder, rosbag2, or camera number')
    parser.add_argument('--host', default='127.0.0.1', help='address to serve on; any but this '
                        "machine's own shows the faces to the network (%(default)s)")
    parser.add_argument('--port', type=int, default=PORT, help='0: any that is free (%(default)s)')
    parser.add_argument('--open', action='store_true', help='open the page in the browser')
    parser.add_argument('--loop', action='store_true', help='start again at the end')
    parser.add_argument('--rate', type=float, default=1.0, help='speed factor (%(default)s)')
    parser.add_argument('--topic', help='image topic of a bag that has several')
    add_pipeline_arguments(parser)
    options = parser.parse_args(arguments)
    if not (math.isfinite(options.rate) and options.rate > 0):
        parser.error(f'--rate must be above 0, not {options.rate}')
    if not 0 <= options.port <= 65535:
        parser.error(f'--port must be 0 to 65535, not {options.port}')
    if not options.host:
        parser.error("--host must be an address or a name, not ''")
    return options


def view(options: argparse.Namespace) -> int:
    """Serve the page until a signal ends it; return the exit code.

    Raises ViewError, and what open_source and Pipeline raise.
    """
    if find_spec('aiohttp') is None:
        raise ViewError('aiohttp is not installed: pip install aiohttp, or the extra [view]')
    with ExitStack() as stack:
        source = stack.enter_context(open_source(options.source, topic=options.topic))
        pipeline = Pipeline(pipeline_config(options))
        stack.callback(pipeline.close)
        hub = Hub()
        try:
            asyncio.run(_serve(options, source=source, pipeline=pipeline, hub=hub, stack=stack))
        finally:
            # A second Ctrl-C must not break off what follows.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return 1 if hub.end else 0


async def _serve(
    options: argparse.Namespace, *, source: Source, pipeline: Pipeline, hub: Hub, stack: ExitStack
) -> None:
    from aiohttp import web  # optional, see `view`

    from fer_perception.view.server import ViewServer

    loop = asyncio.get_running_loop()
    is_told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, is_told_to_stop.set)

    def tell(action: Any, argument: Any) -> None:
        """Call from another thread, in that of the loop; the loop may have ended."""
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(action, argument)

    def finish(end: str) -> None:
        hub.finish(end)
        print(f'fer_view: {end or f"{source.name} is over; Ctrl-C ends"}', file=sys.stderr)

    watcher = SourceWatcher(
        source=source,
        pipeline=pipeline,
        is_looped=options.loop,
        rate=options.rate,
        on_picture=partial(tell, hub.publish),
        on_end=partial(tell, finish),
    )
    server = ViewServer(
        hub=hub, source_name=source.name, names=own_names(options.host), on_page=watcher.start
    )
    runner = web.AppRunner(
        server.application(), access_log=None, shutdown_timeout=CLOSE_LIMIT_S
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, options.host, options.port).start()
        except OSError as error:
            raise ViewError(
                f'port {options.port} of {options.host} cannot be served: {error.strerror}; '
                'choose another with --port'
            ) from error
        _announce(options, source, port=runner.addresses[0][1])
        await is_told_to_stop.wait()
    finally:
        await runner.cleanup()
        if not watcher.stop():
            stack.pop_all()  # a camera that hangs is not closed while it is read


def _announce(options: argparse.Namespace, source: Source, *, port: int) -> None:
    address = page_address(options.host, port)
    print(f'fer_view: {source.name} is shown on {address}', flush=True)
    if not is_loopback(options.host):
        print(
            f'fer_view: warning: whoever reaches {options.host} over the network can see the '
            'faces: there is no password',
            file=sys.stderr,
        )
    if options.open:  # beside the server, which the browser may have to wait for
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """Show a source; return the exit code."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while the models are loaded
    try:
        return view(options)
    except (AssetError, ImportError, OSError, SourceError, ValueError, ViewError) as error:
        print(f'fer_view: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == '__main__':
    sys.exit(main())
