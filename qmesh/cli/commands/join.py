"""`qmesh join`."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from qmesh.agent.joining import Wish, join
from qmesh.cli.answers import STATE, ConfigOption, JsonOption, StateOption, answer
from qmesh.cli.standing import in_words
from qmesh.errors import BadInput
from qmesh.host.state import State
from qmesh.mesh.enrolment import MAX_TEXT, PREFIX
from qmesh.mesh.model import quoted

EXAMPLES = (
    "qmesh join machine-b.invitation",
    "qmesh join machine-b.invitation --config /root/node/.config",
    "ssh control qmesh invite machine-b | qmesh join -",
)


def command(
    file: Annotated[
        str | None,
        typer.Argument(
            help="File with the invitation, or - for standard input.",
            metavar="[FILE|-]",
            show_default="asks for it, hidden",
        ),
    ] = None,
    config: ConfigOption = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="HOST:PORT at which this machine is reached, if it is.", show_default=False),
    ] = None,
    listen_port: Annotated[
        int | None, typer.Option(help="WireGuard's UDP port.", show_default="51820")
    ] = None,
    interface: Annotated[
        str | None, typer.Option(help="The tunnel interface.", show_default="qmesh0")
    ] = None,
    no_apply: Annotated[
        bool, typer.Option("--no-apply", help="Become a member, but leave no tunnel and no guard yet.")
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Make this machine a member, with an invitation.

    The guard is up before the tunnel, and the worker ports are closed throughout. A join that was
    cut off can be run again with the same invitation.
    """
    wish = Wish(endpoint=endpoint, config=config, listen_port=listen_port, interface=interface)
    standing = join(State(state), _invitation(file), wish, apply=not no_apply)
    answer(standing, as_json=as_json, text=in_words)


def _invitation(file: str | None) -> str:
    """The text of the invitation, never more than a little longer than one can be."""
    if file is None:
        return _asked_for()
    if file == "-":
        return sys.stdin.buffer.read(MAX_TEXT + 1).decode("ascii", "replace")
    if file.startswith(PREFIX) and (len(file) > 100 or not Path(file).exists()):
        raise BadInput(
            "an invitation is a secret: as an argument, every user of this machine could read it",
            hint="put it in a file, or run `qmesh join` and paste it when asked; it was not used",
        )
    try:
        with Path(file).open("rb") as opened:
            return opened.read(MAX_TEXT + 1).decode("ascii", "replace")
    except OSError as error:
        raise BadInput(
            f"{quoted(file)} cannot be read: {error.strerror}", hint="name the file with the invitation"
        ) from None


def _asked_for() -> str:
    if not sys.stdin.isatty():
        raise BadInput("no invitation was given", hint="`qmesh join FILE`, or `qmesh join -` to read it here")
    try:
        return getpass.getpass("Invitation (is not shown): ")
    except EOFError:
        raise BadInput("no invitation was given", hint="paste the line that `qmesh invite` printed") from None
