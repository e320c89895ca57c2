"""Which mistakes in the guard a drill notices: see scripts/mutants."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from qmesh.mesh.drill.verdict import DrillReport, describe_counterexample
from qmesh.mesh.guard.render import render_table
from tests.support.drill_range import drill_scripts
from tests.support.lab.mesh import GUARDS
from tests.support.mutants import Mutant, draw_mutants

LEAST_KINDS: Final = 60


def describe(mutant: Mutant, report: DrillReport | None) -> str:
    """A line: what the drill says of a mutant, and by which packet."""
    if report is None:
        return f"no rules     {mutant.kind}: nft refuses them"
    if report.passed is False:
        return f"noticed      {mutant.kind}: {describe_counterexample(report.counterexamples[0])}"
    return f"not noticed  {mutant.kind}"


def main() -> int:
    """Break the guard of each role, and say what is noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120, help="mutants of each role, each of another kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--role", choices=("worker", "control"), action="append")
    options = parser.parse_args()
    noticed, is_whole = set(), True
    for role in options.role or ("worker", "control"):
        guard = GUARDS[role]
        mutants = draw_mutants(guard, options.count, options.seed)
        whole, *reports = drill_scripts(guard, [render_table(guard), *(each.first for each in mutants)])
        is_whole &= whole is not None and whole.passed is True
        print(f"{role}: the guard itself {'passes' if is_whole else 'FAILS'}")
        for mutant, report in zip(mutants, reports, strict=True):
            print(describe(mutant, report), flush=True)
        found = [
            each.kind for each, report in zip(mutants, reports, strict=True) if report and not report.passed
        ]
        refused = sum(report is None for report in reports)
        print(f"{role}: {len(found)} of {len(mutants) - refused} mutants noticed, {refused} refused by nft\n")
        noticed.update(found)
    print(f"{len(noticed)} kinds of mistakes noticed, seed {options.seed}")
    return 0 if is_whole and len(noticed) >= LEAST_KINDS else 1


if __name__ == "__main__":
    sys.exit(main())
