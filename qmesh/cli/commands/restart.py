"""`qmesh restart`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import typer

from qmesh import __version__
from qmesh.cli.output import STATE, JsonOption, StateOption, print_outcome

if TYPE_CHECKING:
    from qmesh.agent.commands.restart import RestartResult

log = logging.getLogger("qmesh")

EXAMPLES = ("qmesh restart", "pipx upgrade qmesh && qmesh restart")

_PATIENCE_S = 60.0
"""Seconds to wait for another command, such as a `join`; an upgrade of many packages waits no longer."""


def command(state: StateOption = STATE, as_json: JsonOption = False) -> None:
    """Restart the agent and the process that holds the guard, after an upgrade.

    Both then run the installed version, with its units. The worker ports stay closed, and tunnel, node and
    open connections go on. A unit that was edited is kept, and the exit code is 1.

    On a machine in no mesh there is nothing to do.
    """
    from qmesh.agent.commands.restart import RestartResult, restart_processes
    from qmesh.host.state.directory import State
    from qmesh.mesh.systemd.instructions import describe_drop_in

    done = restart_processes(State(state, patience_s=_PATIENCE_S))
    kept = () if done is None else done.kept
    for name in kept:
        log.warning(
            "kept %s, which was edited; make your changes with %s instead, delete that file,"
            " and run this again",
            name,
            describe_drop_in(name.partition(".d/")[0], has_systemd=True),
        )
    if done is not None and not done.agent:
        log.warning("no agent runs on this machine: `qmesh apply` starts one")
    print_outcome(
        RestartResult(version=__version__) if done is None else done,
        as_json=as_json,
        text=lambda it: "nothing to do: this machine is in no mesh" if done is None else _render(it),
    )
    if kept:
        raise typer.Exit(1)


def _render(done: RestartResult) -> str:
    names = [
        name
        for name, has in (("the process that holds the guard", done.holder), ("agent", done.agent))
        if has
    ]
    lines = [f"wrote {', '.join(done.written)}"] if done.written else []
    lines += [f"restarted {' and the '.join(names)}, as version {done.version}"] if names else []
    return "\n".join(lines or ["nothing of qmesh runs on this machine"])
