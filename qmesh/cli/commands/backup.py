"""`qmesh backup`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qmesh.agent.commands.backup import Taken, remember, take
from qmesh.cli import passphrase
from qmesh.cli.output import STATE, JsonOption, StateOption, answer, others_may_read
from qmesh.cli.output_file import refuse_file
from qmesh.cli.passphrase import PassphraseFileOption
from qmesh.errors import BadInput, MachineRefused, QmeshError
from qmesh.host import files
from qmesh.host.state.directory import State
from qmesh.mesh.protocol.backup_file import MAGIC

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh backup control.backup --encrypt",
    "qmesh backup /media/usb/control.backup --passphrase-file /root/passphrase",
    "ssh control qmesh backup - > control.backup",
)


def command(
    file: Annotated[
        str,
        typer.Argument(help="Where it goes, or - for standard output.", metavar="FILE|-", show_default=False),
    ],
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Ask for a passphrase and encrypt it with that.")
    ] = False,
    passphrase_file: PassphraseFileOption = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Write the control node into one file, for `qmesh restore`.

    Keys, registry and settings as of one moment; the agent goes on meanwhile. Open invitations are
    withdrawn in it. Not encrypted, whoever has the file is the mesh: guard it like a key.
    """
    to_output = file == "-"
    _refuse(file, to_output=to_output, as_json=as_json)
    secret = passphrase.from_file(passphrase_file) if passphrase_file else None
    if encrypt and secret is None:
        secret = passphrase.asked_for(twice=True)
    octets, taken = take(State(state), secret)
    if to_output:
        _print(octets)
    else:
        files.write(Path(file), octets)
    _remember(State(state), taken)
    _tell(taken)
    if not to_output:
        facts = {"file": file, **msgspec.structs.asdict(taken)}
        answer(facts, as_json=as_json, text=lambda _: f"wrote {file}, mode 0600: {_in_words(taken)}")


def _refuse(file: str, *, to_output: bool, as_json: bool) -> None:
    if not to_output:
        refuse_file(Path(file), begins=MAGIC, what="backup")
    elif as_json:
        raise BadInput("--json and - do not go together", hint="standard output is the backup then")
    elif sys.stdout.isatty():
        raise BadInput(
            "a backup is nothing for a terminal", hint="name a file, or send it elsewhere by > or |"
        )
    elif others_may_read(sys.stdout.fileno()):
        log.warning("the file that this goes to may be read by other users: chmod 600 it, or name it as FILE")


def _print(octets: bytes) -> None:
    try:
        sys.stdout.buffer.write(octets)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise MachineRefused(
            f"the backup could not be written whole: {error.strerror}", hint="what was written is no backup"
        ) from None


def _remember(state: State, taken: Taken) -> None:
    """The backup is there, whatever becomes of this."""
    try:
        remember(state, taken)
    except QmeshError as error:
        log.warning("that it was made could not be remembered here: %s", error.message)


def _tell(taken: Taken) -> None:
    if taken.withdrawn:
        log.info("invitations still open, withdrawn in the backup: %s", ", ".join(taken.withdrawn))
    if not taken.encrypted:
        log.warning("it is not encrypted: whoever has it is the mesh; --encrypt asks for a passphrase")


def _in_words(taken: Taken) -> str:
    sealed = "encrypted" if taken.encrypted else "NOT encrypted"
    return f"mesh {taken.mesh}, revision {taken.revision}, {taken.machines} machines, {sealed}"
