"""The systemd units of a machine, the node's too, as they should be now."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from qmesh.agent.local import load_local
from qmesh.errors import BadInput
from qmesh.host.node_program.unit_program import UnitProgram, find_closed_path, inspect_program
from qmesh.host.state.directory import State
from qmesh.host.system import node_user, systemd
from qmesh.host.typed_commands import build_command
from qmesh.mesh.systemd.node_arguments import parse_node_arguments
from qmesh.mesh.systemd.units import render_qmesh_units, render_unit_files
from qmesh.mesh.values import CONTROL_FIRST, DEFAULT_PROGRAM, quote_text

log = logging.getLogger("qmesh")


class UnitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `units` was asked for; None where the units that are there tell.

    directory: where they are, or will be. write: whether they are about to be written.
    program: the node's. arguments: its further arguments, as typed.
    """

    directory: Path
    write: bool
    program: str | None
    arguments: str | None


class RenderedUnits(msgspec.Struct, frozen=True, kw_only=True):
    """The units by file name, and the second program that lies beside the node's; None where none does."""

    texts: dict[str, str]
    second_program: str | None


def render_units(state: State, wish: UnitOptions) -> RenderedUnits:
    """The systemd units for this machine.

    Raises BadInput where the program that was named cannot be started here, or its arguments are not valid.
    """
    if wish.program is not None and not wish.program.startswith("/"):
        raise BadInput(
            "--program is not an absolute path", hint="pass an absolute path, such as /root/node/node"
        )
    arguments = (
        systemd.find_installed_arguments(wish.directory)
        if wish.arguments is None
        else parse_node_arguments(wish.arguments)
    )
    installed = systemd.find_installed_program(wish.directory)
    program = wish.program or installed or DEFAULT_PROGRAM
    here = load_local(state)
    directory = here.settings.config_directory
    must_be_there = wish.program is not None or (wish.write and installed is None and directory is not None)
    found = _inspect_program(Path(program), must_be_there=must_be_there)
    if directory is None:
        log.warning(
            "no units for the node: qmesh does not know where it has its config.yml;"
            " run `qmesh render-config --write --config DIR` once"
        )
        where = systemd.build_unit_paths(state, config_directory="/", program=program)
        return RenderedUnits(texts=render_qmesh_units(where), second_program=None)
    where = systemd.build_unit_paths(state, config_directory=directory, program=program, arguments=arguments)
    user = node_user.find_node_user(Path(directory))
    _warn_of_other_owners(Path(directory), user)
    second = None if found is None else _find_second_program(found, user)
    cores = here.inventory.core_numbers(here.settings.name)
    texts = render_unit_files(
        where,
        is_control=here.settings.control,
        cores=cores,
        is_control_first=here.inventory.node in CONTROL_FIRST,
    )
    return RenderedUnits(texts=texts, second_program=second)


def _inspect_program(path: Path, *, must_be_there: bool) -> UnitProgram | None:
    try:
        return inspect_program(path)
    except BadInput as error:
        if must_be_there:
            raise
        log.warning("%s: %s", error.message, error.hint)
        return None


def _find_second_program(program: UnitProgram, user: int) -> str | None:
    """What lies beside the node's program, for its processes to start. Says what keeps their user from it."""
    _warn_of_closed_path(program, user)
    if program.second is None:
        return None
    try:
        second = inspect_program(program.second)
    except BadInput as error:
        log.warning("the node's second program: %s; %s", error.message, error.hint)
        return None
    _warn_of_closed_path(second, user)
    log.info("the node's second program, %s, lies beside it: the node may start it", program.second)
    return str(program.second)


def _warn_of_closed_path(program: UnitProgram, user: int) -> None:
    closed = find_closed_path(program, user)
    if closed is not None:
        log.warning(
            "the node will run as %s, who may not use %s: move %s to a directory that is open to that user,"
            " such as /usr/local/bin, or change the mode",
            *(node_user.resolve_user_name(user), quote_text(str(closed)), program.path.name),
        )


def _warn_of_other_owners(directory: Path, user: int) -> None:
    """Say what the node's user will not be able to use, where that is another user's."""
    if user and (found := node_user.find_foreign_path(directory, user)) is not None:
        name = node_user.resolve_user_name(user)
        log.warning(
            "the node will run as %s, but another user owns %s: run `%s` before you restart it",
            *(name, quote_text(str(found))),
            build_command(f"chown -R {name} {{}}", directory, needs_root=True),
        )
