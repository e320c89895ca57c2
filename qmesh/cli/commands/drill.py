"""`qmesh drill`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, file_option, print_answer

if TYPE_CHECKING:
    from qmesh.cli.screen.spans import Style

_STYLES: Final[Mapping[str, Style]] = {"error": "error", "warning": "warning"}
EXAMPLES = ("qmesh drill", "qmesh drill --json", "qmesh drill --ruleset /etc/nftables.conf")


def command(
    ruleset: Annotated[
        Path | None,
        file_option("--ruleset", help="Rules in nft's words or its JSON, in place of this machine's."),
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Fire hostile and legitimate packets at a copy of this machine.

    The copy is made in network namespaces of its own: interfaces, addresses, routes, kernel settings and all
    rules. The kernel is the judge. Where the package clingo is there, it also fires the packets by which
    `qmesh prove` refutes a claim. This machine is not changed, no packet leaves it, and nothing of the copy
    is left.

    Exit code 0 when all ended as it should, 1 when somebody got through who should not, somebody did not who
    should, or when that is not known.
    """
    from qmesh.agent.commands.drill import drill
    from qmesh.cli.screen.spans import style_labels
    from qmesh.host.state.directory import State
    from qmesh.mesh.drill.report_text import render_report

    refute = None
    if find_spec("clingo") is not None:
        from qmesh.agent.assurance.proof import list_shown_packets

        refute = list_shown_packets
    report = drill(State(state), ruleset=ruleset, refute=refute)
    print_answer(report, as_json=as_json, text=lambda it: tuple(style_labels(render_report(it), _STYLES)))
    if not report.passed:
        raise typer.Exit(1)
