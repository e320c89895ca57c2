"""The guard's second table as nft prints it, with all others: no command can type its name."""

from __future__ import annotations

import re
import subprocess

from qmesh.mesh.guard import HELD, HELD_IN_KERNEL

LIST_RULESET = ["nft", "-s", "list", "ruleset", "inet"]
_HELD = re.compile(rf"^table inet {HELD_IN_KERNEL} (\{{.*?^\}}\n)", re.DOTALL | re.MULTILINE)


def find_held_table(ruleset: str) -> str | None:
    """Its listing in what `LIST_RULESET` printed, with the name that its file has; None without one."""
    found = _HELD.search(ruleset)
    return None if found is None else f"table inet {HELD} {found[1]}"


def list_held_table() -> str | None:
    """Its listing, of this machine."""
    return find_held_table(subprocess.run(LIST_RULESET, check=True, capture_output=True, text=True).stdout)
