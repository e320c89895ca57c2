"""Root's questions to the agent are asked by a child, and this process becomes a user who may do nothing.

So what reads from the network has none of root's rights: it can have the child ask that one question.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from qmesh.errors import MachineRefused, QmeshError
from qmesh.host import unprivileged

MOST_OCTETS: Final = 1 << 24
_HEAD: Final = struct.Struct("!BI")
_ASK: Final = b"?"
_PIECE: Final = 1 << 16
_END_S: Final = 2.0


@contextlib.contextmanager
def become_nobody(ask: Callable[[], bytes], clean_up: Callable[[], None]) -> Iterator[Callable[[], bytes]]:
    """A way to ask by a child that stays root, while this process is user 65534 without any group.

    The process has to have one thread. clean_up: what the child does in the end.
    Raises MachineRefused where this process can't become that user.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        ours.close()
        _answer_questions(theirs, ask, clean_up)
    theirs.close()
    try:
        _drop_rights()
        yield lambda: _ask_child(ours)
    finally:
        ours.close()
        _wait_for(child)


def _drop_rights() -> None:
    try:
        unprivileged.become_nobody()
    except OSError as error:
        raise MachineRefused(
            f"qmesh cannot take the rights of user {unprivileged.NOBODY}: {error.strerror}",
            hint="run it as a user of the group that `qmesh set --readers GROUP` names, without root",
        ) from None


def _ask_child(connection: socket.socket) -> bytes:
    """Raises MachineRefused, as what the child says."""
    try:
        connection.sendall(_ASK)
        is_error, count = _HEAD.unpack(_receive(connection, _HEAD.size))
        octets = _receive(connection, min(count, MOST_OCTETS))
    except OSError:
        raise MachineRefused(
            "the page's process that asks the agent has ended", hint="end `qmesh page`, and run it again"
        ) from None
    if is_error:
        message, _, hint = octets.decode("utf-8", "replace").partition("\n")
        raise MachineRefused(message, hint=hint)
    return octets


def _receive(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(_PIECE, count - len(parts)))
        if not part:
            raise ConnectionResetError
        parts += part
    return bytes(parts)


def _answer_questions(
    connection: socket.socket, ask: Callable[[], bytes], clean_up: Callable[[], None]
) -> NoReturn:
    """Be the child, until the other end is closed. What it raises is for nobody."""
    try:
        # They are for the other process, which ends, and this one with it.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while connection.recv(1):
            try:
                is_error, octets = 0, ask()
            except QmeshError as error:
                is_error, octets = 1, f"{error.message}\n{error.hint}".encode("utf-8", "replace")
            connection.sendall(_HEAD.pack(is_error, len(octets)) + octets)
    except OSError:
        pass  # the other process has ended
    finally:
        clean_up()
        os._exit(0)


def _wait_for(child: int) -> None:
    """Until it has ended; it may be asking, and need a moment for that."""
    descriptor = os.pidfd_open(child)
    try:
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        if ready.poll(_END_S * 1000):
            os.waitpid(child, 0)
    finally:
        os.close(descriptor)
