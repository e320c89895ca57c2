"""The agent as a service: systemd where it runs, a background process where it does not."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from qmesh.errors import MachineRefused
from qmesh.host import files
from qmesh.host.state.directory import State
from qmesh.host.system import heartbeat, node_user, processes, programs
from qmesh.mesh.foreign.other_hooks.unit_filters import UnitFilter
from qmesh.mesh.systemd.instructions import UNSTARTED, UnstartedUnit
from qmesh.mesh.systemd.node_arguments import parse_unit_arguments
from qmesh.mesh.systemd.unit_failures import MOST_NAMED, UnitFailure
from qmesh.mesh.systemd.units import (
    AGENT,
    BOOT_GUARD,
    CONTROL_PROCESS,
    HOLDER,
    WORKER,
    WORKERS,
    Paths,
    is_unedited,
    parse_node_program,
    starts_control_first,
    worker_unit_name,
)

UNIT_DIRECTORY = Path("/etc/systemd/system")
_UNIT_DIRECTORIES = (UNIT_DIRECTORY, Path("/run/systemd/system"), Path("/usr/lib/systemd/system"))
_SYSTEMCTL_S = 90.0
"""Seconds that systemd gives a unit to start, where that says nothing else."""
_ANSWERS_S = 3.0
"""Seconds for all questions together about units that failed."""
_MOST_OCTETS = 64 * 1024
_LAST_LINES = 12
_SAID_BY_READY = re.compile(
    r"hint: |core \d+ (?:can start|listens) on |(?:error: )?core \d+ does not listen on "
    r"|the control process does not answer at "
)
_FAILURE = "Id,ActiveState,Result,ExecMainCode,ExecMainStatus,NRestarts"


def is_systemd_running() -> bool:
    """Whether systemd is this machine's init. Source: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def build_unit_paths(
    state: State, *, config_directory: str, program: str, arguments: tuple[str, ...] = ()
) -> Paths:
    """Where things are on this machine, for the units."""
    return Paths(
        python=sys.executable,
        holder=processes.HOLDER_PROGRAM,
        state=str(state.directory.absolute()),
        guard_file=str(state.guard_file.absolute()),
        held_file=str(state.held_file.absolute()),
        nft=programs.find_program("nft") or "/usr/sbin/nft",
        program=program,
        config_directory=config_directory,
        user=node_user.resolve_user_name(node_user.find_node_user(Path(config_directory))),
        arguments=arguments,
    )


def find_installed_program(directory: Path) -> str | None:
    """The node's program that the worker's unit in a directory runs; None where there is no such unit."""
    unit = files.read(directory / WORKER)
    return None if unit is None else parse_node_program(unit.decode("utf-8", "replace"))


def find_installed_arguments(directory: Path) -> tuple[str, ...]:
    """The node's further arguments in the worker's unit in a directory; none where there is no such unit."""
    unit = files.read(directory / WORKER)
    return () if unit is None else parse_unit_arguments(unit.decode("utf-8", "replace"))


def write_units(units: Mapping[str, str], directory: Path) -> None:
    """Write unit files, 0644, each whole or not at all."""
    for name, text in units.items():
        path = directory / name
        if path.parent != directory:  # that of a drop-in
            with contextlib.suppress(OSError):
                path.parent.mkdir(mode=0o755, exist_ok=True)  # whatever the umask is
        files.write(path, text.encode(), mode=0o644)


class UpdatedUnits(NamedTuple):
    """Names of units: those that were written, and those that somebody edited, which stay as they are."""

    written: tuple[str, ...]
    kept: tuple[str, ...]


def update_units(units: Mapping[str, str], directory: Path) -> UpdatedUnits:
    """Write the unit files that are not there or not like this, but none that somebody edited."""
    differ = {name: text for name, text in units.items() if not _has_content(directory / name, text)}
    kept = tuple(name for name in differ if is_unedited_file(directory / name) is False)
    for name in kept:
        del differ[name]
    write_units(differ, directory)
    return UpdatedUnits(tuple(differ), kept)


def is_unedited_file(path: Path) -> bool | None:
    """Whether a unit's file is as qmesh made it; None where there is no such file."""
    if path.is_dir() or not (path.exists() or path.is_symlink()):
        return None
    return not path.is_symlink() and is_unedited(path.read_text(encoding="utf-8", errors="replace"))


def list_outdated_units(directory: Path) -> tuple[str, ...]:
    """The node's units of earlier versions in a directory, which start qmesh without `build_own_command`."""
    texts = {name: files.read(directory / name) or b"" for name in (WORKER, CONTROL_PROCESS)}
    return tuple(name for name, text in texts.items() if re.search(rb" (?<! -I )-m qmesh ready ", text))


def install_agent(units: Mapping[str, str]) -> None:
    """Install and start the agent and the boot guard under systemd; a running agent is restarted."""
    write_units(units, UNIT_DIRECTORY)
    run_systemctl("daemon-reload")
    enable_agent()
    # Restarting the boot guard would restart what requires it: the node. The holder is only restarted
    # by what it is for, a change of the guard: while it is away, a flush would open the ports.
    run_systemctl("start", BOOT_GUARD, HOLDER)
    run_systemctl("restart", AGENT)


def enable_agent() -> None:
    """Have each boot start the agent, the boot guard and the process that holds the guard."""
    run_systemctl("enable", BOOT_GUARD, HOLDER, AGENT)


def list_unstarted_units() -> tuple[UnstartedUnit, ...]:
    """The installed units of qmesh's own that no boot starts, because they were disabled or masked."""
    if not is_systemd_running():
        return ()
    installed = [unit for unit in (BOOT_GUARD, HOLDER, AGENT) if os.path.lexists(UNIT_DIRECTORY / unit)]
    if not installed:
        return ()
    blocks = run_systemctl("show", "--property=Id,UnitFileState", *installed).split("\n\n")
    shown = (dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks)
    states = ((each.get("Id", ""), each.get("UnitFileState", "")) for each in shown)
    return tuple(UnstartedUnit(name, state) for name, state in states if state in UNSTARTED)


def read_unit_filters(cores: Sequence[int]) -> tuple[UnitFilter, ...]:
    """Those of qmesh's units and the node's that refuse some address; cores: of workers, the first of them.

    Raises MachineRefused.
    """
    if not is_systemd_running():
        return ()
    units = [AGENT, CONTROL_PROCESS, *(worker_unit_name(core) for core in cores[:MOST_NAMED])]
    shown = run_systemctl("show", "--property=Id,IPAddressAllow,IPAddressDeny", *units)
    return tuple(
        UnitFilter(found.get("Id", ""), _parse_networks(found, "Allow"), _parse_networks(found, "Deny"))
        for block in shown.split("\n\n")
        if (found := dict(line.partition("=")[::2] for line in block.splitlines())).get("IPAddressDeny")
    )


def _parse_networks(properties: Mapping[str, str], verb: str) -> tuple[str, ...]:
    """Networks as systemd lists them; what is none is left out."""
    found = []
    for word in properties.get(f"IPAddress{verb}", "").split():
        with contextlib.suppress(ValueError):
            found.append(str(ipaddress.ip_network(word, strict=False)))
    return tuple(found)


def has_installed_units(units: Mapping[str, str]) -> bool:
    """Whether these very units are systemd's already."""
    return all(_has_content(UNIT_DIRECTORY / name, text) for name, text in units.items())


def _has_content(path: Path, text: str) -> bool:
    return not path.is_symlink() and files.read(path) == text.encode()


def has_worker_units() -> bool:
    """Whether systemd is the init here and has the units of the workers, and no mask over them."""
    if not is_systemd_running():
        return False
    shown = run_systemctl("show", "--property=LoadState", WORKERS, worker_unit_name(1))
    return shown.split() == ["LoadState=loaded"] * 2


def has_node_units() -> bool:
    """Whether systemd runs here and has the units of the workers, as far as its directories tell.

    Cheap, and it asks no program: for texts that say what to type.
    """
    return is_systemd_running() and _has_unit_file(WORKER)


def has_control_unit() -> bool:
    """Whether systemd runs here and has the unit of the control process; as cheap."""
    return is_systemd_running() and _has_unit_file(CONTROL_PROCESS)


def _has_unit_file(unit: str) -> bool:
    return any((directory / unit).is_file() for directory in _UNIT_DIRECTORIES)


def has_control_first() -> bool | None:
    """Whether the unit of the control process lets it start before the workers; None where there is none."""
    unit = files.read(UNIT_DIRECTORY / CONTROL_PROCESS) if is_systemd_running() else None
    return None if unit is None else starts_control_first(unit.decode("utf-8", "replace"))


def enqueue_job(verb: str, *units: str) -> None:
    """Have systemd begin with something, and wait for nothing; no unit is fine. Raises MachineRefused."""
    if units:
        run_systemctl("--no-block", verb, *units)


def is_active(unit: str) -> bool:
    """Whether systemd has started a unit, or is about to."""
    return run_systemctl("show", "--property=ActiveState", "--value", unit).strip() in {
        "active",
        "activating",
    }


def is_kept_stopped(unit: str) -> bool:
    """Whether a unit was disabled or masked, and does not run."""
    return not is_active(unit) and any(each.name == unit for each in list_unstarted_units())


def list_running_workers() -> tuple[int, ...]:
    """The cores whose workers systemd runs, or is about to; none where systemd is not the init."""
    if not is_systemd_running():
        return ()
    states = "--state=active,activating,reloading,deactivating"
    listed = run_systemctl("list-units", "--plain", "--no-legend", states, WORKER.replace("@", "@*"))
    return tuple(sorted(map(int, re.findall(r"^qmesh-worker@(\d{1,5})\.service ", listed, re.MULTILINE))))


def run_systemctl(*words: str) -> str:
    """Have systemd do something; what is said. Raises MachineRefused when it does not."""
    try:
        with heartbeat.allow_wait(_SYSTEMCTL_S):
            done = subprocess.run(
                [programs.find_program("systemctl") or "/usr/bin/systemctl", *words],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                cwd=programs.DIRECTORY,
                check=False,
            )
    except OSError as error:
        raise MachineRefused(
            f"systemctl cannot be run: {error.strerror}",
            hint="systemd runs on this machine: install its systemctl, or put it into /usr/local/bin",
        ) from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        # Of many units it names only those that failed.
        unit = next(iter(re.findall(r"qmesh[\w@-]*\.(?:service|target)", done.stderr)), AGENT)
        raise MachineRefused(
            f"systemctl {' '.join(words)} failed: {reason[0]}",
            hint=f"run `systemctl status {unit}`, and fix what it reports",
        )
    return done.stdout


def read_unit_failures(cores: Sequence[int]) -> tuple[UnitFailure, ...]:
    """How the workers' units of the first of these cores are; less where systemd or the journal is slow."""
    deadline = time.monotonic() + _ANSWERS_S
    units = [worker_unit_name(core) for core in cores[:MOST_NAMED]]
    if not units:
        return ()
    shown = _read_output(["systemctl", "show", f"--property={_FAILURE}", *units], deadline)
    found = (_parse_unit(block) for block in shown.split("\n\n"))
    return tuple(_build_failure(properties, deadline) for properties in found if properties is not None)


def _parse_unit(block: str) -> dict[str, str] | None:
    properties = dict(line.partition("=")[::2] for line in block.splitlines())
    numbers = ("ExecMainCode", "ExecMainStatus", "NRestarts")
    if all(re.fullmatch("[0-9]{1,9}", properties.get(name, "")) for name in numbers):
        return properties
    return None


def _build_failure(properties: dict[str, str], deadline: float) -> UnitFailure:
    unit = properties["Id"]
    core = re.fullmatch(r"qmesh-worker@([0-9]{1,9})\.service", unit)
    return UnitFailure(
        core=int(core[1]) if core else 0,
        state=properties.get("ActiveState", ""),
        result=properties.get("Result", ""),
        code=int(properties["ExecMainCode"]),
        status=int(properties["ExecMainStatus"]),
        restarts=int(properties["NRestarts"]),
        last_line=_read_last_line(unit, deadline),
    )


def _read_last_line(unit: str, deadline: float) -> str:
    """What the node said last there; what systemd, and `qmesh ready`, say of each start is no news."""
    lines = f"--lines={_LAST_LINES}"
    words = ["journalctl", "--no-pager", "--quiet", "--output=cat", lines, f"_SYSTEMD_UNIT={unit}"]
    said = (line for line in reversed(_read_output(words, deadline).splitlines()) if line.strip())
    return next((line for line in said if not _SAID_BY_READY.match(line)), "")


def _read_output(words: Sequence[str], deadline: float) -> str:
    """What a program prints until then, of `_MOST_OCTETS` at most; nothing where it can't be run."""
    program = programs.find_program(words[0])
    if program is None:
        return ""
    try:
        process = subprocess.Popen(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=programs.DIRECTORY,
        )
    except OSError:
        return ""
    with process:
        assert process.stdout is not None
        try:
            return _read_pipe(process.stdout.fileno(), deadline).decode("utf-8", "replace")
        finally:
            process.kill()


def _read_pipe(descriptor: int, deadline: float) -> bytes:
    octets = b""
    while len(octets) < _MOST_OCTETS:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        more = os.read(descriptor, _MOST_OCTETS - len(octets)) if ready else b""
        if not more:
            break
        octets += more
    return octets
