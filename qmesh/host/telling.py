"""The control node's agent is told that the registry has changed, by the command that changed it.

Through a socket in the state directory, which only root can enter. Nothing is said in it: who is told
looks for itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SOCKET: Final = "agent.sock"


def tell(directory: Path, *, wait_s: float) -> bool:
    """Say that there is news; whether the agent has passed it on to all who were waiting for it.

    directory: the state directory.
    wait_s: seconds to wait for that.
    """
    with contextlib.suppress(OSError), _place(directory) as path, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(wait_s)
        connection.connect(path)
        return connection.recv(1) == PASSED_ON
    return False


PASSED_ON: Final = b"\n"
"""What the agent answers."""


def listen(directory: Path) -> socket.socket:
    """The agent's end. What another agent left there is taken away: there is one agent at a time."""
    listening = socket.socket(socket.AF_UNIX)
    (directory / SOCKET).unlink(missing_ok=True)
    with _place(directory) as path:
        before = os.umask(0o177)
        try:
            listening.bind(path)
        except OSError:
            listening.close()
            raise
        finally:
            os.umask(before)
    listening.listen()
    return listening


@contextlib.contextmanager
def _place(directory: Path) -> Iterator[str]:
    """The socket's path, short enough for one wherever the state directory is."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
