"""`drill`: fire hostile and legitimate packets at a copy of this machine."""

from __future__ import annotations

from qmesh.agent.drill import drill_machine
from qmesh.agent.local import linux_for
from qmesh.agent.preconditions import check_user, load_checked
from qmesh.host.state.directory import State
from qmesh.mesh.drill.verdict import DrillReport


def drill(state: State, *, ruleset: str | None = None) -> DrillReport:
    """What becomes of them. ruleset: nft's commands in place of this machine's rules.

    Raises MachineRefused where the copy can't be made, or the kernel refuses these rules.
    """
    check_user("drill")
    here = load_checked(state, "drill")
    return drill_machine(here, linux_for(state, here.settings), ruleset=ruleset)
