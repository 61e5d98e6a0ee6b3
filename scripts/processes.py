# SPDX-License-Identifier: Apache-2.0
"""Commands of the package as processes of their own."""

import signal
import subprocess
import sys

STOP_LIMIT_S = 10.0  # for a process to end


def start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command by the name of its module."""
    return subprocess.Popen([sys.executable, '-m', module, *arguments])


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process as Ctrl-C would, by force if it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
