"""This machine and its mesh, as they are remembered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from qmesh.errors import JOIN_ANEW, EnrolmentRefused, StateUnreadable
from qmesh.host import files
from qmesh.host.linux import Linux
from qmesh.host.registry_access import open_registry, open_registry_image
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.changes import serve_until_succeeded, set_public_key
from qmesh.mesh.desired import Facts, LocalEnd, build_desired_state
from qmesh.mesh.inventory import Inventory, worker_ports
from qmesh.mesh.links.retirement import RetiredKey, RetiredKeys, select_retired_keys
from qmesh.mesh.machine import Cores, Machine
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.protocol.handover import derive_successor_preshared_key
from qmesh.mesh.protocol.membership import decode_membership, verify_membership
from qmesh.mesh.reachability.open_ports import MachinePorts, find_open_ports
from qmesh.mesh.state import NodeState
from qmesh.mesh.values import Endpoint, Secret


class Local(msgspec.Struct, frozen=True):
    """All that this machine knows: its settings, the mesh, the preshared keys by public key.

    has_handed_over: whether the mesh has another control node, and this one serves until that one answers it.
    retired: keys that the mesh does not have any more, oldest first, where this machine is, or was, its
        control node: it tells who calls with one.
    """

    settings: Settings
    inventory: Inventory
    preshared: Mapping[str, Secret]
    has_handed_over: bool = False
    retired: tuple[RetiredKey, ...] = ()

    @property
    def machine(self) -> Machine:
        """This machine in the mesh."""
        return self.inventory.machine(self.settings.name)

    def build_desired_state(self, facts: Facts) -> NodeState:
        """What this machine should be."""
        settings = self.settings
        place = LocalEnd(
            interface=settings.interface,
            listen_port=settings.listen_port,
            most_mtu=settings.mtu,
            up=settings.up,
            guarded=settings.guarded,
        )
        return build_desired_state(self.inventory, settings.name, place, self.preshared, facts)


def with_tunnel_and_guard(here: Local) -> Local:
    """The machine as `qmesh apply` wants it: tunnel up and guard in place, whatever `down` said."""
    return msgspec.structs.replace(
        here, settings=msgspec.structs.replace(here.settings, up=True, guarded=True)
    )


class JoinResult(msgspec.Struct, frozen=True):
    """Where a machine stands in its mesh: what `init` and `join` answer. `ports` in core order.

    cores: None while it is paused. open_ports: what has to be open to the internet.
    """

    mesh: str
    name: str
    address: str
    network: str
    public_key: str
    interface: str
    listen_port: int
    node: str
    cores: Cores | None
    ports: tuple[int, ...]
    open_ports: MachinePorts


def join_result(here: Local) -> JoinResult:
    """The machine's standing, from what it remembers."""
    name = here.settings.name
    return JoinResult(
        mesh=here.inventory.mesh,
        name=name,
        address=here.machine.address,
        network=here.inventory.network,
        public_key=here.machine.public_key,
        interface=here.settings.interface,
        listen_port=here.settings.listen_port,
        node=here.inventory.node,
        cores=here.inventory.cores.get(name),
        ports=worker_ports(here.inventory, name),
        open_ports=find_open_ports(here.inventory, name, list_listen_ports(here)),
    )


def list_listen_ports(here: Local) -> dict[str, int]:
    """The UDP ports of WireGuard that this machine knows of without their endpoints, by machine."""
    own = {here.settings.name: here.settings.listen_port}
    ways = here.settings.control_endpoints
    return {here.inventory.control: ways[0].port, **own} if ways else own


def load_local(state: State) -> Local:
    """What this machine remembers. Raises BadInput when it is in no mesh, StateUnreadable when damaged.

    Who calls need not have the lock: another process may make this machine the control node, or a member,
    while its files are read.
    """
    settings = state.settings()
    while True:
        try:
            return _load_as(state, settings)
        except StateUnreadable:
            as_now = state.settings()
            if as_now.control == settings.control:
                raise
            settings = as_now


def _load_as(state: State, settings: Settings) -> Local:
    """The same, with these settings."""
    # Of when this machine was the control node before. Nothing else is to wait for a file that is damaged.
    retired = (state.retired_keys.read_valid() or RetiredKeys()).keys
    if settings.control:
        with open_registry(state.registry_file) as registry:
            mesh, preshared = registry.inventory(), registry.preshared_keys()
            retired += registry.list_retired_keys()
        return Local(
            settings,
            serve_until_succeeded(mesh, settings.name),
            preshared,
            has_handed_over=mesh.control != settings.name,
            retired=select_retired_keys(retired, mesh),
        )
    inventory = read_held_membership(state, settings)
    preshared = _load_preshared_keys(state, settings, inventory)
    known = _with_own_key(state, settings, inventory)
    return Local(settings, known, preshared, retired=select_retired_keys(retired, known))


def _load_preshared_keys(state: State, settings: Settings, inventory: Inventory) -> dict[str, Secret]:
    """A worker machine's: with the control node, and with the next one; that one's own with all."""
    keys = {}
    if inventory.successor == settings.name and (handover_data := state.handover_payload()) is not None:
        with open_registry_image(handover_data.registry) as image:
            keys = image.preshared_keys()
    coming = state.successor_key.read()
    if coming is not None:
        keys[coming.public_key] = coming.preshared_key
    control_key = inventory.control_node.public_key
    if coming is None or coming.public_key != control_key:
        shared = state.keys.read_preshared_key()
        if shared is None:
            raise _unreadable_error(state.keys.preshared_file, "is missing")
        keys[control_key] = shared
    if inventory.successor not in {None, settings.name}:
        # Where the membership came by an invitation, nothing was prepared for it.
        successor_key = inventory.machine(inventory.successor or "").public_key
        keys.setdefault(successor_key, derive_successor_preshared_key(successor_key, keys[control_key]))
    return keys


def _with_own_key(state: State, settings: Settings, inventory: Inventory) -> Inventory:
    """The mesh with the key that this machine has changed to, where the membership lacks it still."""
    rotation = state.key_rotation.read()
    own = None if rotation is None else state.keys.read_private_key()
    if rotation is None or own is None or derive_public_key(own) != rotation.new:
        return inventory
    # It is the mesh of that revision still: the newer one is to be asked for.
    changed = set_public_key(inventory, settings.name, rotation.new)
    return msgspec.structs.replace(changed, revision=inventory.revision)


def read_held_membership(state: State, settings: Settings) -> Inventory:
    """The membership that a worker machine holds; believed anew each time it is read (E6)."""
    octets = files.read(state.membership_file)
    if octets is None:
        raise _build_membership_error(state.membership_file, "is missing")
    try:
        return verify_membership(decode_membership(octets), settings.verification_key, mesh=settings.mesh)
    except EnrolmentRefused as error:
        raise _build_membership_error(state.membership_file, f"is not valid: {error.message}") from None


class MembershipInvalid(StateUnreadable):
    """The membership that a worker machine holds is gone, damaged, or not signed by the mesh's key.

    path: of its file. why: what is wrong with it, after its name.
    """

    def __init__(self, path: Path, why: str, *, hint: str) -> None:
        super().__init__(f"{path} {why}", hint=hint)
        self.path = path
        self.why = why


def _build_membership_error(path: Path, why: str) -> MembershipInvalid:
    return MembershipInvalid(path, why, hint=_unreadable_error(path, why).hint)


def _unreadable_error(path: Path, why: str) -> StateUnreadable:
    return StateUnreadable(
        f"{path} {why}", hint=f"run `qmesh join` again with the same invitation; or {JOIN_ANEW}"
    )


def linux_for(state: State, settings: Settings) -> Linux:
    """This machine, ready to be observed and changed. Raises MachineRefused."""
    key = state.keys.read_private_key()
    return Linux(state, settings.interface, [] if key is None else [key])


def list_control_endpoints(here: Local) -> tuple[Endpoint, ...]:
    """Where a worker machine may reach its control node: as it remembers, then as the membership says."""
    return tuple(dict.fromkeys((*here.settings.control_endpoints, *here.inventory.control_node.endpoints)))
