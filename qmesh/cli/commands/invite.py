"""`qmesh invite`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qmesh.cli.output import (
    STATE,
    JsonOption,
    StateOption,
    file_option,
    is_readable_by_others,
    machine_option,
    print_answer,
    print_outcome,
)
from qmesh.cli.streams import find_stdout_failure
from qmesh.errors import BadInput, QmeshError

if TYPE_CHECKING:
    from qmesh.agent.commands.invite import Invitations, InviteOptions
    from qmesh.host.state.directory import State

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh invite hel-2 --workers 4 --out hel-2.invitation",
    "qmesh invite hel-2 --node-files --out hel-2.invitation",
    "qmesh invite hel-2 --expires 2h > hel-2.invitation",
    "qmesh invite hel-2 --replace --out hel-2.invitation",
    "qmesh invite --list",
    "qmesh invite --withdraw hel-2",
)
_EXPIRES: Final = "24h"


def command(
    name: Annotated[
        str | None, typer.Argument(help="The name that the new machine will have.", metavar="NAME")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Its data workers.", show_default="its cores")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="HOST[:PORT] at which others reach it, if they can.")
    ] = None,
    announce: Annotated[
        str | None,
        typer.Option(
            help="From 2.1: IP address or DNS name at which the internet will reach its workers.",
            metavar="ADDRESS",
        ),
    ] = None,
    expires: Annotated[str, typer.Option(help="How long the invitation is valid: 30m, 24h, 7d.")] = _EXPIRES,
    out: Annotated[
        Path | None, file_option(help="Write it to FILE, mode 0600.", show_default="standard output")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="For a member that lost its disk: the new machine gets its place."),
    ] = False,
    node_files: Annotated[
        bool,
        typer.Option(
            "--node-files", help="Permit it to fetch the node's keys and its least config.yml from here."
        ),
    ] = False,
    shown: Annotated[
        bool, typer.Option("--list", help="Show the invitations that can still be used.")
    ] = False,
    withdrawn: Annotated[
        str | None, machine_option("--withdraw", help="Withdraw the invitation of that name.")
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Make an invitation for a new machine; it can be used once.

    Anyone who has the invitation can join in the machine's place: copy it there safely, for example with
    scp. An earlier invitation for the same name that is not used yet is withdrawn.

    With --replace it is for a member whose disk is lost or was wiped: the new machine gets its tunnel
    address, cores and workers. The old one stays a member until the invitation is used.

    With --node-files the machine may fetch the files that hold the node's secrets, through the tunnel:
    `qmesh join --node-files` does so, or later `qmesh node-files --write` there.
    """
    from qmesh.agent.commands.invite import InviteOptions, list_open_invitations, withdraw_invitation
    from qmesh.host.state.directory import State

    if sum((name is not None, shown, withdrawn is not None)) != 1:
        raise BadInput(
            "give the name of a new machine, or --list, or --withdraw NAME",
            hint="see `qmesh invite --help`",
        )
    wish = InviteOptions(
        name=name or "",
        workers=workers,
        endpoint=endpoint,
        expires=expires,
        replace=replace,
        node_files=node_files,
        announce=announce,
    )
    if name is None and (out is not None or wish != InviteOptions(expires=_EXPIRES)):
        raise BadInput(
            "--list and --withdraw go with none of the options of an invitation",
            hint="leave them out, or give the name of a new machine",
        )
    if shown:
        return print_answer(list_open_invitations(State(state)), as_json=as_json, text=_render_invitations)
    if withdrawn is not None:
        withdraw_invitation(State(state), withdrawn)
        log.info("the invitation for %s is withdrawn: no machine can join with it", withdrawn)
        return print_outcome({"name": withdrawn}, as_json=as_json, text=lambda _: "")
    return _issue_invitation(State(state), wish, out, as_json=as_json)


def _render_invitations(found: Invitations) -> str:
    lines = [
        f"{each.name}: {'takes the place of' if each.replaces else 'will be'} {each.address},"
        f" until {_format_time(each.expires_at)}"
        for each in found.invitations
    ]
    return "\n".join(lines) or "no invitation can be used"


def _format_time(at_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(at_s))


def _issue_invitation(state: State, wish: InviteOptions, out: Path | None, *, as_json: bool) -> None:
    from qmesh.agent.commands.invite import invite
    from qmesh.cli.output_file import refuse_output_file, write_line
    from qmesh.mesh.protocol.enrolment import PREFIX

    refuse_output_file(out, begins=PREFIX.encode(), what="invitation")
    if out is None and is_readable_by_others(sys.stdout.fileno()):
        log.warning("other users can read the file that this goes to: `chmod 600` it, or use --out FILE")
    invitation = invite(state, wish)
    until = _format_time(invitation.expires_at)
    facts = {"invitation": invitation.text()} if out is None else {"file": str(out)}
    known = {"name": invitation.name, "address": invitation.address, "expires_at": invitation.expires_at}
    if out is None:
        print_answer(facts | known, as_json=as_json, text=lambda _: facts["invitation"])
        if find_stdout_failure() is not None:  # which is told at the end
            _withdraw_lost_invitation(state, invitation.name)
            return
    else:
        try:
            write_line(out, invitation.text())
        except QmeshError:
            _withdraw_lost_invitation(state, invitation.name)
            raise
        print_outcome(facts | known, as_json=as_json, text=lambda _: "")
    log.info(
        "%s %s %s; one use, until %s. Next, on that machine: qmesh join%s%s",
        invitation.name,
        "takes the place of the machine at" if wish.replace else "will be",
        invitation.address,
        until,
        "" if out is None else f" {out.name}",
        " --node-files" if wish.node_files else "",
    )


def _withdraw_lost_invitation(state: State, name: str) -> None:
    """No machine can have it: leave none open that was given to no machine."""
    from qmesh.agent.commands.invite import withdraw_invitation

    withdraw_invitation(state, name)
    log.warning("the invitation for %s could not be written, and is withdrawn again", name)
