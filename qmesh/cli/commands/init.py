"""`qmesh init`."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from qmesh.cli.output import (
    STATE,
    AnnounceOption,
    ConfigOption,
    JsonOption,
    NoApplyOption,
    NodeOption,
    StateOption,
    TakeOverOption,
    print_outcome,
)
from qmesh.errors import BadInput

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh init --name fra-1 --endpoint 203.0.113.5 --workers 3",
    "qmesh init --name fra-1 --endpoint 203.0.113.5 --endpoint 192.168.0.200 --config /root/node/.config",
)


def command(
    name: Annotated[
        str | None, typer.Option(help="This machine's name.", metavar="NAME", show_default="control")
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST[:PORT] at which others reach this machine; the best first, can be repeated.",
            show_default="its own addresses",
        ),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="The tunnel network.", show_default="one that is free here")
    ] = None,
    listen_port: Annotated[
        int | None, typer.Option(help="WireGuard's UDP port.", show_default="51820")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Data workers of this machine.", show_default="one fewer than its cores"),
    ] = None,
    reserve: Annotated[
        int | None, typer.Option(help="Cores that stay free for the control process.", show_default="1")
    ] = None,
    node: NodeOption = None,
    worker_base_port: Annotated[
        int | None, typer.Option(help="Port of the first worker.", show_default="32500; 40000 before 2.1")
    ] = None,
    announce: AnnounceOption = None,
    config: ConfigOption = None,
    interface: Annotated[
        str | None, typer.Option(help="The tunnel interface.", show_default="qmesh0")
    ] = None,
    take_over: TakeOverOption = False,
    no_apply: NoApplyOption = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Make a mesh, with this machine as its control node.

    The guard is loaded first, then the tunnel is made, then the agent is started. If it was
    interrupted, run it again with the same options: it goes on.
    """
    from qmesh.agent.commands.init import InitOptions, init
    from qmesh.cli.join_text import render_join_result
    from qmesh.host.state.directory import State

    if workers is not None and reserve is not None:
        raise BadInput("--workers and --reserve do not go together", hint="use one of the two")
    wish = InitOptions(
        name=name,
        endpoints=tuple(endpoint or ()),
        network=network,
        listen_port=listen_port,
        workers=workers,
        reserve=reserve,
        node=node,
        worker_base_port=worker_base_port,
        config=config,
        interface=interface,
        take_over=take_over,
        announce=announce,
    )
    standing = init(State(state), wish, apply=not no_apply)
    print_outcome(standing, as_json=as_json, text=render_join_result)
    log.info("next: run `qmesh render-config --write` here, and `qmesh invite NAME` for each further machine")
