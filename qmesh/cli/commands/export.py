"""`qmesh export`."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from qmesh.cli.output import STATE, JsonOption, NewFileOption, StateOption, print_answer, print_outcome

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh export wg-quick -o qmesh0.conf",
    "qmesh export nft",
    "qmesh export hosts",
    "qmesh export ansible -o mesh.yml",
)


def command(
    wanted: Annotated[str, typer.Argument(help="The format.", metavar="wg-quick|nft|hosts|ansible")],
    out: NewFileOption = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Print this machine's tunnel or guard, or the mesh, in another tool's format.

    What is printed has no secrets in it: for a wg-quick file that you can use, pass `-o FILE`.
    """
    from qmesh.agent.commands.export import export, write_export
    from qmesh.host.state.directory import State

    made = export(State(state), wanted)
    if out is None:
        print_answer(made.facts, as_json=as_json, text=lambda _: made.text.rstrip("\n"))
        return
    write_export(made, out)
    log.info("wrote %s, mode 0600", out)
    print_outcome({"path": str(out)}, as_json=as_json, text=lambda _: "")
