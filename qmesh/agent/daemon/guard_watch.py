"""The part of the agent that keeps the guard, beside whatever else the agent waits for.

Who holds the second table keeps the first as well (`qmesh.host.firewall.holder`), and is quicker. This one is
for when that process is gone, or hangs, or is of a qmesh that did not do so yet.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from typing import Final

from qmesh.agent.daemon.supervisor import GUARD, AgentPart, Troubles
from qmesh.errors import QmeshError
from qmesh.host.firewall import guard_keeper
from qmesh.host.firewall.guard_keeper import GuardKeeper
from qmesh.host.log.events import report_event
from qmesh.host.network.sockets import tcp_connections
from qmesh.host.state.directory import State
from qmesh.host.system import heartbeat
from qmesh.mesh.guard.parse import parse_load_script
from qmesh.mesh.state import Guard

HEAD_START_S: Final = 0.03
"""Seconds that the other process has to put the table back before this one looks."""


def keep_guard(
    state: State, part: AgentPart, troubles: Troubles, *, note_alterations: Callable[[str], None]
) -> None:
    """Keep it until the part is to stop. Raises OSError where the kernel tells nothing any more.

    note_alterations: told `GuardKeeper.describe_alterations`, at the beginning and when that is another.
    """
    with contextlib.closing(GuardKeeper(state.directory)) as kept:
        note_alterations(kept.describe_alterations())
        while not part.stopped.is_set():
            try:
                if kept.ensure_loaded():
                    note_alterations(kept.describe_alterations())
                    changed = guard_keeper.describe_change(kept.changed_by)
                    report_event("guard-restored", "%s; load-guard inet qmesh: as it is written", changed)
                    _cut_unguarded_connections(state)
            except QmeshError as error:
                troubles.note_error(GUARD, error)
            else:
                troubles.clear(GUARD)
            with heartbeat.allow_wait(guard_keeper.LOOK_S):
                noticed, _, _ = select.select([kept.socket], [], [], guard_keeper.LOOK_S)
                if noticed:
                    part.stopped.wait(HEAD_START_S)


def _cut_unguarded_connections(state: State) -> None:
    """End what was opened to the workers while the table was away."""
    script = guard_keeper.read_script(state.guard_file)
    guard = None if script is None else parse_load_script(script)
    if isinstance(guard, Guard):
        tcp_connections.close_disallowed_connections(guard)
