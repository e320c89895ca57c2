"""The claims in words, and all cases of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.claims.arrival_cases import build_arrivals
from qmesh.mesh.prover.claims.case import Case
from qmesh.mesh.prover.claims.other_cases import build_others
from qmesh.mesh.prover.claims.passage_cases import build_passages
from qmesh.mesh.prover.claims.sent_cases import build_sent
from qmesh.mesh.prover.rulesets import ProvedRuleset
from qmesh.mesh.prover.traveller import Family
from qmesh.mesh.state import Guard

CLAIMS: Final[dict[ClaimCode, str]] = {
    "outside": "no packet reaches a closed port but through the tunnel, whatever its connection's state",
    "tunnel": "through the tunnel a closed port is reached by those alone who may",
    "granted": "through the tunnel nothing is reached but what the mesh grants",
    "containers": "no such packet is passed on to a container at a closed port",
    "into-tunnel": "nothing but answers is passed on into the tunnel",
    "older": "a connection that is older than the guard is not answered from a closed port",
    "taken-up": "no TCP connection that is older than the guard is taken up again from a closed port",
    "service": "of this machine's programs only root's speak with the membership service",
    "control": "who may reach a closed port or the membership service reaches it",
    "answers": "who reached a closed port is answered, and so is this machine where it asked from one",
    "wireguard": "WireGuard's port is open to members",
    "others": "the guard drops nothing that is for another port and another interface than the mesh's",
}
ALONE: Final[tuple[ClaimCode, ...]] = (
    "outside", "tunnel", "containers", "into-tunnel", "older", "taken-up", "service",
)  # fmt: skip
"""Claims that hold with either of the guard's tables alone."""
_FAMILIES: Final[tuple[Family, ...]] = ("ip", "ip6")
_QUESTIONS: Final[tuple[ClaimCode, ...]] = (
    "outside", "tunnel", "granted", "control", "wireguard", "answers", "containers", "into-tunnel",
    "taken-up", "taken-up", "older", "service", "control", "containers", "answers",
    "others", "others", "others",
)  # fmt: skip


def list_questions(*, has_guard: bool) -> list[tuple[ClaimCode, Family]]:
    """Claim and family of each case, in their order. has_guard: whether the rules have the guard's tables."""
    claims = [claim for claim in _QUESTIONS if has_guard or claim != "others"]
    return [(claim, family) for family in _FAMILIES for claim in claims]


def build_cases(ruleset: ProvedRuleset, guard: Guard) -> Iterator[Case]:
    """Every claim, family by family; those of one family one walk each way."""
    for family in _FAMILIES:
        yield from build_arrivals(ruleset, guard, family)
        yield from build_passages(ruleset, guard, family)
        yield from build_sent(ruleset, guard, family)
        if ruleset.own_tables:
            yield from build_others(ruleset, guard, family)
