"""What became of each claim, for programs: the fields that docs/reference.md promises."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.claims.claim_list import CLAIMS
from qmesh.mesh.prover.decide import Verdict


class ClaimExample(msgspec.Struct, frozen=True, kw_only=True):
    """A packet that breaks a claim. interface: by which it came, or goes. rules: those that it comes to."""

    interface: str
    family: str
    source: str
    destination: str
    protocol: str
    port: int
    rules: tuple[str, ...]


class ClaimAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A claim over all that it was asked of. proved: None where it is neither proved nor refuted."""

    claim: ClaimCode
    proved: bool | None
    counterexample: ClaimExample | None = None


def summarize_claims(verdicts: Iterable[Verdict]) -> tuple[ClaimAnswer, ...]:
    """One answer for each claim that was asked."""
    by_claim: dict[ClaimCode, list[Verdict]] = {claim: [] for claim in CLAIMS}
    for each in verdicts:
        by_claim[each.claim].append(each)
    return tuple(_summarize(claim, found) for claim, found in by_claim.items() if found)


def _summarize(claim: ClaimCode, found: list[Verdict]) -> ClaimAnswer:
    refuted = next((each for each in found if each.answer == "refuted"), None)
    if refuted is not None:
        return ClaimAnswer(claim=claim, proved=False, counterexample=_describe(refuted))
    return ClaimAnswer(claim=claim, proved=all(each.answer == "proved" for each in found) or None)


def _describe(refuted: Verdict) -> ClaimExample:
    packet = refuted.packet
    assert packet is not None
    return ClaimExample(
        interface=(packet.came_by or packet.goes_by).partition(" ")[0],
        family=packet.family,
        source=packet.source,
        destination=packet.target,
        protocol=packet.protocol,
        port=packet.target_port,
        rules=refuted.path,
    )
