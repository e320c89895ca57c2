"""`qmesh join`."""

from __future__ import annotations

import getpass
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qmesh.cli.input import read_input_text
from qmesh.cli.output import (
    STATE,
    AnnounceOption,
    ConfigOption,
    JsonOption,
    StateOption,
    TakeOverOption,
    file_option,
    print_outcome,
)
from qmesh.errors import BadInput

if TYPE_CHECKING:
    from qmesh.agent.commands.join.steps import JoinOptions
    from qmesh.host.state.directory import State

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh join hel-2.invitation",
    "qmesh join hel-2.invitation --config /root/node/.config",
    "qmesh join hel-2.invitation --node-files",
    "qmesh join hel-2.invitation --take-over",
    "ssh fra-1 qmesh invite hel-2 | qmesh join -",
    "qmesh join hel-2.invitation --offline --out hel-2.request",
    "qmesh join --answer hel-2.answer",
)


def command(
    file: Annotated[
        str | None,
        typer.Argument(
            help="File with the invitation, or - for standard input.",
            metavar="FILE|-",
            show_default="asks for it; not shown",
        ),
    ] = None,
    config: ConfigOption = None,
    endpoint: Annotated[
        str | None, typer.Option(help="HOST[:PORT] at which others reach this machine, if they can.")
    ] = None,
    announce: AnnounceOption = None,
    listen_port: Annotated[
        int | None, typer.Option(help="WireGuard's UDP port.", show_default="51820")
    ] = None,
    interface: Annotated[
        str | None, typer.Option(help="The tunnel interface.", show_default="qmesh0")
    ] = None,
    take_over: TakeOverOption = False,
    node_files: Annotated[
        bool,
        typer.Option(
            "--node-files", help="Fetch the node's keys and the least config.yml from the control node."
        ),
    ] = False,
    no_apply: Annotated[
        bool, typer.Option("--no-apply", help="Become a member, but make no tunnel and no guard yet.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Write a request, for `qmesh admit` on the control node.")
    ] = False,
    out: Annotated[
        Path | None,
        file_option(
            help="With --offline: write the request to FILE, mode 0600.", show_default="standard output"
        ),
    ] = None,
    answered: Annotated[
        str | None,
        typer.Option(
            "--answer",
            help="Complete a join that began with --offline: file with the answer, or - for standard input.",
            metavar="FILE|-",
        ),
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Join a mesh with an invitation.

    The guard is loaded before the tunnel is made, and the worker ports are closed all the time. If it
    was interrupted, run it again with the same invitation.

    With --node-files it also fetches the files that hold the node's secrets, if the invitation permits it:
    both are written to the node's directory, mode 0600, and nothing of another node is replaced.

    If the control node is unreachable, use files: --offline here, `qmesh admit` there, --answer here.
    """
    from qmesh.agent.commands.join.online import join
    from qmesh.agent.commands.join.steps import JoinOptions
    from qmesh.cli.join_text import render_join_result
    from qmesh.host.state.directory import State

    wish = JoinOptions(
        endpoint=endpoint,
        config=config,
        listen_port=listen_port,
        interface=interface,
        take_over=take_over,
        node_files=node_files,
        announce=announce,
    )
    if node_files and (offline or no_apply or answered is not None):
        raise BadInput(
            "--node-files needs the tunnel, which --offline, --answer and --no-apply do without",
            hint="leave it out, and once this machine is a member run `qmesh node-files --write`",
        )
    if answered is not None:
        _refuse_options_with_answer(file, wish, offline=offline)
    if offline and no_apply:
        raise BadInput("--offline applies nothing", hint="use --no-apply with `qmesh join --answer FILE`")
    if out is not None and not offline:
        raise BadInput("--out is for the request of --offline", hint="leave --out out, or add --offline")
    if offline:
        _write_request(State(state), file, wish, out, as_json=as_json)
    elif answered is not None:
        from qmesh.agent.commands.join.offline import accept_answer
        from qmesh.mesh.protocol.file_exchange import MAX_ANSWER

        text = read_input_text(answered, most=MAX_ANSWER, hint="pass the file that `qmesh admit` wrote")
        print_outcome(
            accept_answer(State(state), text, apply=not no_apply), as_json=as_json, text=render_join_result
        )
    else:
        standing = join(State(state), _read_invitation(file), wish, apply=not no_apply)
        print_outcome(standing, as_json=as_json, text=render_join_result)


def _refuse_options_with_answer(file: str | None, wish: JoinOptions, *, offline: bool) -> None:
    from qmesh.agent.commands.join.steps import JoinOptions

    if offline or file is not None:
        raise BadInput(
            "--answer completes a join: use it without an invitation and without --offline",
            hint="run `qmesh join --answer FILE`, with the file that `qmesh admit` wrote",
        )
    if wish != JoinOptions(endpoint=None, config=None, listen_port=None, interface=None):
        raise BadInput(
            "--answer completes a join, whose options belong to --offline",
            hint="make a new request with these options: `qmesh join INVITATION --offline ...`",
        )


def _write_request(
    state: State, file: str | None, wish: JoinOptions, out: Path | None, *, as_json: bool
) -> None:
    from qmesh.agent.commands.join.offline import make_request
    from qmesh.cli.output_file import refuse_output_file, write_line
    from qmesh.mesh.protocol.file_exchange import REQUEST_PREFIX

    refuse_output_file(out, begins=REQUEST_PREFIX.encode(), what="request")
    requested = make_request(state, _read_invitation(file), wish)
    facts = msgspec.structs.asdict(requested)
    if out is not None:
        write_line(out, requested.request)
        facts = {"file": str(out)} | facts
        del facts["request"]
    log.info("this is the request of %s, with public key %s", requested.name, requested.public_key)
    log.info("next, on the control node: qmesh admit %s", "FILE" if out is None else out.name)
    print_outcome(facts, as_json=as_json, text=lambda _: "" if out is not None else requested.request)


def _read_invitation(file: str | None) -> str:
    """The text of the invitation, never more than a little longer than one can be."""
    from qmesh.mesh.protocol.enrolment import MAX_TEXT, PREFIX

    if file is None:
        return _prompt_for_invitation()
    if file.startswith(PREFIX) and (len(file) > 100 or not Path(file).exists()):
        raise BadInput(
            "an invitation is a secret, and every user of this machine can read arguments; it was not used",
            hint="write it into a file, or run `qmesh join`, and paste it when asked",
        )
    return read_input_text(file, most=MAX_TEXT, hint="pass the file with the invitation")


def _prompt_for_invitation() -> str:
    if not sys.stdin.isatty():
        raise BadInput(
            "no invitation was given",
            hint="run `qmesh join FILE`, or `qmesh join -` to read it from standard input",
        )
    try:
        return getpass.getpass("Invitation (is not shown): ")
    except (EOFError, UnicodeError):
        raise BadInput("no invitation was given", hint="paste the line that `qmesh invite` printed") from None
