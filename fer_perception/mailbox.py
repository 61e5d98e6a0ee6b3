# SPDX-License-Identifier: Apache-2.0
"""A mailbox with one slot: the newest item wins, older ones are dropped and counted."""

import threading
from typing import Generic, TypeVar

Item = TypeVar('Item')


class Mailbox(Generic[Item]):
    """Hands the newest item from one thread to another."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: Item | None = None
        self._closed = False

    def put(self, item: Item) -> bool:
        """Put an item in; tell whether it replaced one that was not taken yet."""
        with self._condition:
            has_replaced = self._item is not None
            self._item = item
            self._condition.notify()
            return has_replaced

    def take(self) -> Item | None:
        """Wait for an item and take it; None once the mailbox is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None or self._closed)
            item, self._item = self._item, None
            return None if self._closed else item

    def clear(self) -> None:
        """Throw away what was not taken yet."""
        with self._condition:
            self._item = None

    def close(self) -> None:
        """Wake whoever waits; from now on nothing is handed over."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
