"""`qmesh prove`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, file_option, print_answer
from qmesh.errors import BadInput, MissingProgram

if TYPE_CHECKING:
    from qmesh.host.state.directory import State
    from qmesh.mesh.proof_report.verification import Verification

EXAMPLES = (
    "qmesh prove",
    "qmesh prove --ruleset rules.json",
    "qmesh prove --report hel-2.html --sign",
    "qmesh prove --verify hel-2.html",
)


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
    report: Annotated[
        Path | None,
        file_option("--report", help="Also write it as a page for strangers, mode 0600."),
    ] = None,
    sign: Annotated[
        bool, typer.Option("--sign", help="With --report: sign it; FILE.sig has the signature.")
    ] = False,
    verify: Annotated[
        Path | None,
        file_option("--verify", help="Compare such a file with this machine, and prove all claims again."),
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Prove by all rules here that the ports are closed, or show a packet that gets in.

    It changes nothing, and sends nothing. What a rule means that is not understood is never guessed: then the
    claim is not proved, and that rule is named. Exit code 0 when every claim is proved, 1 otherwise; with
    --verify 0 only when nothing differs from the report, too.

    A report has the machine's name, its closed ports, the names of its tables, chains and sets, and the rules
    that decide, with the addresses in them. Read it before you give it away.

    It needs the package clingo: Debian's package has it, and qmesh with the extra `prove`.
    """
    if find_spec("clingo") is None:
        raise MissingProgram(
            "`qmesh prove` needs the Python package clingo, which is not installed",
            hint="with qmesh from pipx: `PIPX_HOME=/opt/pipx pipx inject qmesh 'clingo<6'`; the Debian"
            " package has it. `qmesh drill` needs no such package",
        )
    from qmesh.agent.commands.prove import prove, prove_to_report
    from qmesh.cli.assurance_text.proof_text import build_proof_lines
    from qmesh.cli.assurance_text.report_text import build_verification_lines, build_written_lines
    from qmesh.host.state.directory import State

    _refuse_options(report, verify, sign=sign)
    if verify is not None:
        verified = _verify(State(state), verify, ruleset, timeout)
        print_answer(verified, as_json=as_json, text=build_verification_lines)
        raise typer.Exit(0 if verified.is_same else 1)
    if report is None:
        found = prove(State(state), ruleset=ruleset, seconds=timeout)
        print_answer(found, as_json=as_json, text=build_proof_lines)
    else:
        found = written = prove_to_report(State(state), report, signs=sign, ruleset=ruleset, seconds=timeout)
        print_answer(written, as_json=as_json, text=build_written_lines)
    if not found.proved:
        raise typer.Exit(1)


def _refuse_options(report: Path | None, verify: Path | None, *, sign: bool) -> None:
    """Raise BadInput for what does not go together, and where the report can't be written."""
    if report is not None and verify is not None:
        raise BadInput("--report and --verify do not go together", hint="use one of the two")
    if sign and report is None:
        raise BadInput("--sign needs a report to sign", hint="add --report FILE")
    if report is None:
        return
    from qmesh.agent.commands.prove import build_signature_path
    from qmesh.cli.output_file import refuse_output_file
    from qmesh.mesh.proof_report.report_keys import BEGIN
    from qmesh.mesh.proof_report.report_page import BEGIN as BEGIN_OF_REPORT

    refuse_output_file(report, begins=BEGIN_OF_REPORT, what="report")
    if sign:
        refuse_output_file(build_signature_path(report), begins=BEGIN.encode(), what="signature")


def _verify(state: State, report: Path, ruleset: Path | None, seconds: int) -> Verification:
    from qmesh.agent.commands.prove import build_signature_path, verify_report
    from qmesh.cli.input import read_found_file
    from qmesh.mesh.proof_report.report_keys import MOST_SIGNATURE
    from qmesh.mesh.proof_report.report_page import MOST_OCTETS
    from qmesh.mesh.values import quote_text

    hint = "pass the file that `qmesh prove --report` wrote, itself and no link to it"
    octets = read_found_file(report, most=MOST_OCTETS, hint=hint)
    if octets is None:
        raise BadInput(f"there is no file {quote_text(str(report))}", hint=hint)
    signature = read_found_file(
        build_signature_path(report),
        most=MOST_SIGNATURE,
        hint="remove it, if it is no signature of the report",
    )
    return verify_report(state, octets, signature, ruleset=ruleset, seconds=seconds)
