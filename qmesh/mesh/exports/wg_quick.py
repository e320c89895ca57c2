"""This machine's own tunnel as a file for wg-quick. Source: wg-quick(8); wg(8)."""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.mesh.exports.text import render_header, validate_plain
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.state import Peer, Tunnel
from qmesh.mesh.values import NOT_SHOWN, Endpoint, Secret, SecretStruct, validate_interface_name


class PeerSection(SecretStruct, frozen=True, kw_only=True):
    """One peer. endpoint: a name is not looked up: wg does that, once, when the tunnel comes up."""

    name: str
    public_key: str
    preshared_key: str | None
    allowed_ips: tuple[str, ...]
    endpoint: str | None
    keepalive_s: int


class TunnelFile(SecretStruct, frozen=True, kw_only=True):
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
            _build_peer_section(names[peer.public_key], peer, is_shown=private_key is None)
            for peer in tunnel.peers
        ),
    )


def choose_endpoint(endpoints: tuple[Endpoint, ...], seen: Endpoint | None) -> Endpoint | None:
    """Which of a machine's endpoints, best first, is written: where it is now, else the first.

    seen: where it is now, which is not written when it is none of them: that may be NAT's.
    """
    if seen in endpoints:
        return seen
    return endpoints[0] if endpoints else None


def _build_peer_section(name: str, peer: Peer, *, is_shown: bool) -> PeerSection:
    key = peer.preshared_key
    return PeerSection(
        name=name,
        public_key=peer.public_key,
        preshared_key=None if key is None else NOT_SHOWN if is_shown else key.reveal(),
        allowed_ips=peer.allowed_ips,
        endpoint=None if peer.endpoint is None else str(peer.endpoint),
        keepalive_s=peer.keepalive_s,
    )


def render_tunnel_file(file: TunnelFile) -> str:
    """The file's text. Raises BadInput for a value that would not stand on its line alone."""
    top = render_header(
        "wg-quick",
        file.machine,
        file.revision,
        "wg-quick names the interface after its file: name this file"
        f" {validate_interface_name(file.interface)}.conf.",
        "This is only the tunnel. Without the guard, the worker ports are open: `qmesh export nft`.",
    )
    sections = (
        _join_lines(_render_interface(file)),
        *(_join_lines(_render_peer(peer)) for peer in file.peers),
    )
    return top + "\n".join(sections)


def _join_lines(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _render_interface(file: TunnelFile) -> Iterator[str]:
    yield "[Interface]"
    yield f"PrivateKey = {_format_key(file.private_key)}"
    yield f"ListenPort = {file.listen_port}"
    yield f"Address = {_format_list(file.addresses)}"
    yield f"MTU = {file.mtu}"
    # The address brings the only route that is needed, to the tunnel network.
    yield "Table = off"


def _render_peer(peer: PeerSection) -> Iterator[str]:
    yield "[Peer]"
    yield f"# {validate_plain(peer.name)}"
    yield f"PublicKey = {validate_plain(peer.public_key)}"
    if peer.preshared_key is not None:
        yield f"PresharedKey = {_format_key(peer.preshared_key)}"
    yield f"AllowedIPs = {_format_list(peer.allowed_ips)}"
    if peer.endpoint is not None:
        yield f"Endpoint = {validate_plain(peer.endpoint)}"
    if peer.keepalive_s:
        yield f"PersistentKeepalive = {peer.keepalive_s}"


def _format_key(key: str) -> str:
    return key if key == NOT_SHOWN else validate_plain(key)


def _format_list(values: tuple[str, ...]) -> str:
    return ", ".join(map(validate_plain, values))
