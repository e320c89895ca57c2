"""What the guard has dropped, by its own counters: each of its rules that counts drops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from qmesh.mesh.foreign.kernel_rules import KernelRule

_PACKETS: Final = 2
"""An attribute of a counter. Source: linux/netfilter/nf_tables.h, NFTA_COUNTER_PACKETS."""


def count_dropped_packets(rules: Iterable[KernelRule]) -> dict[str, int]:
    """Packets by chain, of the rules of the guard's table."""
    found: defaultdict[str, int] = defaultdict(int)
    for rule in rules:
        for each in rule.expressions:
            if each.name == "counter":
                found[rule.chain] += int.from_bytes(each.attributes.get(_PACKETS, b""), "big")
    return dict(found)
