"""The agent's end of the readers' socket: who calls, what is asked, and how much of it.

Each caller has a thread, of a few in all and fewer of one user: one that drips, or does not take its answer,
keeps only its own place, and that for a while.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from qmesh.errors import BadInput, Busy, MachineRefused, NeedsRoot, QmeshError
from qmesh.host.log.events import report_event
from qmesh.mesh.view.questions import (
    MOST_ANSWER,
    MOST_QUESTION,
    ROOT,
    AnswerHead,
    Caller,
    ReaderQuestion,
    build_error_head,
    parse_question,
    render_head,
)

MOST_CALLERS: Final = 8
"""At once: of all readers, and of root besides."""
MOST_OF_A_USER: Final = 2
QUESTION_S: Final = 2.0
"""Seconds in which a caller says what it asks."""
TAKEN_S: Final = 10.0
"""Seconds in which it takes all of its answer."""
PAUSE_S: Final = 0.01
"""Seconds between two callers: who calls without end takes little of the agent's processor."""
_PEER_GROUPS: Final = 59
"""SO_PEERGROUPS of asm-generic/socket.h, which Python does not name."""
_CREDENTIALS: Final = struct.Struct("3i")
_MOST_OCTETS: Final = 1024
"""Of an option of a socket, in Python."""


class ReaderAnswer(NamedTuple):
    """What a question is answered with. age_s: for how many seconds that has been known."""

    octets: bytes
    age_s: float


class ReaderServer:
    """Answers callers that a listening socket has accepted.

    may_ask: whether a process may ask now. answer: what it is answered; raises QmeshError.
    """

    def __init__(
        self,
        may_ask: Callable[[Caller], bool],
        answer: Callable[[ReaderQuestion, Caller], ReaderAnswer],
    ) -> None:
        self._may_ask = may_ask
        self._answer = answer
        self._callers: Counter[int] = Counter()
        self._lock = threading.Lock()

    def take_caller(self, connection: socket.socket) -> None:
        """Answer one caller, in a thread of its own where there is room for it, after a pause."""
        time.sleep(PAUSE_S)
        try:
            caller = read_caller(connection)
        except OSError:
            connection.close()
            return
        if not self._enter(caller):
            _send_at_once(connection, build_error_head(_build_crowd_error()))
            return
        try:
            threading.Thread(
                target=self._serve, args=(connection, caller), name="reader", daemon=True
            ).start()
        except RuntimeError:  # no thread can be had
            self._leave(caller)
            connection.close()

    def _enter(self, caller: Caller) -> bool:
        """Whether there is room. Root's is its own: no reader keeps it out."""
        with self._lock:
            of_user = self._callers[caller.user]
            if caller.user == ROOT:
                has_room = of_user < MOST_CALLERS
            else:
                of_readers = self._callers.total() - self._callers[ROOT]
                has_room = of_readers < MOST_CALLERS and of_user < MOST_OF_A_USER
            self._callers[caller.user] += has_room
            return has_room

    def _leave(self, caller: Caller) -> None:
        with self._lock:
            self._callers[caller.user] -= 1
            self._callers += Counter()  # without those that are at 0

    def _serve(self, connection: socket.socket, caller: Caller) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                head, octets = self._find_answer(connection, caller)
                connection.settimeout(TAKEN_S)
                connection.sendall(render_head(head))
                connection.sendall(octets)
        finally:
            self._leave(caller)

    def _find_answer(self, connection: socket.socket, caller: Caller) -> tuple[AnswerHead, bytes]:
        """Raises OSError where the caller says nothing in time."""
        try:
            self._refuse_stranger(caller)
            octets, age_s = self._answer(receive_question(connection), caller)
            self._refuse_stranger(caller)  # the group may have changed meanwhile
            if len(octets) > MOST_ANSWER:
                return build_error_head(build_size_error()), b""
        except QmeshError as error:
            return build_error_head(error), b""
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - logged
            report_event("request-failed", "a question of a reader could not be answered", error=error)
            return build_error_head(_build_bug_error()), b""
        return AnswerHead(octets=len(octets), age_s=max(0.0, round(age_s, 1))), octets

    def _refuse_stranger(self, caller: Caller) -> None:
        if not self._may_ask(caller):
            raise NeedsRoot(
                "this user is not in the group of readers",
                hint="root lets the members of a group look: `qmesh set --readers GROUP`",
            )


def read_caller(connection: socket.socket) -> Caller:
    """The process at the other end, as the kernel knew it when it connected. Raises OSError."""
    octets = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, group = _CREDENTIALS.unpack(octets)
    return Caller(user & 0xFFFFFFFF, frozenset((group & 0xFFFFFFFF, *_read_groups(connection))))


def _read_groups(connection: socket.socket) -> tuple[int, ...]:
    """Besides its first one; none where there are more than fit into what Python lets the kernel fill."""
    try:
        octets = connection.getsockopt(socket.SOL_SOCKET, _PEER_GROUPS, _MOST_OCTETS)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        octets = b""
    return struct.unpack(f"{len(octets) // 4}I", octets)


def receive_question(connection: socket.socket) -> ReaderQuestion:
    """What a caller asks. Raises BadInput where that is no question; OSError where nothing comes in time."""
    until, octets = time.monotonic() + QUESTION_S, b""
    while b"\n" not in octets:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        part = connection.recv(MOST_QUESTION)
        octets += part
        if not part or len(octets) > MOST_QUESTION:
            raise BadInput("this is not a question", hint="use `qmesh status` or another command that looks")
    return parse_question(octets.partition(b"\n")[0])


def build_size_error() -> MachineRefused:
    """The error for an answer that is too large for readers."""
    return MachineRefused("the answer is too large for readers", hint="run the same command again as root")


def _send_at_once(connection: socket.socket, head: AnswerHead) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(0.0)
        connection.send(render_head(head))


def _build_crowd_error() -> QmeshError:
    return Busy(
        "too many programs ask this machine's agent at once",
        hint="try again in some seconds; `ss -xp` shows which programs do",
    )


def _build_bug_error() -> QmeshError:
    return MachineRefused(
        "this machine's agent could not find the answer", hint="its log says why: have root look there"
    )
