"""`qmesh units`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from qmesh.agent.rendering import units
from qmesh.cli.answers import STATE, JsonOption, StateOption, answer
from qmesh.errors import BadInput
from qmesh.host.services import DEFAULT_PROGRAM, write_units
from qmesh.host.state import State

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh units",
    "qmesh units --write /etc/systemd/system --program /root/node/node-linux-amd64",
)


def command(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--write",
            help="Write the units into DIR.",
            metavar="DIR",
            show_default="prints them",
            readable=False,
        ),
    ] = None,
    program: Annotated[str, typer.Option(help="The node's program.", metavar="PATH")] = DEFAULT_PROGRAM,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Write systemd units for the agent, the boot guard and the node.

    One template unit runs each data worker, and a target all of this machine's.
    """
    if not program.startswith("/"):
        raise BadInput("--program is not an absolute path", hint="systemd wants one, such as /root/node/node")
    texts = units(State(state), program=program)
    if directory is not None:
        if not directory.is_dir():
            raise BadInput(f"there is no directory {directory}", hint="/etc/systemd/system is the usual one")
        write_units(texts, directory)
        log.info("wrote %s; run `systemctl daemon-reload`", ", ".join(texts))
    answer({"units": texts}, as_json=as_json, text=lambda _: "" if directory else _in_words(texts))


def _in_words(texts: Mapping[str, str]) -> str:
    return "\n".join(f"# {name}\n{text}" for name, text in texts.items()).rstrip("\n")
