"""A reader's end: a command that a user types who is not root asks this machine's agent."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shlex
import socket
import time
from pathlib import Path
from typing import Final

from qmesh.errors import MachineRefused, NeedsRoot
from qmesh.host.lean.socket_path import open_socket_path
from qmesh.host.readers.place import DIRECTORY, SOCKET
from qmesh.host.readers.server import ReaderAnswer, read_caller
from qmesh.mesh.decode import Malformed
from qmesh.mesh.systemd.instructions import describe_agent_restart
from qmesh.mesh.view.questions import (
    MOST_HEAD,
    ROOT,
    AnswerHead,
    ReaderQuestion,
    find_error,
    parse_head,
)

WAIT_S: Final = 75.0
"""Seconds for an answer: a check has 30 of them, and may wait for another one's."""
_PIECE: Final = 1 << 16
_LINE_S: Final = 0.05
"""Seconds until one who found the line full tries again."""
_COMMANDS: Final[dict[ReaderQuestion, str]] = {"view": "page"}
"""By question, the command that asks it where that has another name."""


def ask_agent(
    question: ReaderQuestion, *, wait_s: float = WAIT_S, directory: Path | None = None
) -> ReaderAnswer:
    """What this machine's agent answers to a reader. wait_s: seconds for all of it.

    directory: of the agent's state, where root asks: there is a socket whether or not there are readers.
    Raises NeedsRoot where this user may not ask, MachineRefused where no agent answers, and what the agent
    says in an answer's place.
    """
    until = time.monotonic() + wait_s
    try:
        with _find_socket(directory) as path, socket.socket(socket.AF_UNIX) as connection:
            _connect(connection, path, until)
            if read_caller(connection).user != ROOT:
                raise _build_stranger_error()
            with contextlib.suppress(BrokenPipeError):  # it has said no, and that is still to be read
                connection.sendall(f"{question}\n".encode())
            head, octets = receive_answer(connection, until)
    except PermissionError:
        raise _build_group_error(question) from None
    except Malformed:
        raise MachineRefused(
            "this machine's agent answers in another format: it runs another version of qmesh",
            hint=f"have root restart it: `{describe_agent_restart()}`",
        ) from None
    except TimeoutError:
        raise MachineRefused(
            f"this machine's agent did not answer within {wait_s:.0f} s",
            hint="try again; where that does not help, have root run `qmesh check`",
        ) from None
    except OSError:
        raise _build_absence_error(question, is_root=directory is not None) from None
    error = find_error(head)
    if error is not None:
        raise error
    return ReaderAnswer(octets, head.age_s)


def _find_socket(directory: Path | None) -> contextlib.AbstractContextManager[str]:
    if directory is not None:
        return open_socket_path(directory, SOCKET)
    return contextlib.nullcontext(str(DIRECTORY / SOCKET))


def _connect(connection: socket.socket, path: str, until: float) -> None:
    """Wait in line where many call at once. until: a time of the monotonic clock."""
    while True:
        connection.settimeout(max(0.01, until - time.monotonic()))
        try:
            connection.connect(path)
        except BlockingIOError:  # the line is full, and a socket with a timeout does not wait for it
            if time.monotonic() >= until:
                raise TimeoutError from None
            time.sleep(_LINE_S)
        else:
            return


def receive_answer(connection: socket.socket, until: float) -> tuple[AnswerHead, bytes]:
    """What comes by a connection. until: a time of the monotonic clock.

    Raises Malformed for what is no answer, and OSError, also where it ends before the answer does.
    """
    held = b""
    while b"\n" not in held and len(held) <= MOST_HEAD:
        held += _receive(connection, until)
    line, _, rest = held.partition(b"\n")
    head = parse_head(line)
    parts, count = [rest], len(rest)
    while count < head.octets:
        parts.append(_receive(connection, until))
        count += len(parts[-1])
    if count > head.octets:
        raise Malformed
    return head, b"".join(parts)


def _receive(connection: socket.socket, until: float) -> bytes:
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connection.settimeout(left_s)
    part = connection.recv(_PIECE)
    if not part:  # it ended meanwhile
        raise ConnectionResetError
    return part


def _build_group_error(question: ReaderQuestion) -> NeedsRoot:
    """Who may ask, and how this user comes to it."""
    try:
        entry = grp.getgrgid(DIRECTORY.stat().st_gid)
    except (OSError, KeyError):
        return _build_root_error(question, "`qmesh set --readers GROUP` lets the members of a group look")
    user = _find_own_name()
    if user in entry.gr_mem:
        hint = f"this session began before you were in that group: log in again, or `newgrp {entry.gr_name}`"
    else:
        hint = (
            f"run the same command again with `sudo` before it; or have root add you, and log in again:"
            f" `usermod -aG {shlex.quote(entry.gr_name)} {shlex.quote(user)}`"
        )
    return NeedsRoot(
        f"`qmesh {_COMMANDS.get(question, question)}` is for root and the members of group {entry.gr_name}",
        hint=hint,
    )


def _build_absence_error(question: ReaderQuestion, *, is_root: bool) -> MachineRefused:
    """Nothing answers: no group of readers is set here, or the agent does not run."""
    if is_root:
        return MachineRefused(
            "this machine's agent does not run, or has just started",
            hint="try again in some seconds; else `qmesh check` says what is wrong",
        )
    if not DIRECTORY.is_dir():
        return _build_root_error(
            question, "`sudo qmesh set --readers GROUP` lets the members of a group look"
        )
    return MachineRefused(
        "this machine's agent does not run, or has just started",
        hint="try again in some seconds; else have root run `qmesh check`, which says what is wrong",
    )


def _build_root_error(question: ReaderQuestion, more: str) -> NeedsRoot:
    return NeedsRoot(
        f"`qmesh {_COMMANDS.get(question, question)}` needs root; nothing was changed",
        hint=f"run the same command again, with `sudo` before it; {more}",
    )


def _build_stranger_error() -> MachineRefused:
    return MachineRefused(
        f"the program that listens at {DIRECTORY / SOCKET} is not root's: it is not this machine's agent",
        hint=f"have root look at `ls -la {DIRECTORY}`",
    )


def _find_own_name() -> str:
    with contextlib.suppress(KeyError, OSError):
        return pwd.getpwuid(os.getuid()).pw_name
    return str(os.getuid())
