"""What became of each claim when it was proved last: plain words, so that who tells it loads no prover."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.prover.claim_codes import ClaimCode

ClaimState: TypeAlias = Literal["refuted", "not proved", "proved"]
_WORST_FIRST: Final[tuple[ClaimState, ...]] = ("refuted", "not proved", "proved")


class ClaimResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a claim, over both families.

    closes: whether the claim is that something does not get through. words: what it says.
    without: the table of the guard's that was left out; empty for none.
    packet: one that breaks it, or that may. rules: those that let it through, or that are not understood.
    unusual: what is not ordinary of each packet that breaks it, or may.
    """

    claim: ClaimCode
    closes: bool
    words: str
    state: ClaimState
    family: str
    without: str = ""
    packet: str = ""
    rules: tuple[str, ...] = ()
    unusual: tuple[str, ...] = ()


class ProofLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the process that proves prints.

    results: of some claims. rules: how many there are; None but in the first line.
    printed: how many results there were; only in the last line. problem: why there is no proof.
    """

    results: tuple[ClaimResult, ...] = ()
    rules: int | None = None
    printed: int | None = None
    problem: str = ""


class StandingProof(msgspec.Struct, frozen=True, kw_only=True):
    """The last proof. at: when it ended, in Unix time in seconds. rules: how many it was about.

    problem: why claims are missing or none is there; empty where nothing is. With one, claims that were
    refuted before still are, and `at` is of then.
    behind_s: for how many seconds rules have been others than those proved; None where they are not.
    """

    claims: tuple[ClaimResult, ...] = ()
    at: float = 0.0
    rules: Annotated[int, msgspec.Meta(ge=0)] = 0
    problem: str = ""
    behind_s: float | None = None

    def list_refuted(self) -> tuple[ClaimResult, ...]:
        """Claims of something closed that a packet breaks."""
        return tuple(each for each in self.claims if each.closes and each.state == "refuted")

    def list_open(self) -> tuple[ClaimResult, ...]:
        """Claims of something closed that are neither proved nor refuted."""
        return tuple(each for each in self.claims if each.closes and each.state == "not proved")

    def keep_refuted(self, before: StandingProof | None) -> StandingProof:
        """The same of one with a problem: it has proved nothing of what was refuted before."""
        if before is None:
            return self
        refuted = [each for each in before.claims if each.state == "refuted"]
        claims = join_results([*self.claims, *refuted])
        return msgspec.structs.replace(self, claims=claims, at=before.at or self.at)


def join_results(results: Iterable[ClaimResult]) -> tuple[ClaimResult, ...]:
    """Of each claim the worst, the first of those that are equally bad."""
    found: dict[str, ClaimResult] = {}
    for each in results:
        known = found.get(each.claim)
        if known is None or _WORST_FIRST.index(each.state) < _WORST_FIRST.index(known.state):
            found[each.claim] = each
    return tuple(found.values())
