"""Which mistakes in the guard a drill and a proof notice: see scripts/mutants."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Final

from qmesh.mesh.drill.verdict import DrillReport, describe_counterexample
from qmesh.mesh.guard.render import render_table
from tests.support.drill_range import drill_scripts
from tests.support.lab.mesh import GUARDS
from tests.support.mutants import Mutant, draw_mutants
from tests.support.prover_range import Proved, prove_scripts
from tests.support.unnoticed_mutants import explain_mutant

LEAST_KINDS: Final = 60
AT_ONCE: Final = 20
"""Mutants after which what was found is printed."""


def list_rows(
    mutants: list[Mutant], reports: list[DrillReport | None], proofs: list[Proved | None]
) -> list[tuple[str, str, str, str]]:
    """Of each mutant that nft takes: its kind, what the drill and the proof say, and by what, or why not."""
    rows: list[tuple[str, str, str, str]] = []
    for mutant, report, proof in zip(mutants, reports, proofs, strict=True):
        if report is None or proof is None:
            continue
        drilled = "noticed" if report.passed is False else "-"
        if drilled == "noticed":
            why = describe_counterexample(report.counterexamples[0])
        else:
            why = proof.by if proof.said != "proved" else explain_mutant(mutant.kind)
        rows.append((mutant.kind, drilled, proof.said, why))
    return rows


def count_rows(rows: list[tuple[str, str, str, str]]) -> str:
    """How many the drill notices, and of the others and of these what the proof says."""
    counts = Counter(row[1:3] for row in rows)
    drilled = ", ".join(f"{counts['noticed', said]} {said}" for said in ("refuted", "not proved", "proved"))
    others = ", ".join(f"{counts['-', said]} {said}" for said in ("refuted", "not proved", "proved"))
    return f"of those that the drill notices {drilled}; of the others {others}"


def main() -> int:
    """Break the guard of each role, and say what is noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120, help="mutants of each role, each of another kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--role", choices=("worker", "control"), action="append")
    options = parser.parse_args()
    drilled, missed, unexplained, is_whole = set(), [], [], True
    for role in options.role or ("worker", "control"):
        guard = GUARDS[role]
        mutants = draw_mutants(guard, options.count, options.seed)
        (whole,) = drill_scripts(guard, [render_table(guard)])
        is_whole &= whole is not None and whole.passed is True
        print(f"{role}: the guard itself {'passes' if is_whole else 'FAILS'}")
        print("| mistake | drill | proof | by, or why not |\n|---|---|---|---|")
        rows: list[tuple[str, str, str, str]] = []
        for start in range(0, len(mutants), AT_ONCE):
            some = mutants[start : start + AT_ONCE]
            scripts = [each.first for each in some]
            proofs = prove_scripts(guard, render_table(guard), scripts)
            found = list_rows(some, drill_scripts(guard, scripts), proofs)
            rows += found
            for row in found:
                print(f"| {' | '.join(row)} |", flush=True)
        drilled |= {kind for kind, found, _, _ in rows if found == "noticed"}
        missed += [f"{role}: {row[0]}" for row in rows if row[1:3] == ("noticed", "proved")]
        unexplained += [f"{role}: {row[0]}" for row in rows if row[1:3] == ("-", "proved") and not row[3]]
        print(f"{role}: {count_rows(rows)}\n")
    print(f"{len(drilled)} kinds of mistakes noticed by the drill, seed {options.seed}")
    print(f"of these proved all the same: {', '.join(missed) or 'none'}")
    print(f"noticed by neither, and not explained: {', '.join(unexplained) or 'none'}")
    return 0 if is_whole and len(drilled) >= LEAST_KINDS and not missed else 1


if __name__ == "__main__":
    sys.exit(main())
