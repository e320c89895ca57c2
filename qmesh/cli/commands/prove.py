"""`qmesh prove`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, file_option, print_answer
from qmesh.errors import MissingProgram

EXAMPLES = ("qmesh prove", "qmesh prove --json", "qmesh prove --ruleset rules.json")


def command(
    ruleset: Annotated[
        Path | None,
        file_option(
            "--ruleset", help="Rules that `nft list ruleset` has written, in place of those loaded here."
        ),
    ] = None,
    timeout: Annotated[
        int,
        typer.Option(
            min=1,
            max=3600,
            help="After so many seconds, claims that are not decided are not proved.",
            metavar="SECONDS",
        ),
    ] = 60,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Prove by all rules here that the ports are closed, or show a packet that gets in.

    It changes nothing, and sends nothing. What a rule means that is not understood is never guessed: then the
    claim is not proved, and that rule is named. Exit code 0 when every claim is proved, 1 otherwise.

    It needs the package clingo: Debian's package has it, and qmesh with the extra `prove`.
    """
    if find_spec("clingo") is None:
        raise MissingProgram(
            "`qmesh prove` needs the Python package clingo, which is not installed",
            hint="with qmesh from pipx: `pipx inject qmesh clingo`; the Debian package has it."
            " `qmesh drill` needs no such package",
        )
    from qmesh.agent.commands.prove import prove
    from qmesh.cli.assurance_text.proof_text import build_proof_lines
    from qmesh.host.state.directory import State

    report = prove(State(state), ruleset=ruleset, seconds=timeout)
    print_answer(report, as_json=as_json, text=build_proof_lines)
    if not report.proved:
        raise typer.Exit(1)
