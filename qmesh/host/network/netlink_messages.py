"""Netlink's octets, asked for and taken apart.

Source: linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import select
import struct

from qmesh.errors import KernelRefused
from qmesh.host.system import heartbeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final, TypeVar

    T = TypeVar("T")

_REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
"""Flags of a request: to have an acknowledgement, or all that there is."""
_ERROR, _DONE = 2, 3
_DUMP_INTERRUPTED = 0x10
_CODE: Final = struct.Struct("=i")
ANSWER_TIMEOUT_S = 30.0
MOST_OCTETS: Final = 1 << 17
"""That the kernel sends at once: a dump comes in buffers of at most 32 KiB."""
_DUMP_ATTEMPTS = 10

HEADER: Final = struct.Struct("=IHHII")
"""Of a message: length with these octets, type, flags, sequence number, port."""
ATTRIBUTE: Final = struct.Struct("=HH")
"""Before an attribute's value: length with these octets, type."""


def parse_messages(octets: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The type and the flags of each message in what the kernel sent, and the message itself.

    Raises ValueError when one breaks off.
    """
    start = 0
    while start + HEADER.size <= len(octets):
        length, kind, flags, _, _ = HEADER.unpack_from(octets, start)
        if not HEADER.size <= length <= len(octets) - start:
            raise ValueError("a netlink message breaks off")
        yield kind, flags, octets[start : start + length]
        start += length + -length % 4


def build_request(kind: int, flags: int, payload: bytes, *, sequence: int = 1) -> bytes:
    """A message to the kernel. flags: ACK or DUMP, and others. sequence: by which its answer is known."""
    return HEADER.pack(HEADER.size + len(payload), kind, flags | _REQUEST, sequence, 0) + payload


def build_attribute(kind: int, value: bytes) -> bytes:
    """One attribute, with what fills its last four octets."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def parse_answers(octets: bytes) -> Iterator[tuple[bytes, int | None, bool]]:
    """What the kernel sent, message by message.

    Each as the message itself; the errno it ends the answer with, 0 for success, None where more
    will come; and whether it says that what it lists was changed meanwhile.
    """
    for kind, flags, message in parse_messages(octets):
        if len(message) < HEADER.size + _CODE.size:
            raise ValueError("a netlink message breaks off")
        code = -_CODE.unpack_from(message, HEADER.size)[0] if kind in {_ERROR, _DONE} else None
        yield message, code, bool(flags & _DUMP_INTERRUPTED)


def receive_octets(netlink: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
    """What the kernel sends next by a socket. Raises OSError, also where nothing comes in time."""
    with heartbeat.allow_wait(timeout_s):
        has_come = bool(select.select([netlink.fileno()], [], [], timeout_s)[0])
    if not has_come:
        raise TimeoutError(errno.ETIMEDOUT, "the kernel does not answer")
    octets: bytes = netlink.recv(MOST_OCTETS)
    return octets


class TooManyMessages(Exception):
    """A dump has more messages than are wanted; the rest of it is still to come at that socket."""


def send_request(
    netlink: Any, request: bytes, *, timeout_s: float = ANSWER_TIMEOUT_S, most: int | None = None
) -> tuple[list[bytes], bool]:
    """Send a message to the kernel; what it answers, and whether that was changed meanwhile.

    netlink: a socket. request: one that is a dump, or has the flag `ACK`: so the answer has an end.
    most: messages that are read at most. Raises OSError, also for an errno in the answer, ValueError, and
    TooManyMessages.
    """
    netlink.sendto(request, (0, 0))
    found: list[bytes] = []
    is_torn = False
    while True:
        for message, code, torn in parse_answers(receive_octets(netlink, timeout_s)):
            is_torn |= torn
            if code:
                raise OSError(code, os.strerror(code))
            if code == 0:
                return found, is_torn
            found.append(message)
        if most is not None and len(found) > most:
            raise TooManyMessages


def read_whole_dump(dump: Callable[[], tuple[list[T], bool]]) -> list[T]:
    """The messages of a netlink dump, asked for again while changes under way tear it.

    dump: asks once, and tells the messages and whether they were changed meanwhile (NLM_F_DUMP_INTR).
    Raises KernelRefused when it never came whole.
    """
    for _ in range(_DUMP_ATTEMPTS):
        messages, torn = dump()
        if not torn:
            return messages
    raise KernelRefused(
        "the kernel's tables change too fast to be read", hint="run the same command again in a minute"
    )
