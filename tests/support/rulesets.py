"""Rule sets as nft prints them. The second table's name cannot be typed: it is listed with all others."""

from __future__ import annotations

import re
import subprocess

from qmesh.mesh.guard.render import render_held_table, render_table
from qmesh.mesh.guard.tables import HELD, HELD_IN_KERNEL
from tests.support.factories import guard

LIST_RULESET = ["nft", "-s", "list", "ruleset", "inet"]
OTHERS = "table inet admin {\n\tchain input {\n\t\ttcp dport 22 accept\n\t}\n}\n"
SAVED = (
    render_table(guard(40003))
    + OTHERS
    + render_held_table(guard(40003)).replace(f"{HELD} {{", f"{HELD_IN_KERNEL} {{ # progname qmesh-hold")
)
"""What `nft list ruleset` prints of both tables, with one of somebody else's between them."""
_HELD = re.compile(rf"^table inet {HELD_IN_KERNEL} (\{{.*?^\}}\n)", re.DOTALL | re.MULTILINE)


def find_held_table(ruleset: str) -> str | None:
    """Its listing in what `LIST_RULESET` printed, with the name that its file has; None without one."""
    found = _HELD.search(ruleset)
    return None if found is None else f"table inet {HELD} {found[1]}"


def list_held_table() -> str | None:
    """Its listing, of this machine."""
    return find_held_table(subprocess.run(LIST_RULESET, check=True, capture_output=True, text=True).stdout)
