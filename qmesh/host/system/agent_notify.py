"""The control node's agent is told that the registry has changed, by the command that changed it.

Through a socket in the state directory, which only root can enter. Nothing is said in it: who is told
looks for itself.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Final

from qmesh.host.lean import socket_path
from qmesh.host.system import unix_socket

SOCKET: Final = "agent.sock"
FINDINGS_SOCKET: Final = "findings.sock"
"""Another one, by which `check --all` asks for the findings of all members."""
PASS_ON_S: Final = 1.5
"""Seconds that members have to take the news, as before one that was removed is cut off."""


def notify_agent(directory: Path, *, wait_s: float) -> bool:
    """Say that there is news; whether the agent has passed it on to all who were waiting for it.

    directory: the state directory.
    wait_s: seconds to wait for that.
    """
    with (
        contextlib.suppress(OSError),
        socket_path.open_socket_path(directory, SOCKET) as path,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(wait_s)
        connection.connect(path)
        return connection.recv(1) == PASSED_ON
    return False


PASSED_ON: Final = b"\n"
"""What the agent answers."""


def listen(directory: Path) -> socket.socket:
    """The agent's end."""
    return unix_socket.listen(directory, SOCKET)
