"""`qmesh node-files`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmesh.cli.output import STATE, ConfigOption, JsonOption, StateOption, print_answer, print_outcome
from qmesh.errors import BadInput

if TYPE_CHECKING:
    from qmesh.agent.node.node_files import FetchedFiles
    from qmesh.mesh.node_keys.planned_files import Outcome

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh node-files",
    "qmesh node-files --write",
    "qmesh node-files --write --config /root/node/.config",
    "qmesh node-files --write --replace",
)


def command(
    config: ConfigOption = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write them, mode 0600, for the directory's owner.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="With --write: replace files of another node; the old stay as .bak."),
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Fetch the node's keys and the least config.yml from the control node.

    Run it on a member that may: `qmesh set NAME --node-files on` on the control node permits it. The files
    come encrypted through the tunnel, and no secret of them is printed. Without --write it says what would
    be written.
    """
    from qmesh.agent.commands.node_files import fetch_files
    from qmesh.agent.node.node_files import describe_restart, write_node_files
    from qmesh.host.state.directory import State

    if replace and not write:
        raise BadInput("--replace is for --write", hint="add --write, or leave --replace out")
    fetched = fetch_files(State(state), config=config)
    written = write_node_files(State(state), fetched, replace=replace) if write else ()
    found = zip(fetched.paths, fetched.files, strict=True)
    facts = {
        "files": [{"path": str(path), "outcome": each.outcome} for path, each in found],
        "written": [str(path) for path in written],
    }
    tell = print_outcome if write else print_answer
    tell(facts, as_json=as_json, text=lambda _: _render_files(fetched, written if write else None))
    if written and (advice := describe_restart(fetched)):
        log.info("%s", advice)


def _render_files(fetched: FetchedFiles, written: tuple[Path, ...] | None) -> str:
    """A line a file. written: those that were; None without --write."""
    lines = []
    for path, each in zip(fetched.paths, fetched.files, strict=True):
        if written is None:
            lines.append(f"{path}: {_WOULD_BE[each.outcome]}")
        elif path not in written:
            lines.append(f"nothing to do, {path} is up to date")
        else:
            lines.append(f"wrote {path}" + (f"; the old one is {path}.bak" if each.old is not None else ""))
    return "\n".join(lines)


_WOULD_BE: dict[Outcome, str] = {
    "new": "would be new",
    "unchanged": "is up to date",
    "updated": "would be updated",
    "replaced": "is of another node, and would be replaced only with --replace",
}
