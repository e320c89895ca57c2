"""What runs on of a qmesh whose state directory is gone, or another one by now: a new disk, an `rm`."""

from __future__ import annotations

import contextlib
import os
import signal
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import MachineRefused
from qmesh.host.firewall import held_table, nftables
from qmesh.host.network import links
from qmesh.host.node_program.running_nodes import parse_users
from qmesh.host.system import background, process_end, processes
from qmesh.mesh.guard.parse import parse_table_header
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.state import Guard

_DELETED: Final = " (deleted)"
_END_S: Final = 30.0


class RunningProcess(msgspec.Struct, frozen=True):
    """One of qmesh's processes. kind: `agent`, `hold` or `undo`; state: its state directory.

    is_there: whether that is there still, and the same one.
    """

    number: int
    kind: str
    state: Path
    is_there: bool


class Leftovers(msgspec.Struct, frozen=True):
    """What is on this machine of a qmesh that a state directory knows nothing of.

    processes: those whose state is gone.
    guard: what the loaded tables say of themselves; None where none is loaded, or that is not understood.
    interface: the tunnel's, where it is there.
    """

    processes: tuple[RunningProcess, ...]
    guard: Guard | None
    interface: str | None


def list_processes() -> tuple[RunningProcess, ...]:
    """The processes of qmesh that live as long as their machine, by the locks that they hold."""
    kinds = {"agent.lock": "agent", "hold.lock": "hold", "undo.lock": "undo"}
    found = {}
    for number, descriptor in processes.list_descriptors():
        with contextlib.suppress(OSError):
            path = Path(str(descriptor.readlink()).removesuffix(_DELETED))
            if path.name in kinds and number != os.getpid() and _has_lock(number, descriptor):
                found[number] = RunningProcess(
                    number, kinds[path.name], path.parent, _is_same_file(descriptor, path)
                )
    return tuple(found[number] for number in sorted(found))


def _has_lock(number: int, descriptor: Path) -> bool:
    """Whether it is root's alone, on this machine, and has that file of root's locked.

    A user may lock a file of that name, and start a program that gains root's rights with it.
    Source: proc(5), fdinfo.
    """
    process = Path(f"/proc/{number}")
    if parse_users((process / "status").read_bytes()) != {0}:
        return False
    if not os.path.samestat((process / "ns/net").stat(), Path("/proc/self/ns/net").stat()):
        return False
    if "FLOCK" not in (process / "fdinfo" / descriptor.name).read_text("ascii", "replace"):
        return False
    return descriptor.stat().st_uid == 0


def _is_same_file(descriptor: Path, path: Path) -> bool:
    try:
        return os.path.samestat(descriptor.stat(), path.lstat())
    except FileNotFoundError:
        return False


def describe_process(kind: str) -> str:
    """Which process of a kind runs, and of which state directory, for a message; empty where none does."""
    found = (f" (process {each.number}, of {each.state})" for each in list_processes() if each.kind == kind)
    return next(found, "")


def list_orphaned_processes() -> tuple[RunningProcess, ...]:
    """Those of them whose state directory is gone, so that no command can reach them."""
    return tuple(each for each in list_processes() if not each.is_there)


def find_leftovers() -> Leftovers:
    """All of it. Raises MachineRefused where it could not look."""
    listings = filter(None, (nftables.read_table(TABLE), held_table.read_header()))
    guard = next((guard for guard in map(parse_table_header, listings) if guard is not None), None)
    interface = None
    if guard is not None:
        link = links.read(guard.interface)
        interface = guard.interface if link is not None and link.kind in {"wireguard", "tun"} else None
    return Leftovers(list_orphaned_processes(), guard, interface)


def _is_of_kind(kind: str, number: int) -> bool:
    return any((each.number, each.kind) == (number, kind) for each in list_processes())


def terminate_process(each: RunningProcess) -> None:
    """End a process, under systemd its unit. Raises MachineRefused where it does not end."""
    if each.kind == "agent":
        background.stop_agent()
    elif each.kind == "hold":
        background.stop_holder()
    processes.send_signal(each.number, signal.SIGTERM, is_meant=partial(_is_of_kind, each.kind))
    if not process_end.wait_for_exit(each.number, _END_S):
        raise MachineRefused(
            f"`qmesh {each.kind}` of {each.state} does not end (process {each.number})",
            hint=f"run `kill -KILL {each.number}`, then the same command again",
        )
