"""`qmesh restore`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from qmesh.cli.core_text import describe_cores
from qmesh.cli.input import read_input
from qmesh.cli.output import (
    STATE,
    ConfigOption,
    JsonOption,
    NoApplyOption,
    StateOption,
    TakeOverOption,
    print_outcome,
)
from qmesh.cli.passphrase import PassphraseFileOption
from qmesh.cli.prompts import ask_question
from qmesh.errors import BadInput
from qmesh.mesh.values import CONTROL_FIRST, REVISION_JUMP

if TYPE_CHECKING:
    from qmesh.agent.commands.restore import BackupSummary, RestoredMachine, RestoreResult

log = logging.getLogger("qmesh")

_MOST_SHOWN = 20

EXAMPLES = (
    "qmesh restore mesh.backup --config /root/node/.config",
    "qmesh restore mesh.backup --endpoint 203.0.113.9 --passphrase-file /root/passphrase",
    "qmesh restore mesh.backup --plain",
)


def command(
    file: Annotated[
        str,
        typer.Argument(help="The file that `qmesh backup` wrote, or - for standard input.", metavar="FILE|-"),
    ],
    config: ConfigOption = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST[:PORT] at which others reach this machine; the best first, can be repeated.",
            show_default="as before",
        ),
    ] = None,
    passphrase_file: PassphraseFileOption = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="The backup is not encrypted, and you know where it comes from: do not ask."
        ),
    ] = False,
    jump: Annotated[
        int, typer.Option(help="By how much the revision grows; use more if this backup was restored before.")
    ] = REVISION_JUMP,
    take_over: TakeOverOption = False,
    no_apply: NoApplyOption = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Make this machine the control node, from a backup.

    It first shows what is in the backup. If that is not encrypted, anyone who could write to its file may
    have changed it: compare what is shown, and answer yes, or use --plain.

    For new hardware: the members need no change if they reach it at the old endpoint. The old machine
    must never run again. If it was interrupted, run it again.
    """
    from qmesh.agent.commands.restore import RestoreOptions, restore
    from qmesh.cli import passphrase
    from qmesh.host.state.directory import State
    from qmesh.mesh.protocol.backup_file import is_encrypted

    if plain and passphrase_file:
        raise BadInput(
            "--plain and --passphrase-file do not go together",
            hint="use --plain for a backup that is not encrypted, --passphrase-file for one that is",
        )
    octets = _read_backup(file)
    secret = passphrase.read_passphrase_file(passphrase_file) if passphrase_file else None
    sealed = is_encrypted(octets)
    if plain and sealed:
        raise BadInput("this backup is encrypted", hint="leave --plain out; you are asked for the passphrase")
    if sealed and secret is None:
        secret = passphrase.prompt_for_passphrase(twice=False)
    wish = RestoreOptions(endpoints=tuple(endpoint or ()), config=config, jump=jump, take_over=take_over)
    done = restore(
        State(state),
        octets,
        secret,
        wish,
        apply=not no_apply,
        agree=lambda offered: _confirm_restore(offered, is_said=sealed or plain, no_terminal=file == "-"),
    )
    print_outcome(done, as_json=as_json, text=lambda _: "\n".join(_render_lines(done)))
    _log_advice(done)


def _read_backup(file: str) -> bytes:
    from qmesh.host.files import MAX_OCTETS

    octets = read_input(file, most=MAX_OCTETS, hint="pass the file that `qmesh backup` wrote")
    if len(octets) > MAX_OCTETS:
        raise BadInput("this is larger than a backup can be", hint="pass the file that `qmesh backup` wrote")
    return octets


def _confirm_restore(offered: BackupSummary, *, is_said: bool, no_terminal: bool) -> None:
    """Show what would be restored; ask, unless that is not needed. Raises BadInput."""
    for line in _render_summary(offered):
        log.info("%s", line)
    if is_said:
        return
    refusal = BadInput(
        "this backup is not encrypted: anyone who could write to its file may have made it",
        hint="compare mesh, key and age above with what you know; if they are right, use --plain",
    )
    if no_terminal or ask_question("Restore it? [y/N]", refusal=refusal).lower() not in {"y", "yes"}:
        raise refusal


def _render_summary(offered: BackupSummary) -> Iterator[str]:
    made = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(offered.taken_at))
    age = (
        f"{_render_age(offered.age_s)} ago"
        if offered.age_s >= 0
        else f"in {_render_age(-offered.age_s)} by this clock"
    )
    sealed = "encrypted" if offered.encrypted else "NOT encrypted"
    shown, more = offered.machines[:_MOST_SHOWN], len(offered.machines) - _MOST_SHOWN
    yield f"this is a backup of mesh {offered.mesh}, revision {offered.revision}; {sealed}"
    yield f"made {made}, {age}"
    yield f"control node {offered.name}, public key {offered.public_key}"
    yield f"{len(offered.machines)} machines: {', '.join(shown)}{f' and {more} more' if more > 0 else ''}"


def _render_lines(done: RestoreResult) -> Iterator[str]:
    from qmesh.cli.join_text import render_join_result

    yield render_join_result(done)
    made = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(done.taken_at))
    yield f"from the backup of {made}, {_render_age(done.age_s)} ago; the revision is {done.revision} now"
    yield from (f"  {_render_machine(each)}" for each in done.machines)
    if done.withdrawn:
        yield f"these invitations may have been used since, and are withdrawn: {', '.join(done.withdrawn)}"


def _render_machine(member: RestoredMachine) -> str:
    cores = "no cores" if member.cores is None else describe_cores(member.cores.first, member.cores.count)
    return f"{member.name}  {member.state}  {member.address}  {cores}"


def _render_age(age_s: int) -> str:
    for unit_s, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if age_s >= 2 * unit_s:
            return f"{age_s // unit_s} {name}"
    return f"{age_s} s"


def _log_advice(done: RestoreResult) -> None:
    log.warning(
        "the old machine must never run again: with one key, both would take the members from each other"
    )
    log.info("compare the machines above with the machines that you have:")
    log.info(
        "  joined since the backup: not a member now; run `qmesh uninstall --delete-state` there, invite it"
        " here"
    )
    log.info("  removed since the backup: a member again; run `qmesh remove NAME` here")
    log.info(
        "  rotated its key since the backup: its old key is valid again; replace it now:"
        " `qmesh invite NAME --replace` here, `qmesh join` there"
    )
    calling = [each.name for each in done.machines if each.endpoint is None]
    if calling:
        log.info(
            "these machines dial the old control node's address: %s; if this machine has another address,"
            " run on each of them `qmesh apply --control-endpoint HOST:PORT`",
            ", ".join(calling),
        )
    if done.node in CONTROL_FIRST:
        log.info(
            "node %s: when its control process runs here, restart the workers on each member: their"
            " connections are still those to the old machine",
            done.node,
        )
    log.info(
        "next: run `qmesh status` and `qmesh render-config --write`, start the node (with systemd first write"
        " its units, `qmesh units`), and make a new `qmesh backup FILE`"
    )
