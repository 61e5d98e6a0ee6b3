# SPDX-License-Identifier: Apache-2.0
"""Hands the newest picture to every open page, as fast as each can take it, and no faster."""

import asyncio
from collections import deque
from types import TracebackType

from fer_perception.view.picture import Picture

MOST_UNDER_WAY = 2  # pictures sent to a page that it has not shown yet
MOST_PAGES = 32  # open at one time


class Hub:
    """Keeps the newest picture and wakes the pages; of one event loop's thread only."""

    def __init__(self) -> None:
        self.latest: Picture | None = None
        self.end: str | None = None  # once the source is over: what went wrong, or ''
        self.pages: set[Page] = set()

    def publish(self, picture: Picture) -> None:
        """Give every page the next picture; those that are behind miss the former one."""
        self.latest = picture
        self._wake()

    def finish(self, end: str) -> None:
        """Tell every page, after the last picture, that the source is over, and why."""
        self.end = end
        self._wake()

    def _wake(self) -> None:
        for page in self.pages:
            page.wake()


class Page:
    """What one open page has been sent, and what it has shown of it.

    A page that shows slowly is sent fewer pictures, none of which is older than when it was sent:
    nothing waits in a queue.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._is_changed = asyncio.Event()
        self._under_way: deque[int] = deque()
        self._sent = 0  # number of the latest picture
        self._knows_end = False

    def __enter__(self) -> 'Page':
        """Be woken from now on."""
        self._hub.pages.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Be forgotten."""
        self._hub.pages.discard(self)

    def wake(self) -> None:
        """Look again whether there is something to send."""
        self._is_changed.set()

    def shown(self, number: int) -> None:
        """Note that the page has shown a picture; ValueError if it was not sent one with it."""
        if number not in self._under_way:
            raise ValueError(f'picture {number} is not under way to this page')
        while self._under_way.popleft() != number:
            pass
        self.wake()

    async def next(self) -> Picture | str:
        """Wait for the next thing to send: a picture, or once, after the last, the end."""
        while True:
            self._is_changed.clear()
            latest = self._hub.latest
            if latest is not None and latest.number > self._sent:
                if len(self._under_way) < MOST_UNDER_WAY:
                    self._sent = latest.number
                    self._under_way.append(latest.number)
                    return latest
            elif self._hub.end is not None and not self._knows_end:
                self._knows_end = True
                return self._hub.end
            await self._is_changed.wait()
