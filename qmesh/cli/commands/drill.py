"""`qmesh drill`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, file_option, print_answer
from qmesh.errors import BadInput

if TYPE_CHECKING:
    from qmesh.cli.screen.spans import Style

_MOST_OCTETS: Final = 64 << 20
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
    rules. The kernel is the judge. This machine is not changed, no packet leaves it, and nothing of the copy
    is left. Exit code 0 when all ended as it should, 1 when somebody got through who should not, somebody did
    not who should, or when that is not known.
    """
    from qmesh.agent.commands.drill import drill
    from qmesh.cli.screen.spans import style_labels
    from qmesh.host.state.directory import State
    from qmesh.mesh.drill.report_text import render_report

    rules = None if ruleset is None else _read_rules(ruleset)
    report = drill(State(state), ruleset=rules)
    print_answer(report, as_json=as_json, text=lambda it: tuple(style_labels(render_report(it), _STYLES)))
    if not report.passed:
        raise typer.Exit(1)


def _read_rules(path: Path) -> str:
    """The file's text. Raises BadInput where it is none."""
    from qmesh.cli.input import read_file

    hint = "pass a file of rules, as `nft list ruleset` or `nft -j list ruleset` prints them"
    octets = read_file(path, most=_MOST_OCTETS, hint=hint)
    try:
        if len(octets) > _MOST_OCTETS:
            raise BadInput(f"{path} is larger than {_MOST_OCTETS} bytes", hint=hint)
        if b"\0" in octets:  # libnftables would load what stands before it
            raise BadInput(f"{path} is no text", hint=hint)
        return octets.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no UTF-8 text", hint=hint) from None
