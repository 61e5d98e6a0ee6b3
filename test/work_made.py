# SPDX-License-Identifier: Apache-2.0
"""Work for tests of processes, which must be importable in another process."""

import os
import signal
import time
from pathlib import Path


def double(number: int) -> int:
    return 2 * number


def die(how: str) -> str:
    """End the process by a crash or an exit, or return."""
    if how == 'crash':
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == 'exit':
        os._exit(7)
    return how


def mark_and_sleep(path: Path | None) -> None:
    """Write the number of the process and sleep; without a path return at once."""
    if path is not None:
        path.write_text(str(os.getpid()))
        time.sleep(600)
