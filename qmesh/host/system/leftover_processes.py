"""What runs on of a qmesh whose state directory is gone, or another one by now: a new disk, an `rm`."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import MachineRefused
from qmesh.host.firewall import nftables
from qmesh.host.network import links
from qmesh.host.system import processes, systemd
from qmesh.mesh.guard import HELD, TABLE, told
from qmesh.mesh.model import Guard

_DELETED: Final = " (deleted)"
_END_S: Final = 30.0


class Running(msgspec.Struct, frozen=True):
    """One of qmesh's processes. kind: `agent`, `hold` or `undo`; state: its state directory.

    is_there: whether that is there still, and the same one.
    """

    number: int
    kind: str
    state: Path
    is_there: bool


class LeftOver(msgspec.Struct, frozen=True):
    """What is on this machine of a qmesh that a state directory knows nothing of.

    processes: those whose state is gone.
    guard: what the loaded tables say of themselves; None where none is loaded, or that is not understood.
    interface: the tunnel's, where it is there.
    """

    processes: tuple[Running, ...]
    guard: Guard | None
    interface: str | None


def running() -> tuple[Running, ...]:
    """The processes of qmesh that live as long as their machine, by the locks that they hold."""
    kinds = {"agent.lock": "agent", "hold.lock": "hold", "undo.lock": "undo"}
    found = {}
    for number, descriptor in processes.descriptors():
        with contextlib.suppress(OSError):
            path = Path(str(descriptor.readlink()).removesuffix(_DELETED))
            if path.name in kinds and number != os.getpid() and _is_it(number, descriptor):
                found[number] = Running(number, kinds[path.name], path.parent, _is_same(descriptor, path))
    return tuple(found[number] for number in sorted(found))


def _is_it(number: int, descriptor: Path) -> bool:
    """Whether it is root's, on this machine, and has that file locked. Source: proc(5), fdinfo."""
    process = Path(f"/proc/{number}")
    if process.stat().st_uid != 0:
        return False
    if not os.path.samestat((process / "ns/net").stat(), Path("/proc/self/ns/net").stat()):
        return False
    return "FLOCK" in (process / "fdinfo" / descriptor.name).read_text("ascii", "replace")


def _is_same(descriptor: Path, path: Path) -> bool:
    try:
        return os.path.samestat(descriptor.stat(), path.lstat())
    except FileNotFoundError:
        return False


def named(kind: str) -> str:
    """Which process of a kind runs, and of which state directory, for a message; empty where none does."""
    found = (f" (process {each.number}, of {each.state})" for each in running() if each.kind == kind)
    return next(found, "")


def whose_state_is_gone() -> tuple[Running, ...]:
    """Those of them that nobody can tell anything."""
    return tuple(each for each in running() if not each.is_there)


def find() -> LeftOver:
    """All of it. Raises MachineRefused where it could not look."""
    listings = [nftables.read_table(name) or "" for name in (TABLE, HELD)]
    guard = next((guard for guard in map(told, listings) if guard is not None), None)
    interface = None
    if guard is not None:
        link = links.read(guard.interface)
        interface = guard.interface if link is not None and link.kind in {"wireguard", "tun"} else None
    return LeftOver(whose_state_is_gone(), guard, interface)


def end(each: Running) -> None:
    """End a process, under systemd its unit. Raises MachineRefused where it does not end."""
    if each.kind == "agent":
        systemd.stop_agent()
    elif each.kind == "hold":
        systemd.stop_holder()
    with contextlib.suppress(ProcessLookupError):
        os.kill(each.number, signal.SIGTERM)
    if not processes.ends_within(each.number, _END_S):
        raise MachineRefused(
            f"`qmesh {each.kind}` of {each.state} does not end (process {each.number})",
            hint="end it by hand, then run the same command again",
        )
