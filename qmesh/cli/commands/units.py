"""`qmesh units`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, directory_option, print_answer, print_outcome
from qmesh.errors import BadInput
from qmesh.mesh.values import DEFAULT_PROGRAM

if TYPE_CHECKING:
    from qmesh.host.system.systemd import UpdatedUnits

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh units",
    "qmesh units --write /etc/systemd/system --program /root/node/node-2.1.0.25-linux-amd64",
    "qmesh units --write /etc/systemd/system --node-args '--debug'",
)


def command(
    directory: Annotated[
        Path | None, directory_option("--write", help="Write the units into DIR.", show_default="prints them")
    ] = None,
    program: Annotated[
        str | None,
        typer.Option(
            help="The node's program.",
            metavar="PATH",
            show_default=f"as the units have it, or {DEFAULT_PROGRAM}",
        ),
    ] = None,
    node_args: Annotated[
        str | None,
        typer.Option(
            help="Further arguments of the node, quoted as for a shell; '' for none.",
            metavar="TEXT",
            show_default="as the units have them",
        ),
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Write systemd units for the agent, the boot guard and the node.

    One template unit runs each data worker, and one target all workers of this machine. Only what
    changed is written. A unit that was edited is kept, and the exit code is 1.
    """
    from qmesh.agent.commands.units import find_removed_workers, render_units
    from qmesh.agent.node.node_units import UnitOptions
    from qmesh.host.output_file import refuse_changeable_directory
    from qmesh.host.state.directory import State
    from qmesh.host.system.systemd import UNIT_DIRECTORY, UpdatedUnits, update_units

    if directory is not None and not directory.is_dir():
        raise BadInput(f"there is no directory {directory}", hint="use `--write /etc/systemd/system`")
    if directory is not None:
        refuse_changeable_directory(directory, option="--write", content="units")
    wish = UnitOptions(
        directory=directory or UNIT_DIRECTORY,
        write=directory is not None,
        program=program,
        arguments=node_args,
    )
    rendered = render_units(State(state), wish)
    texts = rendered.texts
    done, removed = UpdatedUnits((), ()), tuple[int, ...]()
    if directory is not None:
        done = update_units(texts, directory)
        _log_written_units(directory, done)
        removed = find_removed_workers(State(state))
    facts = {
        "units": texts,
        "written": done.written,
        "kept": done.kept,
        "removed_cores": removed,
        "second_program": rendered.second_program,
    }
    tell = print_answer if directory is None else print_outcome
    tell(facts, as_json=as_json, text=lambda _: "" if directory else _render_text(texts))
    if done.kept:
        raise typer.Exit(1)


def _log_written_units(directory: Path, done: UpdatedUnits) -> None:
    from qmesh.host.system.systemd import is_systemd_running
    from qmesh.mesh.systemd.instructions import RELOAD, describe_drop_in

    for name in done.kept:
        log.warning(
            "kept %s, which was edited; make your changes with %s instead,"
            " delete that file, and run this again",
            directory / name,
            describe_drop_in(name.partition(".d/")[0], has_systemd=is_systemd_running()),
        )
    if done.written:
        reload = f"run `{RELOAD}`" if is_systemd_running() else "systemd does not run on this machine"
        log.info("wrote %s; %s", ", ".join(done.written), reload)
    elif not done.kept:
        log.info("nothing to do: the units in %s are up to date", directory)


def _render_text(texts: Mapping[str, str]) -> str:
    return "\n".join(f"# {name}\n{text}" for name, text in texts.items()).rstrip("\n")
