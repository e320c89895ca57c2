"""`qmesh apply`."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Annotated

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, print_outcome
from qmesh.errors import BadInput
from qmesh.mesh.ports.port_ranges import format_port_ranges

if TYPE_CHECKING:
    from qmesh.agent.commands.apply import TrialResult
    from qmesh.agent.local import Local
    from qmesh.cli.step_text import Steps
    from qmesh.host.linux import Linux

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh apply",
    "qmesh apply --confirm 120    (then, in a new login: qmesh confirm)",
    "qmesh apply --drill",
    "qmesh apply --mtu 1300",
    "qmesh apply --control-endpoint 203.0.113.9:51820",
)


def command(
    confirm: Annotated[
        int | None,
        typer.Option(
            help="Roll everything back after 10 to 3600 seconds, unless you run `qmesh confirm`.",
            metavar="SECONDS",
        ),
    ] = None,
    mtu: Annotated[
        str | None,
        typer.Option(
            help="Limit the tunnel MTU (bytes), after `check` reported a black hole; `auto` removes the"
            " limit.",
            metavar="BYTES",
        ),
    ] = None,
    control_endpoint: Annotated[
        str | None,
        typer.Option(
            help="HOST[:PORT] at which this machine reaches the control node from now on, if that has moved.",
            metavar="HOST[:PORT]",
        ),
    ] = None,
    drill: Annotated[
        bool,
        typer.Option(
            "--drill", help="First drill the guard that it would load; change nothing where that fails."
        ),
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Make this machine as desired, guard first.

    It also ends what `qmesh down` began. A machine that is as desired is not changed. With `--confirm`
    the machine is rolled back, even if this login is cut, unless you run `qmesh confirm` in time.
    """
    from qmesh.agent.commands.apply import apply, apply_with_rollback
    from qmesh.cli.step_text import Steps
    from qmesh.host.state.directory import State

    examine = _drill if drill else None
    if confirm is None:
        taken = apply(State(state), mtu=mtu, control_endpoint=control_endpoint, examine=examine)
        _print_steps(Steps.from_steps(taken), as_json=as_json)
        return
    for option, said in (("--mtu", mtu), ("--control-endpoint", control_endpoint)):
        if said is not None:
            raise BadInput(
                f"{option} is kept for good, and --confirm cannot roll it back",
                hint=f"leave out {option} or --confirm",
            )
    tried = apply_with_rollback(State(state), seconds=confirm, examine=examine)
    _print_steps(Steps.from_steps(tried.steps), as_json=as_json)
    _warn_of_rollback(tried)


def _drill(here: Local, linux: Linux) -> None:
    """Raise MachineRefused where the drill fails."""
    from qmesh.agent.drill import refuse_failed_drill

    for each in refuse_failed_drill(here, linux):
        log.warning("the drill does not know: %s", each)


def _print_steps(steps: Steps, *, as_json: bool) -> None:
    from qmesh.cli.step_text import AS_DESIRED

    print_outcome(steps, as_json=as_json, text=lambda it: it.render_text() or AS_DESIRED)


def _warn_of_rollback(tried: TrialResult) -> None:
    if tried.undone_in_s is None:
        return
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + tried.undone_in_s))
    log.warning("NOT KEPT YET: rolled back at %s (in %d s) unless you confirm.", until, tried.undone_in_s)
    log.warning("Log in again, in a second terminal; if that works, type there: qmesh confirm")
    if tried.opens or tried.opens_others:
        others = f", and so are ports {format_port_ranges(tried.opens_others)}" if tried.opens_others else ""
        log.warning(
            "After the rollback there is no guard: worker ports %s are OPEN to everyone%s.",
            format_port_ranges(tried.opens) or "none",
            others,
        )
