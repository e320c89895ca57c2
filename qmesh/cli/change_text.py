"""What the commands that change the mesh answer, in words."""

from __future__ import annotations

import logging

import msgspec

from qmesh.agent.mesh_change import ChangeResult
from qmesh.cli.core_text import describe_cores
from qmesh.cli.output import print_answer
from qmesh.mesh.changes import RenumberedMachine
from qmesh.mesh.machine import Cores
from qmesh.mesh.systemd.units import CONTROL_PROCESS, WORKERS

log = logging.getLogger("qmesh")


class _Facts(msgspec.Struct, frozen=True):
    revision: int
    renumbered: tuple[RenumberedMachine, ...]
    restart: tuple[str, ...]


def print_change(changed: ChangeResult, *, as_json: bool, done: str) -> None:
    """Print what was done, which machines have other cores, and what to restart."""
    facts = _Facts(changed.revision, changed.renumbered, changed.restart)
    head = done if changed.is_another else "nothing to do, the mesh is so already"
    lines = [f"{head}: revision {changed.revision}", *map(_render_renumbering, changed.renumbered)]
    print_answer(facts, as_json=as_json, text=lambda _: "\n".join(lines))
    if not changed.restart:
        return
    if changed.restarts_by_itself:
        log.info("the agents write config.yml and restart what is necessary, the control process last")
        return
    log.info("the members know of it in a second or so. Then do this, in this order:")
    for name in changed.restart:
        units = [] if name == changed.control and not changed.control_workers else [WORKERS]
        units += [CONTROL_PROCESS] if name == changed.control else []
        log.info("  on %s: qmesh render-config --write && systemctl restart %s", name, " ".join(units))


def _render_renumbering(each: RenumberedMachine) -> str:
    return f"  {each.machine}: {_render_cores(each.was)} -> {_render_cores(each.now)}"


def _render_cores(cores: Cores | None) -> str:
    return "no cores" if cores is None else describe_cores(cores.first, cores.count)
