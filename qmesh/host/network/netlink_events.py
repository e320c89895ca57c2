"""What the kernel tells of changes to links, addresses and the guard's tables, when they happen.

Source: rtnetlink(7). Checked on Linux 6.1, 6.18 and 7.3.
"""

from __future__ import annotations

from typing import Final

import msgspec

from qmesh.host.firewall.table_events import RuleNotices, open_netlink_socket, receive_datagrams
from qmesh.host.lean.bare_socket import BareSocket
from qmesh.host.network.netlink import translate_errors
from qmesh.mesh.standing_proof.schedule import RuleChanges

_ROUTE_PROTOCOL: Final = 0  # NETLINK_ROUTE
_GROUPS: Final = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR


class Notice(msgspec.Struct, frozen=True):
    """Something that concerns this machine's tunnel or guard may have changed.

    changed_by: who changed the guard's tables, as `RuleNotices` has it; empty where they are unchanged.
    """

    changed_by: str = ""


class Notices:
    """Sockets at which the kernel's notices arrive, until `close`.

    before: what those counted in whose place these are; who asks then sees that one was missed, maybe.
    """

    def __init__(self, before: RuleChanges | None = None) -> None:
        with translate_errors("listen for changes of links and of nftables"):
            self._links = open_netlink_socket(_ROUTE_PROTOCOL, _GROUPS)
            self._rules = RuleNotices()
        if before is not None:
            self._rules.rule_changes, self._rules.element_changes = before.rules + 1, before.elements

    def close(self) -> None:
        """Listen no more."""
        for each in self.sockets:
            each.close()

    @property
    def sockets(self) -> tuple[BareSocket, BareSocket]:
        """To wait for: readable when there is something to take."""
        return self._links, self._rules.socket

    def count_changes(self) -> RuleChanges:
        """Of all rules, as far as notices of them were taken."""
        return RuleChanges(self._rules.rule_changes, self._rules.element_changes)

    def take_notice(self) -> Notice | None:
        """What came since the last time, as one; None when none of it concerns qmesh."""
        of_links = Notice() if any(True for _ in receive_datagrams(self._links)) else None
        changed_by = self._rules.take_notice()
        return of_links if changed_by is None else Notice(changed_by)
