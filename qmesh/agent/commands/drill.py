"""`drill`: fire hostile and legitimate packets at a copy of this machine."""

from __future__ import annotations

from pathlib import Path

from qmesh.agent.drill import Refute, drill_machine
from qmesh.agent.local import linux_for
from qmesh.agent.preconditions import check_user, load_checked
from qmesh.host.given_rules import read_given_rules
from qmesh.host.state.directory import State
from qmesh.mesh.drill.verdict import DrillReport


def drill(state: State, *, ruleset: Path | None = None, refute: Refute | None = None) -> DrillReport:
    """What becomes of them. ruleset: a file of rules, in place of this machine's.

    refute: as of `drill_machine`.

    Raises MachineRefused where the copy can't be made, and BadInput where nft does not take the file.
    """
    check_user("drill")
    here = load_checked(state, "drill")
    given = None if ruleset is None else read_given_rules(ruleset)
    return drill_machine(here, linux_for(state, here.settings), ruleset=given, refute=refute)
