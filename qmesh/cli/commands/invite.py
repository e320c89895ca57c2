"""`qmesh invite`."""

from __future__ import annotations

import logging
import os
import stat
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from qmesh.agent.inviting import Wish, invite, refuse_file, write_file
from qmesh.cli.answers import STATE, JsonOption, StateOption, answer
from qmesh.host.state import State

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh invite machine-b --workers 4 --out machine-b.invitation",
    "qmesh invite machine-b --expires 2h > machine-b.invitation",
)


def command(
    name: Annotated[str, typer.Argument(help="What the new machine is to be called.", show_default=False)],
    workers: Annotated[int | None, typer.Option(help="Its data workers.", show_default="its cores")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="HOST:PORT at which it is reached, if it is.", show_default=False),
    ] = None,
    expires: Annotated[str, typer.Option(help="How long the invitation is good: 30m, 24h, 7d.")] = "24h",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write it to FILE, mode 0600.",
            metavar="FILE",
            show_default="standard output",
            readable=False,
        ),
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Make a one-use invitation for a new machine.

    Whoever has the invitation can join in the machine's place: carry it there by a safe way, such
    as scp. An earlier one for the same name, not yet used, is withdrawn.
    """
    refuse_file(out)
    if out is None and _others_may_read(sys.stdout.fileno()):
        log.warning("the file that this goes to may be read by other users: chmod 600 it, or use --out")
    invitation = invite(State(state), Wish(name=name, workers=workers, endpoint=endpoint, expires=expires))
    until = time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(invitation.expires_at))
    if out is None:
        facts = {"invitation": invitation.text()}
    else:
        write_file(out, invitation.text())
        facts = {"file": str(out)}
    log.info(
        "%s will be %s; one use, until %s. On it: qmesh join%s",
        name,
        invitation.address,
        until,
        "" if out is None else f" {out.name}",
    )
    known = {"name": invitation.name, "address": invitation.address, "expires_at": invitation.expires_at}
    answer(facts | known, as_json=as_json, text=lambda _: facts.get("invitation", ""))


def _others_may_read(descriptor: int) -> bool:
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o077)
