"""Whether what is about to be done would cut the SSH session that it is done from."""

from __future__ import annotations

import os
from collections.abc import Sequence

from qmesh.errors import BadInput
from qmesh.host.linux import Linux
from qmesh.host.log.events import report_event
from qmesh.host.system import ssh_session
from qmesh.mesh.plan.steps import Step
from qmesh.mesh.ssh_lockout import find_lockout_reason


def refuse_ssh_lockout(linux: Linux, steps: Sequence[Step]) -> None:
    """Raise BadInput where these steps would cut the session that this process was started from."""
    found = _find_ssh_lockout(linux, steps)
    if found is not None:
        raise BadInput(
            f"this would cut your own SSH session: {found}",
            hint="use `qmesh apply --confirm 60`: it is rolled back unless you confirm within 60 seconds",
        )


def warn_of_ssh_lockout(linux: Linux, steps: Sequence[Step]) -> None:
    """Say so where these steps cut the session that this process was started from."""
    found = _find_ssh_lockout(linux, steps)
    if found is not None:
        report_event("ssh-cut-off", "this cuts your own SSH session: %s", found)


def _find_ssh_lockout(linux: Linux, steps: Sequence[Step]) -> str | None:
    session = ssh_session.find_session(os.getpid()) if steps else None
    return None if session is None else find_lockout_reason(session, steps, linux.observe().tunnel)
