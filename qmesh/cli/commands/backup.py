"""`qmesh backup`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, is_readable_by_others, print_outcome
from qmesh.cli.passphrase import PassphraseFileOption
from qmesh.cli.streams import find_stdout_failure
from qmesh.errors import BadInput, MachineRefused, QmeshError

if TYPE_CHECKING:
    from qmesh.agent.commands.backup import BackupResult
    from qmesh.host.state.directory import State

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh backup mesh.backup --encrypt",
    "qmesh backup /media/usb/mesh.backup --passphrase-file /root/passphrase",
    "ssh fra-1 qmesh backup - > mesh.backup",
)


def command(
    file: Annotated[
        str, typer.Argument(help="The file to write, or - for standard output.", metavar="FILE|-")
    ],
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Ask for a passphrase, and encrypt the backup with it.")
    ] = False,
    passphrase_file: PassphraseFileOption = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Write a backup of the control node into one file.

    It has keys, registry and settings as of one moment; the agent goes on meanwhile. `qmesh restore`
    reads it. Open invitations are withdrawn in the backup. With a file that is not encrypted, anyone
    can take the mesh over: keep it as safe as a key.
    """
    from qmesh.agent.commands.backup import make_backup
    from qmesh.cli import passphrase
    from qmesh.host.output_file import write_output
    from qmesh.host.state.directory import State

    to_output = file == "-"
    _refuse_target(file, to_output=to_output, as_json=as_json)
    secret = passphrase.read_passphrase_file(passphrase_file) if passphrase_file else None
    if encrypt and secret is None:
        secret = passphrase.prompt_for_passphrase(twice=True)
    octets, taken = make_backup(State(state), secret)
    if to_output:
        _write_to_stdout(octets)
    else:
        write_output(Path(file), octets)
    _record_backup(State(state), taken)
    _log_warnings(taken)
    if not to_output:
        facts = {"file": file, **msgspec.structs.asdict(taken)}
        print_outcome(
            facts, as_json=as_json, text=lambda _: f"wrote {file}, mode 0600: {_render_text(taken)}"
        )


def _refuse_target(file: str, *, to_output: bool, as_json: bool) -> None:
    from qmesh.cli.output_file import refuse_output_file
    from qmesh.mesh.protocol.backup_file import MAGIC

    if not to_output:
        refuse_output_file(Path(file), begins=MAGIC, what="backup")
    elif as_json:
        raise BadInput(
            "--json and - do not go together: both use standard output", hint="name a file in place of -"
        )
    elif sys.stdout.isatty():
        raise BadInput(
            "a backup cannot be printed on a terminal", hint="name a file in place of -, or use > or |"
        )
    elif is_readable_by_others(sys.stdout.fileno()):
        log.warning(
            "other users can read the file that this goes to: `chmod 600` it, or name it in place of -"
        )


def _write_to_stdout(octets: bytes) -> None:
    sys.stdout.buffer.write(octets)
    sys.stdout.buffer.flush()
    failure = find_stdout_failure()
    if failure is not None:
        raise MachineRefused(
            f"the backup could not be written completely: {failure.strerror}",
            hint="delete what was written: it is not a backup; then run `qmesh backup` again",
        )


def _record_backup(state: State, taken: BackupResult) -> None:
    """The backup is there, whatever becomes of this."""
    from qmesh.agent.commands.backup import record_backup

    try:
        record_backup(state, taken)
    except QmeshError as error:
        log.warning("the backup is good, but this machine could not note that it was made: %s", error.message)


def _log_warnings(taken: BackupResult) -> None:
    if taken.withdrawn:
        log.info("open invitations, which are withdrawn in the backup: %s", ", ".join(taken.withdrawn))
    if not taken.encrypted:
        log.warning(
            "it is not encrypted: anyone who has it can take the mesh over; --encrypt asks for a passphrase"
        )


def _render_text(taken: BackupResult) -> str:
    sealed = "encrypted" if taken.encrypted else "NOT encrypted"
    return f"mesh {taken.mesh}, revision {taken.revision}, {taken.machines} machines, {sealed}"
