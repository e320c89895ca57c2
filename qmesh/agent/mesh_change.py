"""A change of the mesh on its control node: what `set`, `pause`, `resume` and `remove` have in common."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from qmesh.agent.local import list_listen_ports
from qmesh.agent.node.node_host import describe_steps
from qmesh.agent.preconditions import check_user, lock_member
from qmesh.agent.rollback import follow_mesh
from qmesh.errors import BadInput
from qmesh.host.log.events import report_event
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.system import agent_notify
from qmesh.host.system.sudo_user import find_invoking_user
from qmesh.mesh import changes
from qmesh.mesh.changes import RenumberedMachine
from qmesh.mesh.events.mesh_events import EventKind
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.reachability.open_ports import MachinePorts, list_changed_ports
from qmesh.mesh.systemd.change_steps import StepText, list_change_steps
from qmesh.mesh.systemd.instructions import describe_prover_pause
from qmesh.mesh.values import MachineState


class ChangeResult(msgspec.Struct, frozen=True):
    """What a change of the mesh answers.

    is_another: whether the mesh is another one than before.
    restart: the machines of which something has to be started or restarted, in order.
    steps: what to do on the machines, in order.
    restarts_by_itself: whether the agents do of that what they can.
    open_ports: of each machine whose ports to the internet are others than before, all of them.
    announces: whether the node tells the network where its workers are.
    """

    is_another: bool
    revision: int
    renumbered: tuple[RenumberedMachine, ...]
    restart: tuple[str, ...]
    steps: tuple[StepText, ...]
    restarts_by_itself: bool
    open_ports: tuple[MachinePorts, ...]
    announces: bool


def refuse_if_already(mesh: Inventory, name: str, state: MachineState) -> None:
    """Raise BadInput where that machine is in that state, so that there is nothing to do."""
    if mesh.machine(name).state == state:
        raise BadInput(f"nothing to do: {name} is {state} already", hint="`qmesh status` shows every machine")


def log_prover_pause(mesh: Inventory) -> None:
    """Say what the node wants to be told, before workers of it are taken away."""
    if hint := describe_prover_pause(mesh.node):
        report_event("advice", "%s", hint)


def change_mesh(
    state: State,
    after: Callable[[Inventory], Inventory],
    *,
    command: str,
    what: EventKind,
    machine: str | None,
) -> ChangeResult:
    """Change the mesh on its control node, tell its members, and follow it here. Raises BadInput, NeedsRoot.

    after: the mesh as it will be, of the mesh as it is; machine: what the event is about; None for the mesh.
    """
    check_user(command)
    with lock_member(state, command) as here:
        with Registry(state.registry_file, user=find_invoking_user()) as registry:
            old, new = registry.change_mesh(
                after,
                command=command,
                what=what,
                machine=machine or here.inventory.control,
                now=int(time.time()),
            )
        agent_notify.notify_agent(state.directory, wait_s=agent_notify.PASS_ON_S)
        follow_mesh(state)
    steps = list_change_steps(old, new)
    return ChangeResult(
        is_another=new != old,
        revision=new.revision,
        renumbered=changes.find_renumbered_machines(old, new),
        restart=tuple(dict.fromkeys(step.machine for step in steps if step.start or step.control != "no")),
        steps=describe_steps(here.settings, steps),
        restarts_by_itself=new.restart,
        announces=new.p2p_base_port is not None,
        open_ports=list_changed_ports(old, new, list_listen_ports(here)),
    )
