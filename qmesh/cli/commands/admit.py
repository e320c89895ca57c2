"""`qmesh admit`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qmesh.cli.core_text import describe_cores
from qmesh.cli.input import read_input_text
from qmesh.cli.output import STATE, JsonOption, StateOption, file_option, print_outcome

if TYPE_CHECKING:
    from qmesh.agent.commands.admit import AdmitResult

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh admit hel-2.request --out hel-2.answer",
    "qmesh admit hel-2.request > hel-2.answer",
)


def command(
    file: Annotated[
        str, typer.Argument(help="File with the request, or - for standard input.", metavar="FILE|-")
    ],
    out: Annotated[
        Path | None, file_option(help="Write the answer to FILE, mode 0600.", show_default="standard output")
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Admit a machine that asked by a file, and write the answer.

    The request comes from `qmesh join --offline`, the answer goes to `qmesh join --answer`. Only the
    machine that asked can read it. The same request again gives an answer for the same member.
    """
    from qmesh.agent.commands.admit import admit
    from qmesh.cli.output_file import refuse_output_file, write_line
    from qmesh.host.state.directory import State
    from qmesh.mesh.protocol.file_exchange import ANSWER_PREFIX, MAX_REQUEST

    refuse_output_file(out, begins=ANSWER_PREFIX.encode(), what="answer")
    text = read_input_text(file, most=MAX_REQUEST, hint="pass the file that `qmesh join --offline` wrote")
    admitted = admit(State(state), text)
    if out is not None:
        write_line(out, admitted.answer)
    _log_admission(admitted, out)
    facts = msgspec.structs.asdict(admitted)
    if out is not None:
        facts = {"file": str(out)} | facts
        del facts["answer"]
    print_outcome(facts, as_json=as_json, text=lambda _: "" if out is not None else admitted.answer)


def _log_admission(admitted: AdmitResult, out: Path | None) -> None:
    cores = admitted.cores
    numbers = "no cores" if cores is None else describe_cores(cores.first, cores.count)
    log.info("%s is a member, at %s, with %s", admitted.name, admitted.address, numbers)
    log.info("its public key is %s", admitted.public_key)
    log.info("next, on %s: qmesh join --answer %s", admitted.name, "FILE" if out is None else out.name)
