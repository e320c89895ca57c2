"""`qmesh status`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, print_answer, print_text
from qmesh.cli.screen.spans import Lines
from qmesh.cli.screen.terminal_traits import read_terminal_traits
from qmesh.cli.streams import find_stdout_failure
from qmesh.errors import BadInput

if TYPE_CHECKING:
    from qmesh.agent.commands.status import PortStatus, Status
    from qmesh.host.state.directory import State

EXAMPLES = (
    *("qmesh status", "qmesh status --watch", "qmesh status --watch 10", "qmesh status --wide --all"),
    *("qmesh status --ports", "qmesh status --bench", "qmesh status --json"),
)

EVERY_S: Final = 2
"""Seconds between two looks of `--watch`, if it is not told otherwise."""


def command(
    seconds: Annotated[
        int | None,
        typer.Argument(
            min=1,
            max=3600,
            help="With --watch: seconds between two looks.",
            metavar="SECONDS",
            show_default=str(EVERY_S),
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every SECONDS, in place, until Ctrl-C.")
    ] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="Show all columns, and what machines tell of themselves.")
    ] = False,
    all_machines: Annotated[
        bool, typer.Option("--all", help="List machines without a problem too, however many there are.")
    ] = False,
    ports: Annotated[
        bool, typer.Option("--ports", help="Show the ports that have to be open to the internet instead.")
    ] = False,
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure a core of this machine, and show the speeds of all.")
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Show every machine of the mesh, and which workers answer.

    What is wrong comes first, with the command that fixes it; then the machines, those with a problem first.
    A terminal has the columns for which it is wide enough.

    The control node dials every worker, and knows all handshakes and counters; a worker machine knows
    only its own. `in` and `out` are what this machine received from that machine, and sent to it,
    through the tunnel.
    """
    from qmesh.agent.commands.status import list_port_status, status
    from qmesh.host.state.directory import State

    if seconds is not None and not watch:
        raise BadInput("SECONDS goes together with --watch", hint=f"run `qmesh status --watch {seconds}`")
    if bench:
        if watch or ports:
            raise BadInput("--bench goes with neither --ports nor --watch", hint="use one of them")
        from qmesh.agent.machine_facts.bench import measure_machines
        from qmesh.cli.bench_text import render_bench

        print_answer(measure_machines(State(state)), as_json=as_json, text=render_bench)
        return
    if ports:
        if watch:
            raise BadInput("--ports and --watch do not go together", hint="use one of the two")
        print_answer(list_port_status(State(state)), as_json=as_json, text=_render_ports)
        return
    build = partial(_build_lines, with_all=all_machines, is_wide=wide)
    if watch:
        _watch_status(State(state), build, float(seconds or EVERY_S), as_json=as_json, is_wide=wide)
    else:
        print_answer(status(State(state)), as_json=as_json, text=build)


def _render_ports(facts: PortStatus) -> str:
    from qmesh.cli.port_text import describe_machine_ports

    return "\n".join(describe_machine_ports(machine, announces=facts.announces) for machine in facts.machines)


def _build_lines(facts: Status, *, with_all: bool, is_wide: bool) -> Lines:
    from qmesh.cli.status_text.layout import build_status_lines

    return build_status_lines(facts, read_terminal_traits(), with_all=with_all, is_wide=is_wide)


def _watch_status(
    state: State, build: Callable[[Status], Lines], every_s: float, *, as_json: bool, is_wide: bool
) -> None:
    """In place on a terminal; elsewhere one answer after the other, in JSON a line each."""
    from qmesh.agent.commands.status import status
    from qmesh.cli.status_text.layout import build_watched_lines

    if not as_json and read_terminal_traits().has_cursor:
        from qmesh.cli.screen.watch import watch_in_place

        draw = partial(build_watched_lines, is_wide=is_wide)
        watch_in_place(
            partial(status, state), draw, every_s=every_s, on_end=lambda facts: print_text(build(facts))
        )
        return
    while find_stdout_failure() is None:
        print_answer(status(state), as_json=as_json, text=build)
        time.sleep(every_s)
