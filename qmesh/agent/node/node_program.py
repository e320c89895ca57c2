"""Which program of the node runs on this machine, or would by its units, and of which profile it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from qmesh.agent.node import node_config
from qmesh.errors import BadInput, QmeshError
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.disk_timeout import run_in_time
from qmesh.host.log.events import report_event
from qmesh.host.node_program.program_file import open_program
from qmesh.host.node_program.running_nodes import list_running_nodes
from qmesh.host.node_program.version_query import read_version
from qmesh.host.system import systemd
from qmesh.mesh import nodeconfig
from qmesh.mesh.nodeconfig.profiles import SHARED_KEYS
from qmesh.mesh.nodeconfig.program_version import NodeProgram, narrow_profiles
from qmesh.mesh.values import PROFILES, Profile

_PROCESSES: Final = Path("/proc")
_MOST_ASKED: Final = 8
_ASKING_S: Final = 6.0
"""So many different programs are asked, and none after so many seconds: each may take some for no answer, and
a node has two only while it is upgraded."""


class ChosenProfile(NamedTuple):
    """What a new mesh is for. is_guess: whether neither a file nor a program told."""

    profile: Profile
    is_guess: bool


def choose_profile(given: Profile | None, directory: ConfigDirectory | None) -> ChosenProfile:
    """The profile asked for; or that of the node's config.yml and program, or the newest left open.

    Raises BadInput where the file is of a newer node, or where it does not tell Go from Rust and no program
    does.
    """
    text = None if directory is None else node_config.read(directory).text
    possible = PROFILES if text is None else nodeconfig.list_possible_profiles(text)
    programs = () if directory is None else find_node_programs(directory)
    if given is not None:
        if text is not None:
            nodeconfig.refuse_newer_config(given, nodeconfig.detect_profile(text))
        _warn_of_other_programs(programs, given)
        return ChosenProfile(given, is_guess=False)
    left = narrow_profiles(possible, programs[0].version if programs else None)
    if left == SHARED_KEYS:
        raise BadInput(
            "config.yml has the keys that node 2.1 has both in Go and in Rust, and no program of the node was"
            " found here that tells which of them reads it",
            hint="pass `--node 2.1-rust` (version 2.1.0.23 or newer: the network runs it) or `--node 2.1` (in"
            " Go, up to 2.1.0.22); the one in Rust answers `PROGRAM --version` with `quil-node`",
        )
    return ChosenProfile(left[-1], is_guess=text is None and not programs)


def warn_of_other_programs(directory: ConfigDirectory | None, profile: Profile) -> None:
    """Say which programs of the node on this machine are not of the profile that the mesh is for now."""
    if directory is not None:
        _warn_of_other_programs(find_node_programs(directory), profile)


def _warn_of_other_programs(programs: tuple[NodeProgram, ...], profile: Profile) -> None:
    for each in programs:
        if profile not in each.version.profiles:
            report_event("node-program", "the mesh is for node %s, but here %s", profile, each)


def find_node_programs(directory: ConfigDirectory) -> tuple[NodeProgram, ...]:
    """The programs that run the node of a config directory, each once, the control process's first.

    Where none runs, that of this machine's units; none where that tells nothing either.
    """
    running = list(_find_running_programs(directory))
    return tuple(running or _find_unit_program(directory))


def _find_running_programs(directory: ConfigDirectory) -> Iterator[NodeProgram]:
    asked, names = set[tuple[int, int, int]](), set[str]()
    until = time.monotonic() + _ASKING_S
    with contextlib.suppress(OSError, QmeshError):
        # A command line is memory of its process, which a user may have put on a disk that does not answer.
        for process in run_in_time(_PROCESSES, lambda: list_running_nodes(directory)):
            for place in process.programs:
                if place.name in names:
                    continue
                names.add(place.name)
                with contextlib.suppress(OSError, QmeshError), open_program(place.path) as program:
                    is_enough = len(asked) >= _MOST_ASKED or time.monotonic() > until
                    if program.identity in asked or is_enough:
                        continue
                    asked.add(program.identity)
                    version = read_version(program, directory.owner or 0)
                    if version is not None:
                        yield NodeProgram(
                            path=str(program.path), version=version, core=process.core, place=str(place.path)
                        )


def _find_unit_program(directory: ConfigDirectory) -> Iterator[NodeProgram]:
    with contextlib.suppress(OSError, QmeshError):
        path = systemd.find_installed_program(systemd.UNIT_DIRECTORY)
        if path is None:
            return
        with open_program(Path(path)) as program:
            version = read_version(program, directory.owner or 0)
            if version is not None:
                yield NodeProgram(path=path, version=version, core=None)
