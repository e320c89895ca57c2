"""`qmesh down`."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, print_outcome
from qmesh.mesh.ports.port_ranges import format_port_ranges

log = logging.getLogger("qmesh")

EXAMPLES = ("qmesh down", "qmesh down --open")


def command(
    unguarded: Annotated[
        bool, typer.Option("--open", help="Remove the guard too; the worker ports are open then.")
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Take the tunnel down; the guard stays.

    The worker ports stay closed, also after a reboot, until `--open`. `qmesh apply` brings the tunnel
    up again. Until then the control process reaches no worker of this machine.
    """
    from qmesh.agent.commands.down import down
    from qmesh.cli.step_text import Steps
    from qmesh.host.state.directory import State

    done = down(State(state), unguarded=unguarded)
    ports = format_port_ranges(done.ports)
    others = f", and so {{}} ports {format_port_ranges(done.guarded_ports)}" if done.guarded_ports else ""
    if done.closed:
        log.info(
            "worker ports %s stay closed%s; `qmesh apply` brings the tunnel up again",
            ports,
            others.format("do"),
        )
    else:
        log.warning(
            "worker ports %s are OPEN to any machine that reaches this one%s", ports, others.format("are")
        )
        log.warning("close them with `qmesh apply`")
    print_outcome(
        Steps.from_steps(done.steps),
        as_json=as_json,
        text=lambda it: it.render_text() or "nothing to do: the tunnel was down already",
    )
