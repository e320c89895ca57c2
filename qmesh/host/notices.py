"""What the kernel tells of changes to links, addresses and the guard's table, when they happen.

Source: rtnetlink(7); `linux/netfilter/nf_tables.h`, whose every kind of message bears its table's
name as attribute 1. Checked on Linux 6.1, 6.18 and 7.3.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

import msgspec
from pyroute2.netlink import NETLINK_NETFILTER, NETLINK_ROUTE
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_LINK

from qmesh.host.netlink import HEADER, attributes, messages_in, refusals
from qmesh.mesh.guard import HELD, TABLE

_NFTABLES_GROUP: Final = 1 << (7 - 1)  # NFNLGRP_NFTABLES
_NEW_GENERATION: Final = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN: the end of a transaction
_TABLE: Final = 1
_OUR_TABLES: Final = frozenset(name.encode() + b"\0" for name in (TABLE, HELD))
_PROCESS, _PROGRAM = 2, 3  # NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME
_PAYLOAD: Final = HEADER.size + 4  # struct nfgenmsg
_PID: Final = struct.Struct(">I")
_MOST_OCTETS: Final = 1 << 17


class Notice(msgspec.Struct, frozen=True):
    """Something that concerns this machine's tunnel or guard may have changed.

    by: who changed the guard's table, `nft (process 123)`; empty when nobody did, or it was not told.
    """

    by: str = ""


class Notices:
    """Sockets at which the kernel's notices arrive, until `close`."""

    def __init__(self) -> None:
        with refusals("listen for changes of links and of nftables"):
            self._links = _listening(NETLINK_ROUTE, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)
            self._rules = _listening(NETLINK_NETFILTER, _NFTABLES_GROUP)
        self._touched = False

    def close(self) -> None:
        """Listen no more."""
        for each in self.sockets:
            each.close()

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """To wait for: readable when there is something to take."""
        return self._links, self._rules

    def take(self) -> Notice | None:
        """What came since the last time, as one; None when none of it concerns qmesh."""
        notice = Notice() if any(True for _ in _received(self._links)) else None
        for octets in _received(self._rules):
            if octets is None:
                notice, self._touched = notice or Notice(), False  # nobody knows which
                continue
            for kind, _, message in messages_in(octets):
                if kind == _NEW_GENERATION:
                    notice = Notice(_who(message)) if self._touched else notice
                    self._touched = False
                else:
                    self._touched = self._touched or _value(message, _TABLE) in _OUR_TABLES
        return notice


def _listening(protocol: int, groups: int) -> socket.socket:
    listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        listening.bind((0, groups))
    except OSError:
        listening.close()
        raise
    return listening


def _received(listening: socket.socket) -> Iterator[bytes | None]:
    """What has arrived, by datagrams; None where some were lost: the kernel keeps so many."""
    while True:
        try:
            yield listening.recv(_MOST_OCTETS)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None


def _value(message: bytes, wanted: int) -> bytes:
    for kind, (start, end) in attributes(message, _PAYLOAD, len(message)):
        if kind == wanted:
            return message[start:end]
    return b""


def _who(message: bytes) -> str:
    program = _value(message, _PROGRAM).rstrip(b"\0").decode(errors="replace")
    process = _value(message, _PROCESS)
    return f"{program} (process {_PID.unpack(process)[0]})" if program and process else ""
