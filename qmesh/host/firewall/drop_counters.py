"""The counters of the guard's tables, by the kernel's own word: no set of ports is read for them."""

from __future__ import annotations

from collections import Counter
from typing import Final

from qmesh.host.firewall.rule_messages import parse_rules
from qmesh.host.lean.nftables_messages import NFTABLES, NUMBERS, dump_messages
from qmesh.host.network.netlink_messages import build_attribute
from qmesh.mesh.guard.tables import HELD_IN_KERNEL, TABLE
from qmesh.mesh.metrics.drops import count_dropped_packets

_GET_RULE: Final = NFTABLES | 7  # NFT_MSG_GETRULE
_RULE_TABLE: Final = 1  # NFTA_RULE_TABLE


def read_dropped_packets() -> dict[str, int]:
    """Packets that were dropped since the tables were loaded, by chain; nothing without them.

    A packet meets the table first that was loaded first, and is dropped there: only both together count all.
    Raises MachineRefused where it could not look.
    """
    found: Counter[str] = Counter()
    for table in (TABLE, HELD_IN_KERNEL):
        found.update(_read_counters(table))  # also those that are 0: a series begins there
    return dict(found)


def _read_counters(table: str) -> dict[str, int]:
    messages = dump_messages(_GET_RULE, NUMBERS["inet"], build_attribute(_RULE_TABLE, table.encode() + b"\0"))
    own = ("inet", table.encode())
    return count_dropped_packets(parse_rules(messages, lambda key: key == own))
