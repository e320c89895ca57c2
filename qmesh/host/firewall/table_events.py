"""The kernel's events about changes to the guard's tables, as they happen.

Source: `linux/netfilter/nf_tables.h`: every kind of message has its table's name as attribute 1.
Checked on Linux 6.1, 6.18 and 7.3.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from qmesh.host.network.netlink_messages import HEADER, MOST_OCTETS, parse_messages
from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.guard.tables import HELD, HELD_IN_KERNEL, TABLE

_NETLINK_NETFILTER: Final = 12
_NFTABLES_GROUP: Final = 1 << (7 - 1)  # NFNLGRP_NFTABLES
_NEW_GENERATION: Final = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN: the end of a transaction
_TABLE: Final = 1
_OUR_TABLES: Final = frozenset(name.encode() + b"\0" for name in (TABLE, HELD, HELD_IN_KERNEL))
_PROCESS, _PROGRAM = 2, 3  # NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME
_PAYLOAD: Final = HEADER.size + 4  # struct nfgenmsg
_PID: Final = struct.Struct(">I")


class Notice(msgspec.Struct, frozen=True):
    """Something that concerns this machine's tunnel or guard may have changed.

    changed_by: the program that changed the guard's table, `nft (process 123)`; empty where it is unchanged,
        or that is not known.
    """

    changed_by: str = ""


class RuleNotices:
    """The socket at which the kernel's notices of rules arrive. Raises OSError where there can be none."""

    def __init__(self) -> None:
        self.socket = open_netlink_socket(_NETLINK_NETFILTER, _NFTABLES_GROUP)
        self._touched = False

    def take_notice(self) -> Notice | None:
        """What came since the last time, as one; None when none of it concerns the guard's tables."""
        notice = None
        for octets in receive_datagrams(self.socket):
            if octets is None:
                notice, self._touched = notice or Notice(), False  # it is not known which
                continue
            for kind, _, message in parse_messages(octets):
                if kind == _NEW_GENERATION:
                    notice = Notice(_describe_process(message)) if self._touched else notice
                    self._touched = False
                else:
                    self._touched = self._touched or _find_attribute(message, _TABLE) in _OUR_TABLES
        return notice


def open_netlink_socket(protocol: int, groups: int) -> socket.socket:
    """A netlink socket at which the notices of these groups arrive. Raises OSError."""
    found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        found.bind((0, groups))
    except OSError:
        found.close()
        raise
    return found


def receive_datagrams(notices: socket.socket) -> Iterator[bytes | None]:
    """What has arrived, by datagrams; None where some were lost: the kernel keeps so many."""
    while True:
        try:
            yield notices.recv(MOST_OCTETS)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None


def _find_attribute(message: bytes, wanted: int) -> bytes:
    return next((value for kind, value in parse_attributes(message[_PAYLOAD:]) if kind == wanted), b"")


def _describe_process(message: bytes) -> str:
    program = _find_attribute(message, _PROGRAM).rstrip(b"\0").decode(errors="replace")
    process = _find_attribute(message, _PROCESS)
    if not program or len(process) != _PID.size:
        return ""
    return f"{program} (process {_PID.unpack(process)[0]})"
