"""What can be changed on a machine: values with old and new, which are printed, logged and applied."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from qmesh.mesh.state import AlteredGuard, Guard, Peer, Tunnel, TunnelRoute
from qmesh.mesh.values import InterfaceKind


class LoadGuard(msgspec.Struct, frozen=True):
    """Load the guard, and remove what was there before, in one transaction."""

    old: Guard | AlteredGuard | None
    new: Guard
    kind = "load-guard"
    subject = "inet qmesh"


class UnloadGuard(msgspec.Struct, frozen=True):
    """Remove the guard: the worker ports are open to everyone after this."""

    old: Guard | AlteredGuard
    kind = "unload-guard"
    subject = "inet qmesh"


class CreateTunnel(msgspec.Struct, frozen=True):
    """Make the tunnel interface: bare, down."""

    subject: str
    interface_kind: InterfaceKind
    kind = "create-tunnel"


class DeleteTunnel(msgspec.Struct, frozen=True):
    """Remove the tunnel interface with all that is configured on it."""

    old: Tunnel
    kind = "delete-tunnel"

    @property
    def subject(self) -> str:
        """The interface."""
        return self.old.interface


class SetKey(msgspec.Struct, frozen=True):
    """Configure the machine's private key, named here by its public key."""

    subject: str
    old: str | None
    new: str | None
    kind = "set-key"


class SetListenPort(msgspec.Struct, frozen=True):
    """Set WireGuard's UDP listen port."""

    subject: str
    old: int
    new: int
    kind = "set-listen-port"


class RemoveAddress(msgspec.Struct, frozen=True):
    """Take an address off the interface."""

    subject: str
    old: str
    kind = "remove-address"


class AddAddress(msgspec.Struct, frozen=True):
    """Put an address, with its prefix length, on the interface."""

    subject: str
    new: str
    kind = "add-address"


class SetMtu(msgspec.Struct, frozen=True):
    """Set the interface's MTU, in octets."""

    subject: str
    old: int
    new: int
    kind = "set-mtu"


class SetUp(msgspec.Struct, frozen=True):
    """Bring the interface up, or down."""

    subject: str
    new: bool
    kind = "set-up"


class ReleaseTunnel(msgspec.Struct, frozen=True):
    """Take the interface out of another one, such as a VRF: with it go the routes to members."""

    subject: str
    old: str
    kind = "release-tunnel"


class RemoveRoute(msgspec.Struct, frozen=True):
    """Remove a route of the interface that another program made."""

    subject: str
    old: TunnelRoute
    kind = "remove-route"


class AddRoute(msgspec.Struct, frozen=True):
    """Add a route of the interface's own that is missing."""

    subject: str
    new: TunnelRoute
    kind = "add-route"


class RemovePeer(msgspec.Struct, frozen=True):
    """Take a peer out of WireGuard."""

    subject: str
    old: Peer
    kind = "remove-peer"


class SetPeer(msgspec.Struct, frozen=True):
    """Configure a peer whole: allowed IPs are replaced, an absent preshared key is cleared.

    An endpoint of None leaves whatever endpoint the peer has.
    """

    subject: str
    old: Peer | None
    new: Peer
    kind = "set-peer"


class ReservePorts(msgspec.Struct, frozen=True):
    """Keep just these ports out of the ephemeral range, on behalf of qmesh."""

    old: tuple[int, ...]
    new: tuple[int, ...]
    kind = "reserve-ports"
    subject = "net.ipv4.ip_local_reserved_ports"


DeviceStep: TypeAlias = SetKey | SetListenPort | SetMtu
PlaceStep: TypeAlias = RemoveAddress | AddAddress | SetUp | ReleaseTunnel | RemoveRoute | AddRoute
"""What changes where packets go."""
TunnelStep: TypeAlias = CreateTunnel | DeleteTunnel | RemovePeer | SetPeer | DeviceStep | PlaceStep
Step: TypeAlias = LoadGuard | UnloadGuard | ReservePorts | TunnelStep
