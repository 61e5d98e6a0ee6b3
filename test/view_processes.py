# SPDX-License-Identifier: Apache-2.0
"""fer_view as a process of its own, as people start it."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, '-m', 'fer_perception.view.cli']
LIMIT_S = 60.0  # for it to load its models, and to end


@dataclass
class ViewProcess:
    """A running fer_view."""

    process: subprocess.Popen[str]
    address: str  # of its page

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; return the exit code and what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        errors = self.process.communicate(timeout=LIMIT_S)[1]
        return self.process.returncode, errors


@contextmanager
def running_view(source: Path, *options: str) -> Iterator[ViewProcess]:
    """Run fer_view until the end of the block; by default on any free port."""
    process = subprocess.Popen(
        [*COMMAND, str(source), '--port', '0', *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r'http://\S+', line)
        if found is None:
            process.kill()
            raise AssertionError(f'no address: {line!r} {process.communicate()[1]!r}')
        yield ViewProcess(process, found.group())
    finally:
        process.kill()
        process.communicate()


def ended_view(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run fer_view that ends by itself."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
