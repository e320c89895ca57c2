"""Entries of systemd's journal, as journald reads them."""

from __future__ import annotations

import struct


def decode(datagram: bytes) -> dict[str, str]:
    """The fields of one."""
    fields = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields[name.decode()] = value.decode()
        datagram = rest
    return fields
