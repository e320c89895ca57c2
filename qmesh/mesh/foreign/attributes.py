"""Netlink's attributes within an attribute. Source: linux/netlink.h."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def list_attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each. Raises ValueError or struct.error when one breaks off."""
    start = 0
    while start + 4 <= len(content):
        length, kind = struct.unpack_from("=HH", content, start)
        if length < 4:
            raise ValueError("an attribute breaks off")
        yield kind & 0x3FFF, content[start + 4 : start + length]
        start += length + -length % 4
