"""The guard's second table in the kernel, made so that a saved rule set that contains it can be loaded.

Its name there is `HELD` and a space. nft prints that name as it is, and reads it back without the space. So
what `nft list ruleset` printed makes another table when it is loaded, one that belongs to that nft and ends
with it. Were it the same name, the kernel would refuse the table, which is another process's, and with it
the whole file (docs/guard.md).

nft cannot type the name either. So the commands are loaded under the name `STAGED`, and what the kernel made
of them is read, and sent again under the other name. Source: linux/netfilter/nf_tables.h and nfnetlink.h.
"""

from __future__ import annotations

import _socket
import os
import struct
import zlib

from qmesh.errors import KernelRefused
from qmesh.host.firewall import nftables
from qmesh.host.lean import nftables_messages
from qmesh.host.network.netlink_messages import (
    HEADER,
    build_attribute,
    parse_answers,
    receive_octets,
)
from qmesh.mesh.guard.script_text import rename_held_table, render_release_script
from qmesh.mesh.guard.tables import HELD, HELD_IN_KERNEL, STAGED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

SCRIPT: Final = "held.nft"
"""The file of its commands in the state directory."""
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE, _NEW_SET, _NEW_ELEMENTS = (
    10 << 8 | message for message in (0, 2, 3, 6, 9, 12)
)  # NFNL_SUBSYS_NFTABLES, NFT_MSG_*
_GET_CHAINS, _GET_RULES, _GET_SETS, _GET_ELEMENTS = 4, 7, 10, 13
_CREATE, _APPEND = 0x400, 0x800  # NLM_F_*
_ABOUT: Final = struct.Struct("!BBH")  # nfgenmsg: family, version, resource
_INET: Final = _ABOUT.pack(1, 0, 0)
_SNDBUFFORCE: Final = 32  # asm-generic/socket.h
_TABLE: Final = 1
"""NFTA_*_TABLE, of every kind of message."""
TABLE_FLAGS, TABLE_USERDATA, OWNER = 2, 6, 0x2  # NFTA_TABLE_*, NFT_TABLE_F_OWNER
_SET_NAME, _SET_ID = 2, 10  # NFTA_SET_*
_OF_SET: Final = frozenset({2, 3, 4, 5, 9, 12, 13})
"""Its name, flags, key's type and length, size, interval of looks for time-outs, user data."""
_OF_ELEMENTS: Final = frozenset({2, 3})  # NFTA_SET_ELEM_LIST_*: their set, and they
_OF_CHAIN: Final = frozenset({3, 4, 5, 7, 12})  # name, hook, policy, type, user data
_OF_RULE: Final = frozenset({2, 4, 7})  # chain, expressions, user data
COMMENT, CHECKSUM = 0, 200
"""Entries of a table's user data: nft's comment, and which commands made the table, which nft passes over."""


class HeldTable:
    """The table of one process: the kernel removes it with this object's socket. Raises OSError."""

    def __init__(self) -> None:
        self._netlink = nftables_messages.open_netfilter_socket()
        self._batches = 0

    def close(self) -> None:
        """Hold it no more."""
        self._netlink.close()

    def replace(self, script: str) -> None:
        """Hold the table that these commands make, or none where they make none, in one transaction.

        script: of `render_held_script` or `render_release_script`.
        Raises MachineRefused; then what was held still is.
        """
        with stage_table(script, STAGED):
            staged = nftables_messages.read_table_attributes("inet", STAGED)
            messages = [] if staged is None else list(_render_copy(staged, script))
            if nftables_messages.has_table("inet", HELD_IN_KERNEL):  # or nobody's: of rules saved as JSON
                messages.insert(0, (_DELETE_TABLE, 0, _NAMED))
            if messages:
                self._send_batch(messages)

    def _send_batch(self, messages: list[tuple[int, int, bytes]]) -> None:
        """Have all of it done, or nothing. Raises KernelRefused."""
        self._batches += 1
        octets = nftables_messages.build_batch(messages, self._batches)
        try:
            self._make_room(2 * len(octets))
            self._netlink.sendto(octets, (0, 0))
            code = self._receive_code()
        except (OSError, ValueError) as error:
            raise _build_error(error) from None
        if code:
            raise _build_error(OSError(code, os.strerror(code)))

    def _make_room(self, octets: int) -> None:
        """Have the socket take so much at once; who may not say that makes do with the usual size."""
        try:
            self._netlink.setsockopt(_socket.SOL_SOCKET, _SNDBUFFORCE, octets)
        except PermissionError:
            pass

    def _receive_code(self) -> int:
        """The first errno of the batch that was sent last; 0 where it was done."""
        while True:
            for message, code, _ in parse_answers(receive_octets(self._netlink)):
                # Of a batch that was refused, more answers than the first may lie there.
                if code is not None and HEADER.unpack_from(message)[3] == self._batches:
                    return code


class stage_table:  # noqa: N801 - it is used as a function
    """Have this process hold the same table under a name of nft's, in this block. Raises MachineRefused."""

    def __init__(self, script: str, name: str) -> None:
        self._script, self._name = script, name

    def __enter__(self) -> None:
        nftables.run(rename_held_table(self._script, self._name))

    def __exit__(self, *_: object) -> None:
        nftables.run(rename_held_table(render_release_script(), self._name))


def compute_checksum(script: str) -> bytes:
    """Of commands that only root writes. hashlib would take 3 MB of the holder's memory."""
    return zlib.crc32(script.encode()).to_bytes(4, "big")


def parse_userdata(table: dict[int, bytes]) -> dict[int, bytes]:
    """The entries of a table's user data, by their type."""
    found, octets = {}, table.get(TABLE_USERDATA, b"")
    while len(octets) >= 2:
        kind, length = octets[0], octets[1]
        found[kind], octets = octets[2 : 2 + length], octets[2 + length :]
    return found


def _render_text(kind: int, text: str) -> bytes:
    return build_attribute(kind, text.encode() + b"\0")


_NAMED: Final = _INET + _render_text(_TABLE, HELD_IN_KERNEL)
_OWNED: Final = _NAMED + build_attribute(TABLE_FLAGS, struct.pack("!I", OWNER))


def _render_copy(staged: dict[int, bytes], script: str) -> Iterator[tuple[int, int, bytes]]:
    """Messages that make the staged table's copy with the other name, in the order that the kernel needs."""
    comment = parse_userdata(staged).get(COMMENT, b"")
    entries = {COMMENT: comment, CHECKSUM: compute_checksum(script)}
    userdata = b"".join(bytes((kind, len(value))) + value for kind, value in entries.items() if value)
    yield _NEW_TABLE, _CREATE, _OWNED + build_attribute(TABLE_USERDATA, userdata)
    sets = _dump(_GET_SETS)
    for number, each in enumerate(sets, start=1):
        yield _NEW_SET, _CREATE, _copy(each, _OF_SET) + build_attribute(_SET_ID, struct.pack("!I", number))
        for elements in _dump(_GET_ELEMENTS, build_attribute(_SET_NAME, each[_SET_NAME])):
            yield _NEW_ELEMENTS, _CREATE, _copy(elements, _OF_ELEMENTS)
    for each in _dump(_GET_CHAINS):
        yield _NEW_CHAIN, _CREATE, _copy(each, _OF_CHAIN)
    for each in _dump(_GET_RULES):
        yield _NEW_RULE, _CREATE | _APPEND, _copy(each, _OF_RULE)


def _dump(kind: int, payload: bytes = b"") -> list[dict[int, bytes]]:
    """The staged table's objects of a kind, as their attributes; of chains the kernel tells all tables'."""
    name = STAGED.encode() + b"\0"
    found = nftables_messages.dump_table(kind, "inet", _render_text(_TABLE, STAGED) + payload)
    return [each for each in found if each.get(_TABLE) == name]


def _copy(attributes: dict[int, bytes], kept: Iterable[int]) -> bytes:
    return _NAMED + b"".join(
        build_attribute(kind, value) for kind, value in attributes.items() if kind in kept
    )


def _build_error(error: OSError | ValueError) -> KernelRefused:
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return KernelRefused(
        f"nftables refused the table inet {HELD}: {reason}",
        hint="no rule was changed; look at `pgrep -a qmesh-hold` and `nft list tables`",
    )
