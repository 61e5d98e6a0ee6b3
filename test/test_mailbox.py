# SPDX-License-Identifier: Apache-2.0
"""The mailbox hands over the newest item only and counts the others."""

import threading

from fer_perception.mailbox import Mailbox


def test_the_newest_item_wins() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert [mailbox.put(item) for item in range(5)] == [False, True, True, True, True]
    assert mailbox.take() == 4
    assert not mailbox.put(5)


def test_a_waiting_taker_gets_what_comes() -> None:
    mailbox: Mailbox[str] = Mailbox()
    taken: list[str | None] = []
    taker = threading.Thread(target=lambda: taken.append(mailbox.take()))
    taker.start()
    assert not mailbox.put('image')
    taker.join(5.0)
    assert taken == ['image']


def test_closing_wakes_the_taker_and_hands_nothing_over() -> None:
    mailbox: Mailbox[str] = Mailbox()
    taken: list[str | None] = ['something']
    taker = threading.Thread(target=lambda: taken.append(mailbox.take()))
    taker.start()
    mailbox.close()
    taker.join(5.0)
    assert taken == ['something', None]
    mailbox.put('late')
    assert mailbox.take() is None


def test_what_is_cleared_is_not_handed_over() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(1)
    mailbox.clear()
    assert not mailbox.put(2)
    assert mailbox.take() == 2
