"""What both backends share: a WireGuard interface as it is observed, and what a backend can do."""

from __future__ import annotations

import errno
import ipaddress
from binascii import b2a_base64
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from operator import attrgetter
from typing import Final, Protocol

import msgspec

from qmesh.errors import MachineRefused
from qmesh.host.network.netlink import build_kernel_error
from qmesh.host.network.ports import is_udp_port_used
from qmesh.mesh.state import Counters, Peer
from qmesh.mesh.values import Endpoint, InterfaceKind, Secret

REMEMBERED: Final = 1 << 15
"""How many addresses are kept as they were understood: an audit of thousands of peers sees them again."""


class Device(msgspec.Struct, frozen=True):
    """A WireGuard interface as it is.

    public_key: of its private key; None when it has none.
    listen_port: 0 while none was chosen. mark: of the packets that it sends, 0 for none.
    peers: sorted by public key.
    counters: by public key.
    """

    public_key: str | None
    listen_port: int
    peers: tuple[Peer, ...]
    counters: dict[str, Counters]
    mark: int = 0


class Backend(Protocol):
    """Kernel or userspace WireGuard. Every method raises NeedsRoot or KernelRefused."""

    @property
    def kind(self) -> InterfaceKind:
        """What the kernel calls the interfaces of this backend."""

    def begin_creation(self, interface: str) -> AbstractContextManager[None]:
        """Begin in the background what `create` takes time for, and then goes on with.

        What `create` did not go on with leaves nothing when the block ends. It does not raise.
        """

    def create(self, interface: str) -> None:
        """Make the interface: bare, down. Raises KernelRefused when one of that name is there."""

    def delete(self, interface: str) -> None:
        """Delete the interface, and wait until nothing is left; nothing there is fine."""

    def read(self, interface: str) -> Device:
        """The interface as it is. Raises when it is not there, or could not be looked at whole."""

    def set_key(self, interface: str, private_key: Secret) -> None:
        """Configure the private key."""

    def set_listen_port(self, interface: str, port: int) -> None:
        """Set the UDP listen port. Raises KernelRefused when another program has it, up or down."""

    def set_peers(self, interface: str, peers: Sequence[Peer]) -> None:
        """Add peers, or configure them whole; other peers stay.

        Allowed IPs are replaced, and taken from the peers that have them; an absent preshared key
        and a keepalive of 0 are cleared; an endpoint of None leaves the one there is.
        When it raises, some of the peers may be set.
        """

    def remove_peers(self, interface: str, public_keys: Sequence[str]) -> None:
        """Remove peers; one that is not there is fine."""

    def reset_session(self, interface: str, peer: Peer) -> None:
        """Remove a peer and add it again, so that its next packet is a new handshake.

        Where `peer` has no endpoint, it keeps the one that its last packet came from.
        """


def build_device(
    public_key: str | None, listen_port: int, peers: Iterable[tuple[Peer, Counters]], mark: int = 0
) -> Device:
    """A Device, with its peers put in order."""
    found: list[Peer] = []
    counters: dict[str, Counters] = {}
    for peer, counts in peers:
        found.append(peer)
        counters[peer.public_key] = counts
    found.sort(key=attrgetter("public_key"))
    return Device(
        public_key=public_key, listen_port=listen_port, peers=tuple(found), counters=counters, mark=mark
    )


def add_known_endpoint(peer: Peer, device: Device) -> Peer:
    """`peer`, with the endpoint that its last packet came from unless it has one itself."""
    known = device.counters.get(peer.public_key)
    if peer.endpoint is not None or known is None:
        return peer
    return msgspec.structs.replace(peer, endpoint=known.endpoint)


def parse_endpoint(host: str, port: int) -> Endpoint | None:
    """An endpoint as WireGuard reports it; a link-local one loses its scope, and port 0 is none."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return Endpoint(str(address), port) if port else None


@lru_cache(REMEMBERED)
def normalize_allowed_ips(*networks: str) -> tuple[str, ...]:
    """A peer's allowed IPs as WireGuard reports them: canonical, sorted, each once. Raises ValueError."""
    return tuple(sorted({str(ipaddress.ip_network(network, strict=False)) for network in networks}))


def encode_key(octets: bytes) -> str:
    """The text of a WireGuard key. Raises ValueError unless it has 32 octets."""
    if len(octets) != 32:
        raise ValueError("a key of another length")
    return b2a_base64(octets, newline=False).decode()


def port_hint(port: int) -> dict[int, str]:
    """The hint for a listen port that is taken, for `netlink.translate_errors`."""
    return {
        errno.EADDRINUSE: f"another program has UDP port {port}: `ss -lunp sport = :{port}` shows which."
        " Stop it, or use another port. Where no program is shown it is a WireGuard interface: `wg show all"
        " listen-port`, and `ip link delete NAME` where that is this tunnel under another name"
    }


def refuse_taken_port(interface: str, port: int) -> None:
    """Raise KernelRefused, before anything is changed, when another socket has UDP port `port`.

    WireGuard that is down takes any port and fails later, wireguard-go without a word; and one that
    is up reports the new port from then on, although it could not have it.
    """
    if is_udp_port_used(port):
        raise build_port_error(interface, port)


def build_port_error(interface: str, port: int) -> MachineRefused:
    """The refusal of a listen port that another program has."""
    return build_kernel_error(errno.EADDRINUSE, f"let {interface} listen on UDP port {port}", port_hint(port))
