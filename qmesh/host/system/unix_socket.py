"""A socket in the state directory, where only root can enter: one process of qmesh tells another."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def open_socket_path(directory: Path, name: str) -> Iterator[str]:
    """The socket's path, short enough for one wherever the state directory is."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def listen(directory: Path, name: str) -> socket.socket:
    """The listening end, 0600. There is one at a time: the socket that a killed process left is removed."""
    with contextlib.ExitStack() as unless_it_listens:
        listening = unless_it_listens.enter_context(socket.socket(socket.AF_UNIX))
        (directory / name).unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            with open_socket_path(directory, name) as path:
                listening.bind(path)
        finally:
            os.umask(before)
        listening.listen()
        unless_it_listens.pop_all()
    return listening
