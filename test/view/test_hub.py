# SPDX-License-Identifier: Apache-2.0
"""Every page gets the newest picture at its own pace, and in the end is told of the end."""

import asyncio
from collections.abc import Awaitable

import pytest

from fer_perception.view.hub import MOST_UNDER_WAY, Hub, Page
from fer_perception.view.picture import Picture


def picture(number: int) -> Picture:
    return Picture(number=number, text=f'{{"number": {number}}}', jpeg=b'')


async def is_waiting(awaitable: Awaitable[object]) -> bool:
    """Tell whether there is nothing to send, and give up waiting."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(10):
        await asyncio.sleep(0)
    if task.done():
        return False
    task.cancel()
    return True


def test_a_page_that_keeps_up_gets_every_picture() -> None:
    async def scenario() -> None:
        hub = Hub()
        with Page(hub) as page:
            for number in range(1, 20):
                hub.publish(picture(number))
                assert await page.next() == picture(number)
                page.shown(number)
            assert await is_waiting(page.next())

    asyncio.run(scenario())


def test_a_page_that_shows_nothing_is_sent_no_more() -> None:
    async def scenario() -> None:
        hub = Hub()
        with Page(hub) as slow, Page(hub) as quick:
            sent = []
            for number in range(1, 50):
                hub.publish(picture(number))
                assert await quick.next() == picture(number)
                quick.shown(number)
                if number <= MOST_UNDER_WAY:
                    sent.append(await slow.next())
                else:
                    assert await is_waiting(slow.next())
            # As soon as it has shown one it gets the newest, none of those between.
            slow.shown(1)
            assert await slow.next() == picture(49)
            assert sent == [picture(1), picture(2)]

    asyncio.run(scenario())


def test_a_page_opened_later_begins_with_the_newest() -> None:
    async def scenario() -> None:
        hub = Hub()
        for number in (1, 2, 3):
            hub.publish(picture(number))
        with Page(hub) as page:
            assert await page.next() == picture(3)
            assert await is_waiting(page.next())

    asyncio.run(scenario())


def test_the_end_comes_once_and_after_the_last_picture() -> None:
    async def scenario() -> None:
        hub = Hub()
        hub.publish(picture(1))
        with Page(hub) as page:
            for number in (1, 2, 3):
                hub.publish(picture(number))
                if number <= MOST_UNDER_WAY:
                    await page.next()
            hub.finish('the camera is gone')
            assert await is_waiting(page.next())  # for the third to be taken first
            page.shown(2)
            assert await page.next() == picture(3)
            assert await page.next() == 'the camera is gone'
            assert await is_waiting(page.next())
        with Page(hub) as later:
            assert await later.next() == picture(3)
            assert await later.next() == 'the camera is gone'

    asyncio.run(scenario())


def test_a_waiting_page_is_woken() -> None:
    async def scenario() -> None:
        hub = Hub()
        with Page(hub) as page:
            waiting = asyncio.ensure_future(page.next())
            await asyncio.sleep(0)
            assert not waiting.done()
            hub.publish(picture(1))
            assert await waiting == picture(1)

    asyncio.run(scenario())


@pytest.mark.parametrize('number', [0, 2, -1, 10**9])
def test_what_was_never_sent_cannot_have_been_shown(number: int) -> None:
    async def scenario() -> None:
        hub = Hub()
        hub.publish(picture(1))
        with Page(hub) as page:
            await page.next()
            with pytest.raises(ValueError, match=str(number)):
                page.shown(number)

    asyncio.run(scenario())


def test_a_closed_page_is_forgotten() -> None:
    hub = Hub()
    with Page(hub) as page:
        assert hub.pages == {page}
    assert not hub.pages
