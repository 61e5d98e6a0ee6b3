# SPDX-License-Identifier: Apache-2.0
"""A process for each piece of work: what ends one of them, a crash too, ends no other."""

import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, get_context
from types import TracebackType
from typing import Any, Generic, TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')


class ProcessError(RuntimeError):
    """Say how a process ended that gave no result."""


class WorkProcesses(Generic[Item, Result]):
    """Does `work(item)` for each of several items, in so many processes at a time.

    work and items go to the processes and results come back by pickle, so `work` must be
    importable. Iterate within a with block: its end, also by an error or Ctrl-C, ends the
    processes. They do not see Ctrl-C themselves.
    """

    def __init__(
        self, work: Callable[[Item], Result], items: Sequence[Item], *, jobs: int
    ) -> None:
        """Take the work; raises ValueError for less than one job."""
        if jobs < 1:
            raise ValueError(f'jobs must be 1 or more, not {jobs}')
        self._work = work
        self._items = items
        self._jobs = jobs
        # Not by fork: threads of PyTorch and OpenCV do not survive it.
        self._context = get_context('spawn')
        self._running: dict[connection.Connection, tuple[int, Any]] = {}  # index and process

    def __enter__(self) -> 'WorkProcesses[Item, Result]':
        """Work within a with block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the processes that still run."""
        for receiver, (_, process) in self._running.items():
            process.kill()
            process.join()
            receiver.close()
        self._running.clear()

    def __iter__(self) -> Iterator[tuple[int, Result | ProcessError]]:
        """Give the index of each item with its result, in the order in which they end.

        A ProcessError stands for the result of a process that ended without one.
        """
        waiting = list(enumerate(self._items))[::-1]
        while waiting or self._running:
            while waiting and len(self._running) < self._jobs:
                self._start(*waiting.pop())
            for receiver in connection.wait(list(self._running)):
                assert isinstance(receiver, connection.Connection)
                yield self._finish(receiver)

    def _start(self, index: int, item: Item) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_run, args=(self._work, item, sender), daemon=True)
        # A process inherits which signals are blocked: Ctrl-C is for the one that waits.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
            self._running[receiver] = index, process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sender.close()  # so that the end of the process ends the pipe

    def _finish(self, receiver: connection.Connection) -> tuple[int, Result | ProcessError]:
        index, process = self._running.pop(receiver)
        result: Result | ProcessError
        try:
            result = receiver.recv()
            process.join()
        except EOFError:
            process.join()
            code = process.exitcode
            how = f'exit code {code}' if code >= 0 else f'signal {signal.Signals(-code).name}'
            result = ProcessError(f'its process was ended by {how}; was there memory enough?')
        receiver.close()
        return index, result


def _run(work: Callable[[Any], Any], item: Any, sender: connection.Connection) -> None:
    """Work in a process and send the result."""
    sender.send(work(item))
    sender.close()
