"""What iptables-legacy has loaded, without its programs. Source: linux/netfilter_ipv4/ip_tables.h."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmesh.errors import KernelRefused
from qmesh.host.network.netlink import translate_errors
from qmesh.mesh.foreign.rules import Table
from qmesh.mesh.foreign.xtables.legacy_tables import INFO, LegacyBlock, parse_legacy_table

FAMILIES: Final = {"ip": (socket.AF_INET, socket.IPPROTO_IP), "ip6": (socket.AF_INET6, socket.IPPROTO_IPV6)}
GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_*, IP6T_SO_*
_ENTRIES: Final = struct.Struct("=32sI4x")
"""ipt_get_entries: name, and bytes of the block behind it."""
LOADED: Final = Path("/proc/net")
_MOST_OCTETS: Final = 64 << 20
_ATTEMPTS: Final = 5
_libc: Final = ctypes.CDLL(None, use_errno=True)


def list_legacy_tables() -> Iterator[LegacyBlock]:
    """Only what is loaded: the kernel would load a table that it is asked for.

    Raises KernelRefused where one can't be read.
    """
    for family in FAMILIES:
        for name in _list_names(family):
            try:
                found = _read_table(family, name)
            except (OSError, ValueError) as error:
                raise _build_refusal(family, name, error) from None
            parse_table(family, *found)
            yield LegacyBlock(family, *found)


def _list_names(family: str) -> list[str]:
    """The tables that are loaded; none where the kernel has no such list."""
    names = LOADED / f"{family}_tables_names"
    with translate_errors(f"read {names}"), contextlib.suppress(FileNotFoundError):
        return names.read_text(encoding="ascii").split()
    return []


def parse_table(family: str, info: bytes, block: bytes) -> Table:
    """A table of what the kernel tells of it. Raises KernelRefused for what is none."""
    try:
        return parse_legacy_table(LegacyBlock(family, info, block))
    except (ValueError, LookupError, struct.error) as error:
        raise _build_refusal(family, info[:32].split(b"\0")[0].decode("ascii", "replace"), error) from None


def _build_refusal(family: str, name: str, error: Exception) -> KernelRefused:
    reason = error.strerror if isinstance(error, OSError) else f"not understood: {error!r}"
    program = "iptables-legacy" if family == "ip" else "ip6tables-legacy"
    return KernelRefused(
        f"the table {name} of {program} could not be read: {reason}",
        hint=f"look at it with `{program}-save -t {name}`; remove its rules if nothing needs them",
    )


def _read_table(family: str, name: str) -> tuple[bytes, bytes]:
    """What is known of a table, and its entries."""
    kind, level = FAMILIES[family]
    with socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as asked:
        for _ in range(_ATTEMPTS):
            info = get_option(asked, level, GET_INFO, name.encode().ljust(INFO.size, b"\0"))
            size = INFO.unpack(info)[-1]
            if size > _MOST_OCTETS:
                raise ValueError(f"{size} bytes are too many")
            request = _ENTRIES.pack(name.encode(), size) + bytes(size)
            try:
                return info, get_option(asked, level, _GET_ENTRIES, request)[_ENTRIES.size :]
            except OSError as error:
                if error.errno != errno.EAGAIN:  # it was replaced in between
                    raise
    raise ValueError("it changes too fast to be read")


def get_option(asked: socket.socket, level: int, option: int, request: bytes) -> bytes:
    """As socket.getsockopt, which takes no more than 1024 bytes."""
    content = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    if _libc.getsockopt(asked.fileno(), level, option, content, ctypes.byref(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return content.raw[: length.value]
