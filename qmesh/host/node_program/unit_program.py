"""Whether a file is a program that this machine can start, and which second one lies beside it."""

from __future__ import annotations

import os
import platform
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from qmesh.errors import BadInput
from qmesh.host.disk_timeout import run_in_time
from qmesh.host.node_program.program_file import ProgramFile, open_program
from qmesh.host.typed_commands import build_command
from qmesh.mesh.values import quote_text

SECOND_PROGRAM: Final = "quil-amount-proof-worker"
"""What newer builds of the node start besides, and look for where they lie themselves."""

_MACHINES: Final = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""Source: elf(5), e_machine; uname(2)."""
_DOWNLOADS: Final = {"x86_64": "linux-amd64", "aarch64": "linux-arm64"}
_HEADER: Final = 20


class UnitProgram(NamedTuple):
    """A program that units start. path: without links. second: where the second one lies beside it."""

    path: Path
    status: os.stat_result
    second: Path | None


def inspect_program(path: Path) -> UnitProgram:
    """A program's file as it is.

    Raises BadInput where it is none: not there, a directory, not executable, or for other machines.
    MachineRefused where its disk does not answer.
    """
    try:
        with open_program(path) as program:
            _refuse_other_file(path, program)
            _refuse_other_machine(path, run_in_time(path, lambda: _read_header(program)))
            second = program.path.with_name(SECOND_PROGRAM)
            has_second = run_in_time(path, lambda: os.path.lexists(second))
            return UnitProgram(program.path, program.status, second if has_second else None)
    except FileNotFoundError:
        raise BadInput(
            f"there is no program {quote_text(str(path))}",
            hint="pass the path of the node's program with --program, such as"
            " /root/node/node-2.1.0.25-linux-amd64",
        ) from None
    except OSError as error:
        raise BadInput(
            f"{quote_text(str(path))} cannot be opened: {error.strerror}",
            hint="pass the path of the node's program with --program",
        ) from None


def _refuse_other_file(path: Path, program: ProgramFile) -> None:
    mode, name = program.status.st_mode, quote_text(str(path))
    if stat.S_ISDIR(mode):
        raise BadInput(
            f"{name} is a directory",
            hint="pass the node's program in it, such as node-2.1.0.25-linux-amd64",
        )
    if not stat.S_ISREG(mode):
        raise BadInput(
            f"{name} is not a regular file", hint="pass the path of the node's program with --program"
        )
    if not mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH):
        raise BadInput(f"{name} is not executable", hint=f"run `{build_command('chmod 755 {}', path)}`")


def _read_header(program: ProgramFile) -> bytes:
    with Path(f"/proc/self/fd/{program.descriptor}").open("rb") as file:
        return file.read(_HEADER)


def _refuse_other_machine(path: Path, header: bytes) -> None:
    name, here = quote_text(str(path)), platform.machine()
    if header.startswith(b"#!"):
        return
    if not header.startswith(b"\x7fELF") or len(header) < _HEADER:
        raise BadInput(
            f"{name} is no program for Linux", hint="pass the node's program itself, not its signature"
        )
    number = int.from_bytes(header[18:20], "big" if header[5] == 2 else "little")
    if here in _MACHINES.values() and _MACHINES.get(number) != here:
        raise BadInput(
            f"{name} is a program for {_MACHINES.get(number, 'other machines')}, and this machine is {here}",
            hint=f"pass the one whose name ends in {_DOWNLOADS.get(here, f'linux-{here}')}",
        )


def find_closed_path(program: UnitProgram, user: int) -> Path | None:
    """What keeps a user from running a program: the file, or a directory on the way; None where nothing does.

    By the permission bits alone: access lists may allow more.
    """
    if user == 0:
        return None
    groups = _find_groups(user)
    places = [(program.path, program.status), *_list_parents(program.path)]
    return next((path for path, status in places if not _may_pass(status, user, groups)), None)


def _list_parents(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for parent in path.parents:
        try:
            yield parent, run_in_time(parent, parent.stat)
        except OSError:
            return


def _may_pass(status: os.stat_result, user: int, groups: set[int]) -> bool:
    if status.st_uid == user:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid in groups:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _find_groups(user: int) -> set[int]:
    try:
        found = pwd.getpwuid(user)
    except KeyError:
        return set()
    return set(os.getgrouplist(found.pw_name, found.pw_gid))
