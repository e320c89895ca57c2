"""`qmesh restore`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from qmesh.agent.restoring import Member, Restored, Wish, restore
from qmesh.cli import passphrase
from qmesh.cli.answers import STATE, ConfigOption, JsonOption, StateOption, answer
from qmesh.cli.passphrase import PassphraseFileOption
from qmesh.cli.standing import in_words
from qmesh.errors import BadInput
from qmesh.host.files import MAX_OCTETS
from qmesh.host.state import State
from qmesh.mesh.backup import JUMP, is_sealed
from qmesh.mesh.model import quoted

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh restore control.backup --config /root/node/.config",
    "qmesh restore control.backup --endpoint 203.0.113.9",
)


def command(
    file: Annotated[
        str,
        typer.Argument(
            help="What `qmesh backup` wrote, or - for standard input.", metavar="FILE|-", show_default=False
        ),
    ],
    config: ConfigOption = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST[:PORT] at which others reach this machine; the best first, may be repeated.",
            show_default="as before",
        ),
    ] = None,
    passphrase_file: PassphraseFileOption = None,
    jump: Annotated[
        int, typer.Option(help="By how much the revision grows; more where this backup was restored before.")
    ] = JUMP,
    no_apply: Annotated[
        bool, typer.Option("--no-apply", help="Only write the state; `qmesh apply` does the rest.")
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Make this machine the control node that a backup is of.

    For new hardware: the members go on without being touched when they reach it where the old one was.
    The old machine must never run again. Cut off, run it again.
    """
    octets = _octets(file)
    secret = passphrase.from_file(passphrase_file) if passphrase_file else None
    if is_sealed(octets) and secret is None:
        secret = passphrase.asked_for(twice=False)
    wish = Wish(endpoints=tuple(endpoint or ()), config=config, jump=jump)
    done = restore(State(state), octets, secret, wish, apply=not no_apply)
    answer(done, as_json=as_json, text=lambda _: "\n".join(_in_words(done)))
    _advise(done)


def _octets(file: str) -> bytes:
    try:
        if file == "-":
            octets = sys.stdin.buffer.read(MAX_OCTETS + 1)
        else:
            with Path(file).open("rb") as opened:
                octets = opened.read(MAX_OCTETS + 1)
    except OSError as error:
        raise BadInput(
            f"{quoted(file)} cannot be read: {error.strerror}", hint="name the file that `qmesh backup` wrote"
        ) from None
    if len(octets) > MAX_OCTETS:
        raise BadInput("this is larger than a backup can be", hint="name the file that `qmesh backup` wrote")
    return octets


def _in_words(done: Restored) -> Iterator[str]:
    yield in_words(done)
    made = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(done.taken_at))
    yield f"from the backup of {made}, {_age(done.age_s)} ago; the revision is {done.revision} now"
    yield from (f"  {_member(each)}" for each in done.machines)
    if done.withdrawn:
        yield f"withdrawn, as they may have been used since: the invitations of {', '.join(done.withdrawn)}"


def _member(member: Member) -> str:
    cores = (
        "no cores" if member.cores is None else f"cores {member.cores.numbers[0]}-{member.cores.numbers[-1]}"
    )
    return f"{member.name}  {member.state}  {member.address}  {cores}"


def _age(age_s: int) -> str:
    for unit_s, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if age_s >= 2 * unit_s:
            return f"{age_s // unit_s} {name}"
    return f"{age_s} s"


def _advise(done: Restored) -> None:
    log.warning("the old machine must never run again: two with one key take the members from each other")
    log.info(
        "compare the machines above with what there is. Who joined after the backup is not among them: there"
        " `qmesh uninstall --delete-state`, then `qmesh invite` here. Who was removed after it is a member"
        " again: `qmesh remove NAME` here. Whose key is another since is cut off, and its old key counts:"
        " `qmesh invite NAME --replace` here, and `qmesh join` there"
    )
    calling = [each.name for each in done.machines if each.endpoint is None]
    if calling:
        log.info(
            "these come back only where this machine has the address that they dial: %s; else, on each,"
            " `qmesh apply --control-endpoint HOST:PORT`",
            ", ".join(calling),
        )
    log.info(
        "next: `qmesh status`, `qmesh render-config --write`, and a new `qmesh backup`, as this one is used"
    )
