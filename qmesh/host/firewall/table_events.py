"""The kernel's events about changes to the guard's tables, as they happen.

Source: `linux/netfilter/nf_tables.h`: every kind of message has its table's name as attribute 1.
Checked on Linux 6.1, 6.18 and 7.3.
"""

from __future__ import annotations

import _socket
import errno
import struct

from qmesh.host.lean.bare_socket import BareSocket
from qmesh.host.lean.nftables_messages import NETFILTER
from qmesh.host.network.netlink_messages import HEADER, MOST_OCTETS, parse_messages
from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.guard.tables import HELD, HELD_IN_KERNEL, TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_NFTABLES_GROUP: Final = 1 << (7 - 1)  # NFNLGRP_NFTABLES
_NEW_GENERATION: Final = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN: the end of a transaction
_ELEMENTS: Final = frozenset({10 << 8 | 12, 10 << 8 | 14})  # NFT_MSG_NEWSETELEM, _DELSETELEM
_TABLE: Final = 1
_OUR_TABLES: Final = frozenset(name.encode() + b"\0" for name in (TABLE, HELD, HELD_IN_KERNEL))
_PROCESS, _PROGRAM = 2, 3  # NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME
_PAYLOAD: Final = HEADER.size + 4  # struct nfgenmsg
_PID: Final = struct.Struct(">I")


class RuleNotices:
    """The socket at which the kernel's notices of rules arrive. Raises OSError where there can be none."""

    def __init__(self) -> None:
        self.socket = open_netlink_socket(NETFILTER, _NFTABLES_GROUP)
        self._touched = False
        self.rule_changes = 0
        """How many notices of tables, chains, rules and sets have come, of any table."""
        self.element_changes = 0
        """The same of what is in sets."""

    def take_notice(self) -> str | None:
        """Who changed the guard's tables since the last time, of several the last: `nft (process 123)`.

        Empty where that is not known, None where nobody did.
        """
        notice = None
        for octets in receive_datagrams(self.socket):
            if octets is None:
                notice, self._touched = notice or "", False  # it is not known which
                self.rule_changes += 1
                continue
            for kind, _, message in parse_messages(octets):
                if kind == _NEW_GENERATION:
                    notice = _describe_process(message) if self._touched else notice
                    self._touched = False
                else:
                    if kind in _ELEMENTS:
                        self.element_changes += 1
                    else:
                        self.rule_changes += 1
                    self._touched = self._touched or _find_attribute(message, _TABLE) in _OUR_TABLES
        return notice


def open_netlink_socket(protocol: int, groups: int) -> BareSocket:
    """A netlink socket at which the notices of these groups arrive. Raises OSError."""
    found = BareSocket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_NONBLOCK, protocol)
    try:
        found.bind((0, groups))
    except OSError:
        found.close()
        raise
    return found


def receive_datagrams(notices: BareSocket) -> Iterator[bytes | None]:
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
