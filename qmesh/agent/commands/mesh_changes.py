"""`set`, `pause`, `resume` and `remove`: the mesh changed, on its control node."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from qmesh.agent.local import load, require_control, require_root
from qmesh.agent.rollback import follow, refuse_while_waiting
from qmesh.host.registry import EventKind, Registry
from qmesh.host.state.directory import State
from qmesh.host.system import agent_notify
from qmesh.host.system.sudo_user import invoker
from qmesh.mesh import changes
from qmesh.mesh.changes import Options, Renumbered
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.model import Endpoint, worker_count

log = logging.getLogger("qmesh")

_FAREWELL_S = 1.5
"""Seconds that members have to take the news, before one that was removed is cut off."""


class Changed(msgspec.Struct, frozen=True):
    """What a change of the mesh answers. restart: machines, in order; the control node is the last.

    is_another: whether the mesh is another one than before.
    control_workers: whether workers of the control node itself have to be restarted.
    """

    is_another: bool
    revision: int
    renumbered: tuple[Renumbered, ...]
    restart: tuple[str, ...]
    control: str
    control_workers: bool
    restarts_by_itself: bool


def set_machine(
    state: State, name: str, *, workers: int | None, endpoints: tuple[str, ...] | None
) -> Changed:
    """Another count of workers for a machine, or other endpoints; an empty tuple for none."""
    count = None if workers is None else worker_count(workers)
    reached = None if endpoints is None else [Endpoint.parse(text, default_port=None) for text in endpoints]

    def after(mesh: Inventory) -> Inventory:
        revision = mesh.revision
        if count is not None:
            mesh = changes.with_worker_count(mesh, name, count)
        if reached is not None:
            mesh = changes.with_endpoints(mesh, name, reached)
        return mesh if mesh.revision == revision else msgspec.structs.replace(mesh, revision=revision + 1)

    return _change(state, after, command="set", what="machine-changed", machine=name)


def set_options(state: State, options: Options) -> Changed:
    """Other options for the whole mesh."""
    return _change(
        state,
        lambda mesh: changes.with_options(mesh, options),
        command="set",
        what="mesh-changed",
        machine=None,
    )


def pause(state: State, name: str) -> Changed:
    """Take a machine out of the node's list; it stays a member."""
    return _change(
        state, lambda mesh: changes.paused(mesh, name), command="pause", what="paused", machine=name
    )


def resume(state: State, name: str) -> Changed:
    """Take a paused machine into the node's list again, behind all others."""
    return _change(
        state, lambda mesh: changes.resumed(mesh, name), command="resume", what="resumed", machine=name
    )


def remove(state: State, name: str) -> Changed:
    """Take a member out of the mesh: its key counts no more, and its connections are cut."""
    return _change(
        state, lambda mesh: changes.without(mesh, name), command="remove", what="removed", machine=name
    )


def _change(
    state: State,
    after: Callable[[Inventory], Inventory],
    *,
    command: str,
    what: EventKind,
    machine: str | None,
) -> Changed:
    require_root(f"qmesh {command}")
    with state.lock():
        refuse_while_waiting(state)
        here = load(state)
        require_control(here, f"qmesh {command}")
        with Registry(state.registry_file, user=invoker()) as registry:
            old, new = registry.change(
                after,
                command=command,
                what=what,
                machine=machine or here.inventory.control,
                now=int(time.time()),
            )
        agent_notify.tell(state.directory, wait_s=_FAREWELL_S)
        follow(state)
    return Changed(
        is_another=new != old,
        revision=new.revision,
        renumbered=changes.renumberings(old, new),
        restart=changes.restarts(old, new),
        control=new.control,
        control_workers=bool(changes.workers_to_restart(old, new, new.control)),
        restarts_by_itself=new.restart,
    )
