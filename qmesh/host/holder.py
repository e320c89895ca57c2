"""The process that holds the guard's second table.

A table with an owner is changed by nobody but the socket that made it, and goes with that socket
(nft(8), "owner"; Linux 5.12). So a process that does nothing else keeps one open: a flush of all rules
takes the first table and leaves this one. It understands no guard: it loads a file of nftables
commands when it begins, and again when it is told to. Being there before the network at boot, it also
brings back the reserved ports then. It lives as long as its machine, and imports little.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmesh.errors import MachineRefused, QmeshError, StateUnreadable
from qmesh.host import local_socket, nftables, processes, reserved

SCRIPT: Final = "held.nft"
SOCKET: Final = "hold.sock"
LOCK: Final = "hold.lock"
"""Its files in the state directory."""
LOAD, END, NOTHING = b"load", b"end", b"nothing"
"""What it can be told. It answers with a line: empty, or why it could not."""
ANSWER_TIMEOUT_S: Final = 20.0

_NAME: Final = b"qmesh-hold"  # at most 15 octets; `nft list` shows it as the table's owner
_SET_NAME: Final = 15  # PR_SET_NAME


def run(directory: Path) -> None:
    """Hold the table until a signal or `END`. Raises MachineRefused when it cannot be loaded.

    directory: the state directory.
    """
    with processes.only(directory / LOCK) as alone:
        if not alone:
            raise MachineRefused("the guard is held already", hint="leave it to the process that does")
        ctypes.CDLL(None).prctl(_SET_NAME, _NAME, 0, 0, 0)
        _load(directory)
        reserved.bring_back(directory)
        with _listening(directory) as listening:
            if not (directory / SCRIPT).exists():
                return  # it was to end, and nobody could tell it yet
            processes.notify("READY=1")
            while _answered(directory, listening):
                pass


def _load(directory: Path) -> None:
    path = directory / SCRIPT
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8") as file:
            script = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise StateUnreadable(
            f"{path} cannot be read: {error}", hint="`qmesh apply` writes it anew"
        ) from None
    nftables.run(script)


@contextlib.contextmanager
def _listening(directory: Path) -> Iterator[socket.socket]:
    with local_socket.listen(directory, SOCKET) as listening:
        try:
            yield listening
        finally:
            (directory / SOCKET).unlink(missing_ok=True)


def _answered(directory: Path, listening: socket.socket) -> bool:
    """Do what the next caller asks for; False when that is to end."""
    caller, _ = listening.accept()
    with caller, contextlib.suppress(OSError):  # a caller who goes away is none to answer
        caller.settimeout(ANSWER_TIMEOUT_S)
        asked = caller.recv(16)
        refusal = ""
        if asked == LOAD:
            try:
                _load(directory)
            except QmeshError as error:
                refusal = error.message
        caller.sendall(f"{refusal}\n".encode())
        return asked != END
    return True
