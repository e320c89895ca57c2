"""How `qmesh metrics` asks this machine's agent: it connects, and is answered without a request."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Final

from qmesh.errors import MachineRefused
from qmesh.host.system import unix_socket

SOCKET: Final = "metrics.sock"
MOST_OCTETS: Final = 1 << 24
"""Of an answer: of 10,000 machines it has some seven million."""
_TAKEN_S: Final = 5.0
_PIECE: Final = 1 << 16


def listen(directory: Path) -> socket.socket:
    """The agent's end."""
    return unix_socket.listen(directory, SOCKET)


def send_metrics(caller: socket.socket, text: bytes) -> None:
    """Answer one who connected. One who goes away, or does not take it, is none to wait for."""
    with caller, contextlib.suppress(OSError):
        caller.settimeout(_TAKEN_S)
        caller.sendall(text)


def request_metrics(directory: Path, *, wait_s: float) -> bytes:
    """What the agent of a state directory knows. wait_s: seconds for all of it.

    Raises MachineRefused where it does not answer.
    """
    until, octets = time.monotonic() + wait_s, b""
    try:
        with unix_socket.open_socket_path(directory, SOCKET) as path, socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(wait_s)
            asking.connect(path)
            while part := asking.recv(_PIECE):
                octets += part
                if len(octets) > MOST_OCTETS or time.monotonic() > until:
                    raise TimeoutError
    except OSError:
        octets = b""
    if octets:
        return octets
    raise MachineRefused(
        "this machine's agent does not tell its metrics",
        hint="try again in some seconds where it has just started; else `qmesh check` says what is wrong",
    )
