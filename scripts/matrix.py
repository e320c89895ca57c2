"""Every case of the attack matrix, with qmesh and with what stands in its place elsewhere, as Markdown."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator

from tests.support.lab.machines import Lab
from tests.support.lab.matrix.case import OVERLAYS, Hostile, Legitimate, Overlay, passes, reached
from tests.support.lab.matrix.hostile import HOSTILE
from tests.support.lab.matrix.legitimate import LEGITIMATE
from tests.support.lab.matrix.rulesets import COMPARED, QMESH, Ruleset
from tests.support.lab.mesh import Mesh, Role
from tests.support.lab.probe import Listeners

Row = tuple[Hostile | Legitimate, Role, Overlay]


def rows() -> Iterator[Row]:
    """Each case on each kind of machine, in each kind of mesh in which there is such."""
    for case in (*HOSTILE, *LEGITIMATE):
        for overlay in case.overlays:
            yield from ((case, role, overlay) for role in case.roles)


def is_right(mesh: Mesh, row: Row, ruleset: Ruleset) -> bool:
    """Whether a ruleset does with a case what should be done."""
    case, role, overlay = row
    mesh.strip()
    with case.arranged(mesh, role):
        ruleset.guard(mesh, role, overlay)
        if isinstance(case, Hostile):
            return not reached(mesh, case, role)
        return passes(mesh, case, role, overlay)


def table(right: dict[tuple[Row, str], bool], overlay: Overlay) -> Iterator[str]:
    """A row a case, a column a ruleset."""
    yield f"| mesh of {overlay} | machine | {' | '.join(each.name for each in COMPARED)} |"
    yield "|---|---|" + "---|" * len(COMPARED)
    for row in rows():
        case, role, of = row
        if of == overlay:
            said = ("blocked", "REACHED") if isinstance(case, Hostile) else ("through", "CUT")
            found = (said[not right[row, each.name]] for each in COMPARED)
            yield f"| {case.name} | {role} | {' | '.join(found)} |"


def totals(right: dict[tuple[Row, str], bool]) -> Iterator[str]:
    """Of each kind of case, machine and mesh how many are right."""
    count: Counter[tuple[str, str]] = Counter()
    all_of: Counter[str] = Counter()
    for row in rows():
        case, role, overlay = row
        kind = "hostile blocked" if isinstance(case, Hostile) else "legitimate through"
        what = f"{kind} | {role} | {overlay}"
        all_of[what] += 1
        for each in COMPARED:
            count[what, each.name] += right[row, each.name]
    yield f"| | machine | mesh | {' | '.join(each.name for each in COMPARED)} |"
    yield "|---|---|---|" + "---|" * len(COMPARED)
    for what, whole in sorted(all_of.items()):
        yield f"| {what} | {' | '.join(f'{count[what, each.name]} of {whole}' for each in COMPARED)} |"


def main() -> int:
    """Try all of it and print it."""
    argparse.ArgumentParser(prog="scripts/matrix", description=__doc__).parse_args()
    right: dict[tuple[Row, str], bool] = {}
    with Lab() as lab, contextlib.ExitStack() as undo, Listeners() as listeners:
        mesh = Mesh(lab, listeners, undo)
        for row in rows():
            for ruleset in COMPARED:
                right[row, ruleset.name] = is_right(mesh, row, ruleset)
            print(f"tried: {row[0].name}, {row[1]}, {row[2]}", file=sys.stderr, flush=True)
    for overlay in OVERLAYS:
        print("\n".join(table(right, overlay)), end="\n\n")
    print("\n".join(totals(right)))
    return 0 if all(right[row, QMESH.name] for row in rows()) else 1


if __name__ == "__main__":
    sys.exit(main())
