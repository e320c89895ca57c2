"""What a proof says of the guard as it is, and broken: by itself, and beside another program's rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from qmesh.errors import KernelRefused
from qmesh.host.drill.conduct import run_nft
from qmesh.host.drill.namespaces import Namespaces, run_in_namespaces
from qmesh.host.prover.ruleset_file import read_live_rules, read_routes
from qmesh.mesh.drill.rows import DrillRow
from qmesh.mesh.drill.shown_packets import build_shown_rows
from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.claims.claim_list import build_cases
from qmesh.mesh.prover.decide import Verdict, decide_each
from qmesh.mesh.prover.examples import OwnInterface
from qmesh.mesh.prover.rulesets import build_ruleset
from qmesh.mesh.state import Guard
from tests.support.drill_range import THEIRS, describe_machine
from tests.support.kernel_range import JUDGEMENT_TIMEOUT_S

Said: TypeAlias = Literal["refuted", "not proved", "proved"]


class Proved(msgspec.Struct, frozen=True):
    """said: of all claims together that are proved of the whole guard. by: the claim that says so, and why.

    shown: the packets that refute claims, for a drill.
    """

    said: Said
    by: str = ""
    shown: tuple[DrillRow, ...] = ()


def prove_scripts(guard: Guard, whole: str, scripts: Sequence[str]) -> list[Proved | None]:
    """Of each of these tables in place of the guard's first, which is `whole`; None where nft refuses it."""

    def work(namespaces: Namespaces) -> list[Proved | None]:
        found: list[Proved | None] = [None] * len(scripts)
        for beside in ("", THEIRS):
            expected = _prove(namespaces, guard, beside + whole)
            assert expected is not None
            open_before = {(each.claim, each.family) for each in expected if each.answer != "proved"}
            for number, script in enumerate(scripts):
                before = found[number]
                if before is None or before.said != "refuted":
                    verdicts = _prove(namespaces, guard, beside + script)
                    found[number] = None if verdicts is None else _judge(verdicts, open_before, before)
        return found

    return run_in_namespaces(work, list[Proved | None], timeout_s=JUDGEMENT_TIMEOUT_S * 2)


def _prove(namespaces: Namespaces, guard: Guard, script: str) -> list[Verdict] | None:
    try:
        run_nft(namespaces, f"flush ruleset\n{script}")
    except KernelRefused:
        return None
    found = read_live_rules()
    rules = build_ruleset(found.listing, found.sets, read_routes(found.listing.rules))
    own = {
        name: OwnInterface(each.kind, each.kind not in {"tun", "wireguard"}, each.addresses)
        for name, each in describe_machine(guard).interfaces.items()
    }
    cases = build_cases(rules, guard)
    groups = decide_each(cases, guard, found.listing.interfaces, rules.own_tables, own)
    return [verdict for group in groups for verdict in group]


def _judge(verdicts: list[Verdict], open_before: set[tuple[ClaimCode, str]], before: Proved | None) -> Proved:
    refuted = [each for each in verdicts if each.answer == "refuted"]
    if refuted:
        shown = {each.packet: each.claim for each in refuted if each.packet is not None and not each.without}
        rows, _ = build_shown_rows((claim, packet) for packet, claim in shown.items())
        return Proved("refuted", f"{refuted[0].claim}, {refuted[0].family}", rows)
    for each in verdicts:
        if each.answer != "proved" and (each.claim, each.family) not in open_before:
            reasons = "; ".join((*map(str, each.unclear), *each.unusual))
            return Proved("not proved", f"{each.claim}, {each.family}: {reasons}")
    return before or Proved("proved")
