"""Rules of one chain, and what the prover says of a packet that comes to it."""

from __future__ import annotations

from typing import Any, Final

from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.rulesets import ListedChain, Listing
from qmesh.mesh.prover.rulesets import ProvedRuleset, build_ruleset
from qmesh.mesh.prover.set_contents import SetContent
from tests.support.foreign_cases import Fate
from tests.support.kernel_expressions import DROP, compares, ct
from tests.support.prover_recordings import DATAGRAM
from tests.support.sent_packets import Judge, SentPacket

TRACKING: Final = KernelRule("inet", "quiet", "out", 1, (ct(0), compares(bytes(4)), DROP))


def ruleset(
    *rules: list[Expression], sets: dict[str, SetContent] | None = None, **named: Any
) -> ProvedRuleset:
    """A table with a base chain of these rules, and one `other` that drops."""
    family = named.pop("family", "inet")
    chain = {"hook": "input", "kind": "filter", **named}
    tracks, routes = named.pop("tracks", True), named.pop("routes", {})
    for other in ("tracks", "routes"):
        chain.pop(other, None)
    return build_ruleset(
        Listing(
            tables=((family, "t"), ("inet", "quiet")),
            chains=(
                ListedChain(family=family, table="t", name="c", **chain),
                ListedChain(family=family, table="t", name="other"),
            ),
            rules=(
                *(KernelRule(family, "t", "c", place, tuple(each)) for place, each in enumerate(rules)),
                KernelRule(family, "t", "other", 99, (DROP,)),
                *([TRACKING] if tracks else []),
            ),
        ),
        {(family, "t", name): content for name, content in (sets or {}).items()},
        routes,
    )


def fate(*rules: list[Expression], packet: SentPacket = DATAGRAM, **named: Any) -> Fate:
    """What becomes of it."""
    return Judge(ruleset(*rules, **named), packet.family, {"eth0": 2}).find_fate(packet)
