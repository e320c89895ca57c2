"""`qmesh ready`."""

from __future__ import annotations

from typing import Annotated

import typer

from qmesh.cli.output import ConfigOption, JsonOption, print_answer

EXAMPLES = (
    "qmesh ready 4 --config /root/node/.config",
    "qmesh ready 4 --config /root/node/.config --listening --timeout 180",
)


def command(
    core: Annotated[
        int,
        typer.Argument(help="The core of a data worker; 0 for the control process.", metavar="CORE", min=0),
    ],
    config: ConfigOption = None,
    listening: Annotated[
        bool, typer.Option("--listening", help="Wait until the worker listens, not until it can start.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.", min=0, max=86400)] = 60,
    as_json: JsonOption = False,
) -> None:
    """Wait until a worker can start, or is listening (used by its systemd unit).

    A worker can start when the guard is loaded, the address of its entry in config.yml is this machine's,
    and its port is free. This works without agent, registry and network.
    """
    from qmesh.cli.ready_entrypoint import render_ready_result, wait_for_core

    ready = wait_for_core(core, config, timeout, listening=listening)
    print_answer(ready, as_json=as_json, text=render_ready_result)
