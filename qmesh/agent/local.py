"""This machine and its mesh, as they are remembered; and what the machine should therefore be."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec

from qmesh.errors import JOIN_ANEW, BadInput, EnrolmentRefused, NeedsRoot, Removed, StateUnreadable
from qmesh.host import files
from qmesh.host.firewall import nftables
from qmesh.host.linux import Linux
from qmesh.host.network import dns
from qmesh.host.registry import Registry, RegistryImage
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.host.wireguard import Counters
from qmesh.mesh.changes import with_key
from qmesh.mesh.desired import Place, desired
from qmesh.mesh.guard import TABLE
from qmesh.mesh.inventory import Inventory, ports_of
from qmesh.mesh.model import Cores, Endpoint, InterfaceKind, Machine, NodeState, Secret
from qmesh.mesh.protocol.enrolment import public_key_of
from qmesh.mesh.protocol.handover import preshared_key_with
from qmesh.mesh.protocol.membership import believed, read_stored

FRESH_S = 180
"""Seconds that a handshake counts as fresh. Source: WireGuard's REJECT_AFTER_TIME."""


class Here(msgspec.Struct, frozen=True):
    """All that this machine knows: its settings, the mesh, the preshared keys by public key.

    is_succeeded: whether the mesh has another control node, and this one serves until that one answers it.
    """

    settings: Settings
    inventory: Inventory
    preshared: Mapping[str, Secret]
    is_succeeded: bool = False

    @property
    def machine(self) -> Machine:
        """This machine in the mesh."""
        return self.inventory.machine(self.settings.name)


class Standing(msgspec.Struct, frozen=True):
    """Where a machine stands in its mesh: what `init` and `join` answer. `ports` in core order.

    cores: None while it is paused.
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


def standing(here: Here) -> Standing:
    """The machine's standing, from what it remembers."""
    name = here.settings.name
    return Standing(
        mesh=here.inventory.mesh,
        name=name,
        address=here.machine.address,
        network=here.inventory.network,
        public_key=here.machine.public_key,
        interface=here.settings.interface,
        listen_port=here.settings.listen_port,
        node=here.inventory.node,
        cores=here.inventory.cores.get(name),
        ports=ports_of(here.inventory, name),
    )


def require_root(what: str) -> None:
    """Raise NeedsRoot unless this process may change the machine."""
    if os.geteuid() != 0:
        raise NeedsRoot(f"`{what}` needs root; nothing was changed", hint=f"sudo {what}")


def require_control(here: Here, what: str) -> None:
    """Raise BadInput unless this machine is the control node."""
    if not here.settings.control:
        raise BadInput(
            f"{here.settings.name} is not the control node",
            hint=f"run `{what}` on {here.inventory.control}",
        )


def refuse_removed(here: Here) -> None:
    """Raise Removed where the mesh has this machine no more."""
    if here.settings.removed:
        raise Removed


def refuse_foreign_guard(state: State) -> None:
    """Raise BadInput where a guard is loaded that this state knows nothing of: another one's, or a rest."""
    own = (state.guard_file, state.held_file)  # of one that is being taken away the second is left
    if nftables.read_table(TABLE) is not None and all(files.mode_of(path) is None for path in own):
        raise BadInput(
            f"a guard is loaded on this machine already, and {state.directory} knows nothing of it",
            hint="is there another --state? if not, `pkill qmesh-hold; nft delete table inet qmesh` opens"
            " what it still closes",
        )


def refuse_while_restoring(state: State) -> None:
    """Raise StateUnreadable where a restore was cut off: the keys there may be another machine's."""
    restoring = state.restoring()
    if restoring is not None and not restoring.done and state.settings_or_none() is None:
        raise StateUnreadable(
            "a `qmesh restore` was cut off on this machine",
            hint="run it again; or give it up with `qmesh uninstall --delete-state`",
        )


def refuse_while_asking(state: State) -> None:
    """Raise BadInput where a request by a file waits for its answer: what that needs would be lost."""
    if files.mode_of(state.asked_file) is not None:
        raise BadInput(
            "this machine waits for the answer to its request to join a mesh",
            hint="`qmesh join --answer FILE`; or give that up with `qmesh uninstall --delete-state`",
        )


def load(state: State) -> Here:
    """What this machine remembers. Raises BadInput when it is in no mesh, StateUnreadable when damaged."""
    settings = state.settings()
    if settings.control:
        with Registry(state.registry_file) as registry:
            mesh, preshared = registry.inventory(), registry.preshared_keys()
        return Here(settings, _served(settings, mesh), preshared, is_succeeded=mesh.control != settings.name)
    inventory = held_membership(state, settings)
    preshared = _preshared_keys(state, settings, inventory)
    return Here(settings, _with_own_key(state, settings, inventory), preshared)


def _served(settings: Settings, inventory: Inventory) -> Inventory:
    """The mesh, and until its new control node answers also as this one: by it the others know of that."""
    if inventory.control == settings.name:
        return inventory
    return msgspec.structs.replace(inventory, control=settings.name, successor=inventory.control)


def _preshared_keys(state: State, settings: Settings, inventory: Inventory) -> dict[str, Secret]:
    """A worker machine's: with the control node, and with the next one; that one's own with all."""
    keys = {}
    if inventory.successor == settings.name and (estate := state.estate()) is not None:
        with RegistryImage(estate.registry) as image:
            keys = image.preshared_keys()
    coming = state.next_shared()
    if coming is not None:
        keys[coming.public_key] = coming.preshared_key
    control_key = inventory.control_node.public_key
    if coming is None or coming.public_key != control_key:
        shared = state.preshared_key()
        if shared is None:
            raise _lost(state.preshared_key_file, "is missing")
        keys[control_key] = shared
    if inventory.successor not in {None, settings.name}:
        # Where the membership came by an invitation, nothing was prepared for it.
        successor_key = inventory.machine(inventory.successor or "").public_key
        keys.setdefault(successor_key, preshared_key_with(successor_key, keys[control_key]))
    return keys


def _with_own_key(state: State, settings: Settings, inventory: Inventory) -> Inventory:
    """The mesh with the key that this machine has changed to, where the membership lacks it still."""
    rotation = state.rotation()
    own = None if rotation is None else state.private_key()
    if rotation is None or own is None or public_key_of(own) != rotation.new:
        return inventory
    # It is the mesh of that revision still: the newer one is to be asked for.
    changed = with_key(inventory, settings.name, rotation.new)
    return msgspec.structs.replace(changed, revision=inventory.revision)


def held_membership(state: State, settings: Settings) -> Inventory:
    """The membership that a worker machine holds; believed anew each time it is read (E6)."""
    octets = files.read(state.membership_file)
    if octets is None:
        raise _lost(state.membership_file, "is missing")
    try:
        return believed(read_stored(octets), settings.verification_key, mesh=settings.mesh)
    except EnrolmentRefused as error:
        raise _lost(state.membership_file, f"is not to be believed: {error.message}") from None


def _lost(path: Path, why: str) -> StateUnreadable:
    return StateUnreadable(
        f"{path} {why}", hint=f"`qmesh join` again with the same invitation; or {JOIN_ANEW}"
    )


def linux_for(state: State, here: Here) -> Linux:
    """This machine, ready to be observed and changed. Raises MachineRefused."""
    key = state.private_key()
    return Linux(state, here.settings.interface, [] if key is None else [key])


def risen(here: Here) -> Here:
    """The machine as `qmesh apply` wants it: tunnel up and guard in place, whatever `down` said."""
    return msgspec.structs.replace(
        here, settings=msgspec.structs.replace(here.settings, up=True, guarded=True)
    )


def rise(state: State, here: Here, *, keep_undoing: bool = False) -> Here:
    """End what `down` or `--no-apply` said, and remember it; so ends that the machine was put back.

    keep_undoing: this is a change that is undone unless it is confirmed.
    Raises Removed where the mesh has it no more.
    """
    refuse_removed(here)
    risen_here = risen(here)
    if risen_here.settings != here.settings:
        state.save_settings(risen_here.settings)
    if not keep_undoing:
        state.save_undoing(None)
    return risen_here


def desired_here(
    here: Here, kind: InterfaceKind, endpoints: Mapping[str, Endpoint], *, mtu: int
) -> NodeState:
    """What this machine should be.

    endpoints: by machine name, as `Place` has them; mtu: the tunnel's.
    """
    settings = here.settings
    place = Place(
        interface=settings.interface,
        kind=kind,
        listen_port=settings.listen_port,
        endpoints=endpoints,
        mtu=mtu,
        up=settings.up,
    )
    wanted = desired(here.inventory, settings.name, place, here.preshared)
    if settings.guarded:
        return wanted
    return msgspec.structs.replace(wanted, guard=None, reserved_ports=())


def endpoints_wanted(
    here: Here, observed: NodeState, stale: AbstractSet[str] = frozenset()
) -> dict[str, Endpoint]:
    """Where each other machine is to be reached: where it is now, if that is one of its endpoints.

    stale: public keys of those that are not heard. Only their names are looked up again: DNS that is
    slow, down or changing must not disturb a tunnel that works. It takes two seconds or so at most.
    """
    peers = observed.tunnel.peers if observed.tunnel else ()
    seen = {peer.public_key: peer.endpoint for peer in peers}
    wanted = {}
    until = time.monotonic() + dns.WAIT_S
    for machine, endpoints in known_endpoints(here):
        key, wait_s = machine.public_key, until - time.monotonic()
        endpoint = endpoint_wanted(endpoints, seen.get(key), is_stale=key in stale, wait_s=wait_s)
        if endpoint is not None:
            wanted[machine.name] = endpoint
    return wanted


def endpoint_wanted(
    endpoints: tuple[Endpoint, ...],
    seen: Endpoint | None,
    *,
    is_stale: bool = False,
    wait_s: float = dns.WAIT_S,
) -> Endpoint | None:
    """Where a machine with these endpoints is to be reached, best first; None leaves it open.

    seen: where it is now. Names are looked up while it is nowhere, or is not heard there.
    wait_s: seconds to wait for each; what is found later is there at the next look.
    """
    if seen in endpoints:
        return seen
    if seen is not None and not is_stale and not all(endpoint.is_address for endpoint in endpoints):
        return None
    found = (address for endpoint in endpoints for address in dns.addresses_lately(endpoint, wait_s=wait_s))
    if seen is None:
        return next(found, None)
    there = tuple(found)
    return seen if seen in there else next(iter(there), None)


def known_endpoints(here: Here) -> list[tuple[Machine, tuple[Endpoint, ...]]]:
    """The machines that this one knows how to reach, each with its endpoints, best first."""
    mesh, own = here.inventory, here.settings.name
    others = mesh.machines if here.machine in mesh.hubs else mesh.hubs
    known = [
        (machine, machine.endpoints)
        for machine in others
        if machine.endpoints and machine.name not in {own, mesh.control}
    ]
    return known if here.settings.control else [(mesh.control_node, control_endpoints(here)), *known]


def control_endpoints(here: Here) -> tuple[Endpoint, ...]:
    """Where a worker machine may reach its control node: as it remembers, then as the membership says."""
    return tuple(dict.fromkeys((*here.settings.control_endpoints, *here.inventory.control_node.endpoints)))


def roamed(here: Here, counters: Mapping[str, Counters]) -> dict[str, Endpoint]:
    """Where peers with a fresh handshake are now: WireGuard followed them, and was right to."""
    by_key = {machine.public_key: machine.name for machine in here.inventory.machines}
    old = stale(counters)
    return {
        by_key[key]: count.endpoint
        for key, count in counters.items()
        if key in by_key and count.endpoint is not None and key not in old
    }


def stale(counters: Mapping[str, Counters]) -> frozenset[str]:
    """The public keys of peers without a fresh handshake; none is fresh that is of the future."""
    now = time.time()
    return frozenset(
        key
        for key, count in counters.items()
        if count.last_handshake_s is None or abs(now - count.last_handshake_s) >= FRESH_S
    )
