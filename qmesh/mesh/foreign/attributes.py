"""Netlink's attributes, one behind the other or within another. Source: linux/netlink.h."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_HEAD: Final = struct.Struct("=HH")
"""Before each value: length with these bytes, type."""
_TYPE: Final = 0x3FFF


def parse_attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each. Raises ValueError when one breaks off."""
    start, end = 0, len(content)
    while start < end:
        length, kind = _HEAD.unpack_from(content, start) if start + _HEAD.size <= end else (0, 0)
        if not _HEAD.size <= length <= end - start:
            raise ValueError("a netlink attribute breaks off")
        yield kind & _TYPE, content[start + _HEAD.size : start + length]
        start += length + -length % 4
