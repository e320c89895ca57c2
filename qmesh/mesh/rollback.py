"""A change that is undone unless it is confirmed: what was before, until when, and what of it is due.

Times are of the clock that counts from the machine's start and goes on while it sleeps
(CLOCK_BOOTTIME): a wall clock that is set means nothing to a deadline.
"""

from __future__ import annotations

from typing import Final

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.state import NodeState, Peer, Tunnel, TunnelRoute
from qmesh.mesh.values import (
    Port,
    SecretStruct,
    normalize_ip_address,
    normalize_ip_network,
    validate_interface_address,
    validate_interface_name,
    validate_wireguard_key,
)

LEAST_S: Final = 10
MOST_S: Final = 3600
"""Seconds that somebody may take to confirm."""


class BootTimestamp(msgspec.Struct, frozen=True):
    """A point in time of one machine. boot: which of its starts; at_s: seconds since that."""

    boot: str
    at_s: float


class GuardSnapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The guard as it was, as text, so that also one comes back that this version did not make.

    script: nftables commands that put the first table in place of what is there; None: there was no guard.
    boot_file, held_file: what the next boot and the holder would load; None where there was no such file.
    """

    script: str | None
    boot_file: str | None
    held_file: str | None


class MachineSnapshot(SecretStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine before a change: all that qmesh manages, and what it remembered of `down`."""

    guard: GuardSnapshot
    tunnel: Tunnel | None
    reserved_ports: tuple[Port, ...]
    up: bool
    guarded: bool

    def __post_init__(self) -> None:
        if self.tunnel is not None:
            _refuse_invalid_tunnel(self.tunnel)


def _refuse_invalid_tunnel(tunnel: Tunnel) -> None:
    """Raise BadInput for a tunnel that no machine can have."""
    validate_interface_name(tunnel.interface)
    for address in tunnel.addresses:
        validate_interface_address(address)
    for route in tunnel.routes or ():
        _refuse_invalid_route(route)
    for octets, most in ((tunnel.listen_port, 0xFFFF), (tunnel.mtu, 0x7FFF_FFFF)):
        if not 0 <= octets <= most:
            raise BadInput(f"{octets} is not a port or MTU of a tunnel", hint="run `qmesh check`")
    if tunnel.public_key is not None:
        validate_wireguard_key(tunnel.public_key)
    for peer in tunnel.peers:
        _refuse_invalid_peer(peer)


def _refuse_invalid_route(route: TunnelRoute) -> None:
    normalize_ip_network(route.network)
    for address in filter(None, (route.source, route.gateway)):
        normalize_ip_address(address)


def _refuse_invalid_peer(peer: Peer) -> None:
    validate_wireguard_key(peer.public_key)
    for network in peer.allowed_ips:
        normalize_ip_network(network)
    if peer.endpoint is not None and not peer.endpoint.is_address:
        raise BadInput("a peer's endpoint is not an address", hint="run `qmesh check`")
    if not 0 <= peer.keepalive_s <= 0xFFFF:
        raise BadInput(f"{peer.keepalive_s} s is not a keepalive of a peer", hint="run `qmesh check`")


class ChangeProcess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The process that makes a change. started: as proc(5) has it, so that no other is taken for it."""

    process: int
    started: int


class RollbackRecord(SecretStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That a change waits to be confirmed, or was undone.

    before: the state to return to.
    boot, deadline_s: until when; after another start of the machine it is over in any case.
    by: the process that makes the change.
    undone: the machine was rolled back, and stays so until the next `apply`.
    """

    before: MachineSnapshot
    boot: str
    deadline_s: float
    by: ChangeProcess
    undone: bool = False

    def remaining_s(self, now: BootTimestamp) -> float:
        """Seconds left to confirm; 0 when it is over."""
        return max(0.0, self.deadline_s - now.at_s) if now.boot == self.boot else 0.0

    def is_due(self, now: BootTimestamp) -> bool:
        """Whether the machine should be rolled back now."""
        return not self.undone and self.remaining_s(now) <= 0

    def can_confirm(self, now: BootTimestamp) -> bool:
        """Whether it can still be confirmed."""
        return not self.undone and self.remaining_s(now) > 0


def validate_confirm_timeout(seconds: int) -> int:
    """Return `seconds` when it is a time to confirm in. Raises BadInput."""
    if LEAST_S <= seconds <= MOST_S:
        return seconds
    raise BadInput(
        f"{seconds} seconds is not a time to confirm in",
        hint=f"use {LEAST_S} to {MOST_S} seconds; 120 gives time for a second login",
    )


def build_rollback_state(before: MachineSnapshot, observed: NodeState) -> NodeState:
    """What a machine that was rolled back stays at: its tunnel and ports as before, the guard as it is.

    A peer that is there may be anywhere by now; one that is not is reached where it was.
    """
    return NodeState(
        guard=observed.guard,
        tunnel=None if before.tunnel is None else _keep_current_endpoints(before.tunnel, observed.tunnel),
        reserved_ports=before.reserved_ports,
    )


def _keep_current_endpoints(before: Tunnel, seen: Tunnel | None) -> Tunnel:
    there = {peer.public_key for peer in (() if seen is None else seen.peers) if peer.endpoint is not None}
    peers = (
        msgspec.structs.replace(peer, endpoint=None) if peer.public_key in there else peer
        for peer in before.peers
    )
    return msgspec.structs.replace(before, peers=tuple(peers))
