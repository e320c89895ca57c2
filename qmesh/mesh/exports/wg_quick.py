"""This machine's own tunnel as a file for wg-quick. Source: wg-quick(8); wg(8)."""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.mesh.exports.text import head, plain
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.model import NOT_SHOWN, Endpoint, Peer, Secret, Tunnel, Unshown, interface_name


class PeerSection(Unshown, frozen=True, kw_only=True):
    """One peer. endpoint: a name is not looked up: wg does that, once, when the tunnel comes up."""

    name: str
    public_key: str
    preshared_key: str | None
    allowed_ips: tuple[str, ...]
    endpoint: str | None
    keepalive_s: int


class TunnelFile(Unshown, frozen=True, kw_only=True):
    """What the file says of the tunnel. Holds secrets, unless `NOT_SHOWN` stands for each."""

    machine: str
    revision: int
    interface: str
    private_key: str
    listen_port: int
    addresses: tuple[str, ...]
    mtu: int
    peers: tuple[PeerSection, ...]


def tunnel_file(inventory: Inventory, name: str, tunnel: Tunnel, private_key: Secret | None) -> TunnelFile:
    """The tunnel of the machine `name`, its peers by their names too.

    private_key: None for a file to be shown: then `NOT_SHOWN` stands for it and for preshared keys.
    """
    names = {machine.public_key: machine.name for machine in inventory.machines}
    return TunnelFile(
        machine=name,
        revision=inventory.revision,
        interface=tunnel.interface,
        private_key=NOT_SHOWN if private_key is None else private_key.reveal(),
        listen_port=tunnel.listen_port,
        addresses=tunnel.addresses,
        mtu=tunnel.mtu,
        peers=tuple(
            _peer(names[peer.public_key], peer, is_shown=private_key is None) for peer in tunnel.peers
        ),
    )


def endpoint_to_write(endpoints: tuple[Endpoint, ...], seen: Endpoint | None) -> Endpoint | None:
    """Which of a machine's endpoints, best first, is written: where it is now, else the first.

    seen: where it is now, which is not written when it is none of them: that may be NAT's.
    """
    if seen in endpoints:
        return seen
    return endpoints[0] if endpoints else None


def _peer(name: str, peer: Peer, *, is_shown: bool) -> PeerSection:
    key = peer.preshared_key
    return PeerSection(
        name=name,
        public_key=peer.public_key,
        preshared_key=None if key is None else NOT_SHOWN if is_shown else key.reveal(),
        allowed_ips=peer.allowed_ips,
        endpoint=None if peer.endpoint is None else str(peer.endpoint),
        keepalive_s=peer.keepalive_s,
    )


def render(file: TunnelFile) -> str:
    """The file's text. Raises BadInput for a value that would not stand on its line alone."""
    top = head(
        "wg-quick",
        file.machine,
        file.revision,
        f"wg-quick names the interface after its file: that has to be {interface_name(file.interface)}.conf.",
        "This is the tunnel alone. The guard, without which worker ports are open: `qmesh export nft`.",
    )
    sections = (_lines(_interface(file)), *(_lines(_section(peer)) for peer in file.peers))
    return top + "\n".join(sections)


def _lines(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _interface(file: TunnelFile) -> Iterator[str]:
    yield "[Interface]"
    yield f"PrivateKey = {_key(file.private_key)}"
    yield f"ListenPort = {file.listen_port}"
    yield f"Address = {_list(file.addresses)}"
    yield f"MTU = {file.mtu}"
    # The address brings the one route that there is to be, to the tunnel network.
    yield "Table = off"


def _section(peer: PeerSection) -> Iterator[str]:
    yield "[Peer]"
    yield f"# {plain(peer.name)}"
    yield f"PublicKey = {plain(peer.public_key)}"
    if peer.preshared_key is not None:
        yield f"PresharedKey = {_key(peer.preshared_key)}"
    yield f"AllowedIPs = {_list(peer.allowed_ips)}"
    if peer.endpoint is not None:
        yield f"Endpoint = {plain(peer.endpoint)}"
    if peer.keepalive_s:
        yield f"PersistentKeepalive = {peer.keepalive_s}"


def _key(key: str) -> str:
    return key if key == NOT_SHOWN else plain(key)


def _list(values: tuple[str, ...]) -> str:
    return ", ".join(map(plain, values))
