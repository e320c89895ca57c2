"""Packets that the kernel's check of sources refuses (`rp_filter`), which no rule shows. Source: ip-sysctl.

A strict check drops what comes by another interface than the one by which an answer would leave, as on a
machine with two uplinks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.sysctls import name_setting


class Arrival(msgspec.Struct, frozen=True):
    """A way on which packets come: from whom, for which address of this machine, and by which interface.

    refused_for: the interface by which this machine's own to `source` leave, where the check drops what comes
    so; None where it lets it in.
    """

    source: str
    address: str
    interface: str
    refused_for: str | None = None


def find_source_obstacles(arrivals: Iterable[Arrival]) -> Iterator[Obstacle]:
    """Each interface that refuses somebody whom no other one lets in, with the command that ends that.

    Who is let in at one of this machine's addresses uses that one: the others are for machines elsewhere.
    """
    asked = tuple(arrivals)
    let_in = {each.source for each in asked if each.refused_for is None}
    refused = {each.interface: each for each in reversed(asked) if each.source not in let_in}
    for interface, each in sorted(refused.items()):
        yield Obstacle(
            place=f"source check, {interface}",
            seen=f"the kernel drops what comes from {each.source}, as its own packets to there leave by"
            f" {each.refused_for} (rp_filter is strict)",
            wanted=f"WireGuard's packets to {each.address} arrive",
            cure=f"sysctl -w {name_setting(interface, 'rp_filter')}=2",
            is_certain=True,
        )
