"""Where a socket in the state directory is, for who listens and for who calls."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket


class open_socket_path:  # noqa: N801 - it is used as a function
    """The socket's path in this block, short enough wherever the state directory is. Raises OSError."""

    def __init__(self, directory: str | os.PathLike[str], name: str) -> None:
        self._directory, self._name = directory, name
        self._descriptor = -1

    def __enter__(self) -> str:
        self._descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._descriptor}/{self._name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def listen_at(listening: socket, directory: str, name: str) -> None:
    """Have a socket listen there, 0600, in the place of one that a killed process left. Raises OSError."""
    remove_socket(directory, name)
    before = os.umask(0o177)
    try:
        with open_socket_path(directory, name) as path:
            listening.bind(path)
    finally:
        os.umask(before)
    listening.listen()


def remove_socket(directory: str, name: str) -> None:
    """Have nobody find it any more; none is fine. Raises OSError."""
    try:
        os.unlink(f"{directory}/{name}")
    except FileNotFoundError:
        pass
