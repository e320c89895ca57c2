"""The counters of the guard's first table, by the kernel's own word: no set of ports is read for them."""

from __future__ import annotations

from typing import Final

from qmesh.host.firewall.rule_messages import parse_rules
from qmesh.host.firewall.tables_and_chains import NFTABLES, NUMBERS, dump_messages
from qmesh.host.network.netlink_messages import build_attribute
from qmesh.mesh.guard import TABLE
from qmesh.mesh.metrics.drops import count_dropped_packets

_GET_RULE: Final = NFTABLES | 7  # NFT_MSG_GETRULE
_RULE_TABLE: Final = 1  # NFTA_RULE_TABLE


def read_dropped_packets() -> dict[str, int]:
    """Packets that were dropped since the table was loaded, by chain; nothing without it.

    Raises MachineRefused where it could not look.
    """
    messages = dump_messages(_GET_RULE, NUMBERS["inet"], build_attribute(_RULE_TABLE, TABLE.encode() + b"\0"))
    own = ("inet", TABLE.encode())
    return count_dropped_packets(parse_rules(messages, lambda table: table == own))
