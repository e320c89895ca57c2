"""A socket in the state directory, where only root can enter: one process of qmesh tells another."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from qmesh.host.lean import socket_path


def listen(directory: Path, name: str) -> socket.socket:
    """The listening end, 0600. There is one at a time: the socket that a killed process left is removed."""
    with contextlib.ExitStack() as unless_it_listens:
        listening = unless_it_listens.enter_context(socket.socket(socket.AF_UNIX))
        socket_path.listen_at(listening, str(directory), name)
        unless_it_listens.pop_all()
    return listening
