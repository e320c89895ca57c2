"""`qmesh import`."""  # noqa: N999 - modules of commands bear their names, and are loaded by name

from __future__ import annotations

from typing import Annotated

import typer

from qmesh.cli.input import read_input
from qmesh.cli.output import STATE, ConfigOption, JsonOption, NodeOption, StateOption, print_answer
from qmesh.errors import BadInput

EXAMPLES = (
    "qmesh import --config /root/node/.config",
    "qmesh import --config /root/node/.config > adopt.sh",
    "qmesh import --csv machines.txt --json",
)

_MAX_OCTETS = 1024 * 1024


def command(
    config: ConfigOption = None,
    csv: Annotated[
        str | None,
        typer.Option(
            help="File with a line for each machine, such as root@192.168.0.201/4, or - for standard input.",
            metavar="[FILE|-]",
            show_default="config.yml's worker list",
        ),
    ] = None,
    node: NodeOption = None,
    here: Annotated[
        list[str] | None,
        typer.Option(
            help="An address in the list that is this machine's, but on no interface, as behind NAT.",
            metavar="ADDRESS",
        ),
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Propose how to turn a running cluster into a mesh.

    It changes nothing. It prints a shell script, which you read first: which machine gets which cores,
    what changes, and the commands in the order that keeps the core numbers.
    """
    from qmesh.agent.commands.import_cluster import ImportOptions, propose_mesh
    from qmesh.host.state.directory import State

    lines = None if csv is None else _read_lines(csv)
    wish = ImportOptions(config=config, lines=lines, node=node, here=tuple(here or ()))
    proposal, text = propose_mesh(State(state), wish)
    print_answer(proposal, as_json=as_json, text=lambda _: text)


def _read_lines(file: str) -> str:
    octets = read_input(file, most=_MAX_OCTETS, hint="pass the file with the machines")
    if len(octets) > _MAX_OCTETS:
        raise BadInput("the list of machines is longer than 1 MiB", hint="pass the file with the machines")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput("the list of machines is not UTF-8", hint="save it as UTF-8") from None
