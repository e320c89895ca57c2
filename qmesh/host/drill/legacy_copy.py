"""A copy of iptables-legacy's tables, made of what the kernel tells of them.

Source: linux/netfilter_ipv4/ip_tables.h, ip6_tables.h, which have the same shape.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from qmesh.host.drill.namespaces import Namespaces
from qmesh.host.firewall.legacy_iptables import FAMILIES, GET_INFO, get_option
from qmesh.mesh.drill.rule_messages import OF_WHOLE_MACHINE
from qmesh.mesh.foreign.xtables.legacy_tables import INFO, LegacyBlock

_REPLACE: Final = 64  # IPT_SO_SET_REPLACE
_HEAD: Final = struct.Struct("=32s3I5I5IIQ")
"""ipt_replace: name, hooks, entries, octets, entry points, policies, counters, and where to write these."""
_COUNTER_OCTETS: Final = 16
_libc: Final = ctypes.CDLL(None, use_errno=True)


def load_legacy_tables(namespaces: Namespaces, blocks: Sequence[LegacyBlock]) -> list[str]:
    """Make them in the copy; of those that the kernel refused, which and why. Raises KernelRefused."""
    refused = []
    for block in blocks:
        namespaces.verify_copy()
        if any(b"\0" + name in block.block for name in OF_WHOLE_MACHINE):
            refused.append(
                f"table {_name(block)} of {block.family}tables-legacy: its rules act on the whole machine"
            )
            continue
        try:
            _replace_table(block)
        except OSError as error:
            refused.append(f"table {_name(block)} of {block.family}tables-legacy: {error.strerror}")
    return refused


def _name(block: LegacyBlock) -> str:
    return block.info[:32].partition(b"\0")[0].decode("ascii", "replace")


def _replace_table(block: LegacyBlock) -> None:
    kind, level = FAMILIES[block.family]
    name, hooks, *places, entries, size = INFO.unpack(block.info)
    with socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as asked:
        # Asked for, the kernel makes the table; of its entries it wants to return the counts.
        *_, before, _ = INFO.unpack(get_option(asked, level, GET_INFO, name.ljust(INFO.size, b"\0")))
        counters = ctypes.create_string_buffer(before * _COUNTER_OCTETS)
        head = _HEAD.pack(name, hooks, entries, size, *places, before, ctypes.addressof(counters))
        octets = head + block.block
        if _libc.setsockopt(asked.fileno(), level, _REPLACE, octets, len(octets)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
