"""The one place where a step meets the machine: observe it, or take a step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import JOIN_ANEW, RESTORE, KernelRefused, StateUnreadable
from qmesh.host import files, wireguard
from qmesh.host.firewall import held_table, holder_client, nftables
from qmesh.host.network import links, ports
from qmesh.host.network.kernel_routes.tunnel import (
    add_tunnel_route,
    list_tunnel_routes,
    remove_routes_of_address,
    remove_tunnel_route,
    wait_for_local_routes,
)
from qmesh.host.network.sockets import tcp_connections
from qmesh.host.state.directory import State
from qmesh.mesh.guard.parse import build_observed_guard
from qmesh.mesh.guard.script_text import render_unload_script
from qmesh.mesh.guard.scripts import render_change_script, render_held_script, render_load_script
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.plan.steps import (
    AddAddress,
    AddRoute,
    CreateTunnel,
    DeleteTunnel,
    LoadGuard,
    ReleaseTunnel,
    RemoveAddress,
    RemovePeer,
    RemoveRoute,
    ReservePorts,
    SetKey,
    SetListenPort,
    SetMtu,
    SetPeer,
    SetUp,
    Step,
    UnloadGuard,
)
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.state import AlteredGuard, Counters, Guard, NodeState, Peer, Tunnel, TunnelRoute
from qmesh.mesh.values import Secret

_FIRST_UNPRIVILEGED: Final = 1024
"""The first port at which a user may listen. Source: ip(7)."""


class Outline(msgspec.Struct, frozen=True):
    """A machine without its peers.

    node_state: one that names no tunnel. link, routes: the tunnel's interface, and its routes.
    """

    node_state: NodeState
    link: links.Link | None
    routes: tuple[TunnelRoute, ...] = ()


class Linux:
    """This machine, as far as qmesh manages it.

    private_keys: those that a `SetKey` step may name by their public keys.
    refusal: why the ports could not be reserved, which stops no other step: closed they are all the same.
    """

    def __init__(self, state: State, interface: str, private_keys: Iterable[Secret]) -> None:
        self._state = state
        self._interface = interface
        self._keys = {derive_public_key(key): key for key in private_keys}
        self.refusal: KernelRefused | None = None
        self.counters: Mapping[str, Counters] = {}
        """What each peer had been doing, by public key, when the tunnel was observed last."""

    @cached_property
    def backend(self) -> wireguard.Backend:
        """What does WireGuard here: the kernel, or a process. Raises as `wireguard.find_backend`."""
        return wireguard.find_backend(self._interface)

    @property
    def directory(self) -> Path:
        """Where its state is."""
        return self._state.directory

    def has_key(self, public_key: str | None) -> bool:
        """Whether a `SetKey` step may name this key."""
        return public_key in self._keys

    def observe(self) -> NodeState:
        """The machine as it is. Raises MachineRefused where it could not look."""
        return self.observe_with_counters()[0]

    def observe_with_counters(
        self, outline: Outline | None = None
    ) -> tuple[NodeState, Mapping[str, Counters]]:
        """The machine as it is, and what each peer has been doing, by public key. Raises alike.

        outline: as it was told a moment ago; None looks at that too.
        """
        outline = outline or self.observe_outline()
        link, guarded = outline.link, outline.node_state
        if link is None:
            self.counters = {}
            return guarded, {}
        device = self.backend.read(self._interface)
        self.counters = device.counters
        tunnel = Tunnel(
            interface=link.name,
            kind=self.backend.kind,
            public_key=device.public_key,
            listen_port=device.listen_port,
            addresses=link.addresses,
            mtu=link.mtu,
            up=link.up,
            peers=device.peers,
            routes=outline.routes,
            master=link.master,
        )
        return msgspec.structs.replace(guarded, tunnel=tunnel), device.counters

    def observe_guard(self) -> NodeState:
        """The machine as it is, without a look at its tunnel: it names none. Raises as `observe` does."""
        return NodeState(
            guard=self._read_guard(), tunnel=None, reserved_ports=ports.list_own_reserved_ports(self._state)
        )

    def list_listened_ports(self, beyond: Iterable[int]) -> frozenset[int]:
        """The ports beyond these that qmesh closed last, and that somebody listens on now."""
        closed = frozenset(self._state.list_closed_ports()).difference(beyond)
        return closed.intersection(port for _, port in ports.list_listeners()) if closed else closed

    def list_node_ports(self) -> frozenset[int]:
        """The ports that the node's own file opens to everyone, and that may be closed on its word.

        The file may be a user's. Root's services are none of his: nothing below 1024 is closed for him, and
        no port that another user's socket has, such as an SSH server's, or a VPN's over UDP.
        """
        said = self._state.read_node_ports()
        if said is None:
            return frozenset()
        if said.owner == 0:
            return frozenset(said.ports)
        unprivileged = frozenset(port for port in said.ports if port >= _FIRST_UNPRIVILEGED)
        return unprivileged - ports.list_ports_of_others(unprivileged, said.owner)

    def observe_outline(self) -> Outline:
        """What can be seen of the machine at a cost that does not grow with its peers."""
        guarded, link = self.observe_guard(), links.read(self._interface)
        return Outline(guarded, link, () if link is None else list_tunnel_routes(link))

    def _read_guard(self) -> Guard | AlteredGuard | None:
        return build_observed_guard(
            nftables.read_table(TABLE),
            held_table.read_held_table(self._state.directory),
            self._read_boot_guard(),
        )

    def _read_boot_guard(self) -> str | None:
        octets = files.read(self._state.guard_file)
        return None if octets is None else octets.decode("utf-8", "replace")

    def remove_partial_guard(self) -> None:
        """Remove what there is of a guard whose loading was cut off, files included."""
        rests = (self._state.guard_file, self._state.held_file)
        if any(files.read_mode(path) is not None for path in rests):
            unload_guard(self._state)

    def apply(self, *steps: Step) -> None:
        """Take steps, in order. Raises MachineRefused at the first that is refused, which was not taken.

        That ports are not reserved is kept in `refusal` instead.

        Peers that follow one another go to WireGuard together; where that is refused, some may be set.
        The connections of who is no peer at an address any more are cut, but not where another peer has that:
        that is the same machine, with another key.
        """
        with contextlib.ExitStack() as begun:
            for _, together in groupby(steps, key=_batch_key):
                first, *alike = together
                if isinstance(first, LoadGuard):
                    self._close_ports(first)
                    # The processes of the tunnel and of the second table take their time side by side.
                    for each in steps:
                        if isinstance(each, CreateTunnel):
                            begun.enter_context(self.backend.begin_creation(each.subject))
                    holder_client.hold_saved_guard(self._state)
                else:
                    self._apply(first, *alike)
        gone = _list_networks(
            step.old for step in steps if isinstance(step, RemovePeer | SetPeer) and step.old is not None
        )
        there = _list_networks(step.new for step in steps if isinstance(step, SetPeer))
        if gone - there:
            tcp_connections.close_connections_from({network.partition("/")[0] for network in gone - there})

    def _close_ports(self, step: LoadGuard) -> None:
        """Load the first table, and write both."""
        # The files of the next boot first: should the power go in between, closed is what comes up.
        files.replace_together(
            {
                self._state.guard_file: render_load_script(step.new).encode(),
                self._state.held_file: render_held_script(step.new).encode(),
            }
        )
        _change_table(step.old, step.new)
        tcp_connections.close_disallowed_connections(step.new)

    def _apply(self, step: Step, *alike: Step) -> None:
        match step:
            case UnloadGuard():
                unload_guard(self._state)
            case ReservePorts(new=wanted):
                try:
                    ports.reserve_ports(self._state, wanted)
                    self.refusal = None
                except KernelRefused as error:
                    self.refusal = error
            case _:
                self._apply_to_tunnel(step, *alike)

    def _apply_to_tunnel(self, step: Step, *alike: Step) -> None:
        match step:
            case CreateTunnel(subject=interface):
                self.backend.create(interface)
            case DeleteTunnel(old=tunnel):
                wireguard.find_backend(tunnel.interface).delete(tunnel.interface)
            case SetPeer(subject=interface, new=peer):
                peers = [peer, *(other.new for other in alike if isinstance(other, SetPeer))]
                self.backend.set_peers(interface, peers)
            case RemovePeer(subject=interface, old=peer):
                peers = [peer, *(other.old for other in alike if isinstance(other, RemovePeer))]
                self.backend.remove_peers(interface, [peer.public_key for peer in peers])
            case SetKey(subject=interface, new=public_key):
                self.backend.set_key(interface, self.private_key(public_key))
            case SetListenPort(subject=interface, new=port):
                self.backend.set_listen_port(interface, port)
            case _:
                _apply_to_link(step)

    def private_key(self, public_key: str | None) -> Secret:
        """The private key of this public one. Raises StateUnreadable when it was not given."""
        if public_key not in self._keys:
            raise StateUnreadable(
                f"the private key in {self._state.keys.private_file} is not the one that the mesh knows",
                hint=f"on a member: {JOIN_ANEW}; on a control node: {RESTORE}",
            )
        return self._keys[public_key]


def _change_table(old: Guard | AlteredGuard | None, new: Guard) -> None:
    try:
        nftables.run(render_change_script(old, new))
    except KernelRefused:  # it is no longer `old`: the keeper has loaded the file already
        nftables.run(render_load_script(new))


def _list_networks(peers: Iterable[Peer]) -> set[str]:
    return {network for peer in peers for network in peer.allowed_ips}


def _batch_key(step: Step) -> tuple[type[Step], str, int]:
    """Equal for steps that can be taken together."""
    return type(step), step.subject, 0 if isinstance(step, SetPeer | RemovePeer) else id(step)


def _apply_to_link(step: Step) -> None:
    match step:
        case SetMtu(subject=interface, new=octets):
            links.set_mtu(interface, octets)
        case SetUp(subject=interface, new=up):
            links.set_link_state(interface, up=up)
            wait_for_local_routes(interface)
        case AddAddress(subject=interface, new=address):
            links.add_address(interface, address)
            wait_for_local_routes(interface)
        case RemoveAddress(subject=interface, old=address):
            link = links.read(interface)
            links.remove_address(interface, address)
            if link is not None:
                remove_routes_of_address(link, address)
        case ReleaseTunnel(subject=interface):
            links.release_from_master(interface)
            wait_for_local_routes(interface)
        case AddRoute(subject=interface, new=route):
            add_tunnel_route(interface, route)
        case RemoveRoute(subject=interface, old=route):
            link = links.read(interface)
            if link is not None:
                remove_tunnel_route(link, route)
        case _:
            raise KernelRefused(f"unknown step {step.kind}", hint="please report this as a bug of qmesh")


def unload_guard(state: State) -> None:
    """Remove all that there may be of the guard: both tables and their files; none is fine.

    Its own file first, and the held table's last: the keeper restores a table whose file is there, and a
    state directory without these files takes a loaded guard for another's.
    """
    files.remove(state.guard_file)
    holder_client.release_table(state)
    nftables.run(render_unload_script())
    holder_client.end_holder(state)
