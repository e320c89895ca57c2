"""Netlink's octets apart, without pyroute2: also for who imports little. Source: linux/netlink.h."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

HEADER: Final = struct.Struct("=IHHII")
"""Of a message: length with these octets, type, flags, sequence number, port."""
ATTRIBUTE: Final = struct.Struct("=HH")
"""Before an attribute's value: length with these octets, type."""
_TYPE: Final = 0x3FFF


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


def parse_attributes(message: bytes, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """The type of each attribute between two places of a message, and where its value lies.

    Raises ValueError when one breaks off.
    """
    while start < end:
        is_there = start + ATTRIBUTE.size <= len(message)
        length, kind = ATTRIBUTE.unpack_from(message, start) if is_there else (0, 0)
        if not ATTRIBUTE.size <= length <= end - start:
            raise ValueError("a netlink attribute breaks off")
        yield kind & _TYPE, (start + ATTRIBUTE.size, start + length)
        start += length + -length % 4
