"""`qmesh invite`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from qmesh.agent.commands.invite import (
    Invitations,
    InviteOptions,
    invite,
    list_open_invitations,
    withdraw_invitation,
)
from qmesh.cli.output import STATE, JsonOption, StateOption, is_readable_by_others, print_answer
from qmesh.cli.output_file import refuse_output_file, write_line
from qmesh.errors import BadInput
from qmesh.host.state.directory import State
from qmesh.mesh.protocol.enrolment import PREFIX

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh invite machine-b --workers 4 --out machine-b.invitation",
    "qmesh invite machine-b --expires 2h > machine-b.invitation",
    "qmesh invite machine-b --replace --out machine-b.invitation",
    "qmesh invite --list",
    "qmesh invite --withdraw machine-b",
)


def command(
    name: Annotated[
        str | None, typer.Argument(help="What the new machine is to be called.", show_default=False)
    ] = None,
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
    replace: Annotated[
        bool,
        typer.Option("--replace", help="For the place of the member of that name, as after a reinstall."),
    ] = False,
    shown: Annotated[bool, typer.Option("--list", help="Show the invitations that can be used.")] = False,
    withdrawn: Annotated[
        str | None,
        typer.Option("--withdraw", metavar="NAME", help="End that invitation.", show_default=False),
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Make a one-use invitation for a new machine.

    Whoever has the invitation can join in the machine's place: carry it there by a safe way, such
    as scp. An earlier one for the same name, not yet used, is withdrawn.

    With --replace it is for the place of a member whose disk is lost or was wiped: its tunnel address,
    cores and workers. That member stays one until the invitation is used.
    """
    if sum((name is not None, shown, withdrawn is not None)) != 1:
        raise BadInput(
            "one of three is wanted: the name of a new machine, --list or --withdraw",
            hint="see `qmesh invite --help`",
        )
    if shown:
        return print_answer(list_open_invitations(State(state)), as_json=as_json, text=_render_invitations)
    if withdrawn is not None:
        withdraw_invitation(State(state), withdrawn)
        log.info("the invitation for %s is withdrawn: nobody can use it any more", withdrawn)
        return print_answer({"name": withdrawn}, as_json=as_json, text=lambda _: "")
    assert name is not None
    return _issue_invitation(
        State(state),
        InviteOptions(name=name, workers=workers, endpoint=endpoint, expires=expires, replace=replace),
        out,
        as_json=as_json,
    )


def _render_invitations(found: Invitations) -> str:
    lines = [
        f"{each.name}: {'takes the place of' if each.replaces else 'will be'} {each.address},"
        f" good for {(each.expires_at - found.now) // 60} min"
        for each in found.invitations
    ]
    return "\n".join(lines) or "no invitation is open"


def _issue_invitation(state: State, wish: InviteOptions, out: Path | None, *, as_json: bool) -> None:
    refuse_output_file(out, begins=PREFIX.encode(), what="invitation")
    if out is None and is_readable_by_others(sys.stdout.fileno()):
        log.warning("the file that this goes to may be read by other users: chmod 600 it, or use --out")
    invitation = invite(state, wish)
    until = time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(invitation.expires_at))
    if out is None:
        facts = {"invitation": invitation.text()}
    else:
        write_line(out, invitation.text())
        facts = {"file": str(out)}
    log.info(
        "%s %s %s; one use, until %s. On it: qmesh join%s",
        invitation.name,
        "takes the place of the machine at" if wish.replace else "will be",
        invitation.address,
        until,
        "" if out is None else f" {out.name}",
    )
    known = {"name": invitation.name, "address": invitation.address, "expires_at": invitation.expires_at}
    print_answer(facts | known, as_json=as_json, text=lambda _: facts.get("invitation", ""))
