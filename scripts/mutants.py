"""Which mistakes in the guard a drill and a proof notice: see scripts/mutants."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Final, NamedTuple

from qmesh.mesh.drill.verdict import describe_counterexample
from qmesh.mesh.guard.render import render_table
from qmesh.mesh.state import Guard
from tests.support.drill_range import drill_scripts, fire_shown
from tests.support.lab.mesh import GUARDS
from tests.support.mutants import Mutant, draw_mutants
from tests.support.prover_range import prove_scripts
from tests.support.unnoticed_mutants import explain_mutant

LEAST_KINDS: Final = 60
AT_ONCE: Final = 20
"""Mutants after which what was found is printed."""


class Row(NamedTuple):
    """Of a mutant: its kind, what the drill and the proof say, and by what, or why not.

    fired, wrong: of the packets by which the proof refutes it, how many could be fired, and how many ended as
    the proof says.
    """

    kind: str
    drilled: str
    said: str
    why: str
    fired: int = 0
    wrong: int = 0


def list_rows(guard: Guard, mutants: list[Mutant]) -> list[Row]:
    """Of each mutant that nft takes."""
    scripts = [each.first for each in mutants]
    proofs = prove_scripts(guard, render_table(guard), scripts)
    shown = fire_shown(guard, scripts, [() if each is None else each.shown for each in proofs])
    rows: list[Row] = []
    for mutant, proof, report, fired in zip(
        mutants, proofs, drill_scripts(guard, scripts), shown, strict=True
    ):
        if report is None or proof is None or fired is None:
            continue
        drilled = "noticed" if report.passed is False else "-"
        if drilled == "noticed":
            why = describe_counterexample(report.counterexamples[0])
        else:
            why = proof.by if proof.said != "proved" else explain_mutant(mutant.kind)
        wrong = sum(line.wrong > 0 for line in fired.lines)
        rows.append(Row(mutant.kind, drilled, proof.said, why, len(fired.lines), wrong))
    return rows


def count_rows(rows: list[Row]) -> str:
    """How many the drill notices, and of the others and of these what the proof says."""
    counts = Counter((row.drilled, row.said) for row in rows)
    drilled = ", ".join(f"{counts['noticed', said]} {said}" for said in ("refuted", "not proved", "proved"))
    others = ", ".join(f"{counts['-', said]} {said}" for said in ("refuted", "not proved", "proved"))
    fired, wrong = sum(row.fired for row in rows), sum(row.wrong for row in rows)
    shown = f"of {fired} packets that proofs show {wrong} end so in the kernel"
    return f"of those that the drill notices {drilled}; of the others {others}; {shown}"


def main() -> int:
    """Break the guard of each role, and say what is noticed."""
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=120, help="mutants of each role, each of another kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--role", choices=("worker", "control"), action="append")
    options = parser.parse_args()
    drilled, missed, unlike, unexplained, is_whole = set(), [], [], [], True
    for role in options.role or ("worker", "control"):
        guard = GUARDS[role]
        mutants = draw_mutants(guard, options.count, options.seed)
        (whole,) = drill_scripts(guard, [render_table(guard)])
        is_whole &= whole is not None and whole.passed is True
        print(f"{role}: the guard itself {'passes' if is_whole else 'FAILS'}")
        print("| mistake | drill | proof | its packets that end so | by, or why not |\n|---|---|---|---|---|")
        rows: list[Row] = []
        for start in range(0, len(mutants), AT_ONCE):
            found = list_rows(guard, mutants[start : start + AT_ONCE])
            rows += found
            for row in found:
                shown = f"{row.wrong} of {row.fired}" if row.fired else ""
                print(f"| {' | '.join((*row[:3], shown, row.why))} |", flush=True)
        drilled |= {row.kind for row in rows if row.drilled == "noticed"}
        missed += [f"{role}: {each.kind}" for each in rows if each[1] == "noticed" and each[2] != "refuted"]
        unlike += [f"{role}: {each.kind}" for each in rows if each.wrong < each.fired]
        unexplained += [
            f"{role}: {each.kind}" for each in rows if each[1:3] == ("-", "proved") and not each.why
        ]
        print(f"{role}: {count_rows(rows)}\n")
    print(f"{len(drilled)} kinds of mistakes noticed by the drill, seed {options.seed}")
    print(f"of these not refuted by the proof: {', '.join(missed) or 'none'}")
    print(f"of which a packet is shown that ends otherwise in the kernel: {', '.join(unlike) or 'none'}")
    print(f"noticed by neither, and not explained: {', '.join(unexplained) or 'none'}")
    return 0 if is_whole and len(drilled) >= LEAST_KINDS and not missed else 1


if __name__ == "__main__":
    sys.exit(main())
