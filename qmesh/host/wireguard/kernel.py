"""The kernel's WireGuard, by generic netlink. Source: linux/wireguard.h; checked on Linux 6.1."""

from __future__ import annotations

import base64
import errno
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

from pyroute2.netlink import CTRL_CMD_GETFAMILY, GENL_ID_CTRL, NLM_F_REQUEST, ctrlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket
from pyroute2.netlink.generic.wireguard import WG_GENL_NAME, WireGuard

from qmesh.errors import KernelRefused
from qmesh.host import links
from qmesh.host.netlink import refusals, whole_dump
from qmesh.host.wireguard.device import (
    Counters,
    Device,
    allowed_ip,
    endpoint_of,
    observed,
    port_hint,
    refuse_taken_port,
    with_known_endpoint,
)
from qmesh.mesh.model import Endpoint, InterfaceKind, Peer, Secret

ALLOWED_IPS_A_MESSAGE: Final = 500
"""A netlink attribute holds 64 KiB, some 1,600 allowed IPs; those of a peer are sent in parts."""

_UNSET = base64.b64encode(bytes(32)).decode()

# At DEBUG it writes whole messages, private keys included.
logging.getLogger("pyroute2.netlink.core").setLevel(logging.INFO)


def available() -> bool:
    """Whether the kernel has WireGuard; asking makes it load the module. Raises MachineRefused."""
    request = ctrlmsg()
    request["cmd"], request["version"] = CTRL_CMD_GETFAMILY, 1
    request["attrs"].append(["CTRL_ATTR_FAMILY_NAME", WG_GENL_NAME])
    # pyroute2.WireGuard asks so too, but complains to the root logger where there is none.
    with refusals("ask the kernel for WireGuard"), GenericNetlinkSocket() as netlink:
        netlink.register_policy(GENL_ID_CTRL, ctrlmsg)
        try:
            return bool(tuple(netlink.nlm_request(request, msg_type=GENL_ID_CTRL, msg_flags=NLM_F_REQUEST)))
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return False
            raise


class KernelWireGuard:
    """WireGuard by the kernel's own interfaces."""

    kind: InterfaceKind = "wireguard"

    def create(self, interface: str) -> None:
        links.create(interface, self.kind)

    def delete(self, interface: str) -> None:
        links.delete(interface)

    def read(self, interface: str) -> Device:
        with _wireguard(f"read the WireGuard configuration of {interface}") as netlink:
            messages = whole_dump(lambda: netlink.info(interface))
        if not messages:
            raise KernelRefused(f"the kernel told nothing of {interface}", hint="try again")
        return _device(messages)

    def set_key(self, interface: str, private_key: Secret) -> None:
        with _wireguard(f"set the private key of {interface}") as netlink:
            netlink.set(interface, private_key=private_key.reveal())

    def set_listen_port(self, interface: str, port: int) -> None:
        if port not in {0, self.read(interface).listen_port}:
            refuse_taken_port(interface, port)
        with _wireguard(f"let {interface} listen on UDP port {port}", port_hint(port)) as netlink:
            netlink.set(interface, listen_port=port)

    def set_peers(self, interface: str, peers: Sequence[Peer]) -> None:
        self._send(interface, (request for peer in peers for request in _peer_requests(peer)))

    def remove_peers(self, interface: str, public_keys: Sequence[str]) -> None:
        self._send(interface, map(_removal, public_keys))

    def forget_session(self, interface: str, peer: Peer) -> None:
        whole = with_known_endpoint(peer, self.read(interface))
        self._send(interface, [_removal(peer.public_key), *_peer_requests(whole)])

    def _send(self, interface: str, requests: Iterable[dict[str, Any]]) -> None:
        with _wireguard(f"configure the peers of {interface}") as netlink:
            for request in requests:
                netlink.set(interface, peer=request)


@contextmanager
def _wireguard(doing: str, hints: Mapping[int, str] = MappingProxyType({})) -> Iterator[Any]:
    with refusals(doing, hints), WireGuard() as netlink:
        yield netlink


def _peer_requests(peer: Peer) -> Iterator[dict[str, Any]]:
    """What `WireGuard.set` is told of a peer: what is absent there would stay as it was."""
    request: dict[str, Any] = {
        "public_key": peer.public_key,
        "preshared_key": peer.preshared_key.reveal() if peer.preshared_key else _UNSET,
        "persistent_keepalive": peer.keepalive_s,
        "replace_allowed_ips": True,
    }
    if peer.endpoint is not None:
        assert peer.endpoint.is_address, "a peer's endpoint is resolved before it is configured"
        request |= {"endpoint_addr": peer.endpoint.host, "endpoint_port": peer.endpoint.port}
    size = ALLOWED_IPS_A_MESSAGE
    yield request | {"allowed_ips": peer.allowed_ips[:size]}
    for start in range(size, len(peer.allowed_ips), size):
        part = peer.allowed_ips[start : start + size]
        yield {"public_key": peer.public_key, "update_only": True, "allowed_ips": part}


def _removal(public_key: str) -> dict[str, Any]:
    return {"public_key": public_key, "remove": True}


def _device(messages: Sequence[Any]) -> Device:
    """A dump's messages put together: each names the device, and has some of its peers.

    A peer of many allowed IPs goes on in the next message, which repeats only its public key.
    """
    parts: dict[str, list[Any]] = {}
    for message in messages:
        for part in message.get_attr("WGDEVICE_A_PEERS") or ():
            parts.setdefault(_key(part, "WGPEER_A_PUBLIC_KEY"), []).append(part)
    device = messages[0]
    public_key = _key(device, "WGDEVICE_A_PUBLIC_KEY")
    return observed(
        public_key=public_key or None,
        listen_port=device.get_attr("WGDEVICE_A_LISTEN_PORT") or 0,
        peers=(_peer(key, of_peer) for key, of_peer in parts.items()),
    )


def _key(message: Any, attribute: str) -> str:
    found = message.get_attr(attribute)
    return found.decode() if found else ""


def _peer(public_key: str, parts: Sequence[Any]) -> tuple[Peer, Counters]:
    whole = parts[0]
    preshared_key = _key(whole, "WGPEER_A_PRESHARED_KEY") or _UNSET
    handshake = whole.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")
    peer = Peer(
        public_key=public_key,
        allowed_ips=tuple(sorted({network for part in parts for network in _allowed_ips(part)})),
        endpoint=_endpoint(whole.get_attr("WGPEER_A_ENDPOINT")),
        preshared_key=None if preshared_key == _UNSET else Secret(preshared_key),
        keepalive_s=whole.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
    )
    counters = Counters(
        last_handshake_s=(handshake["tv_sec"] if handshake else 0) or None,
        rx_bytes=whole.get_attr("WGPEER_A_RX_BYTES") or 0,
        tx_bytes=whole.get_attr("WGPEER_A_TX_BYTES") or 0,
        endpoint=peer.endpoint,
    )
    return peer, counters


def _allowed_ips(part: Any) -> Iterator[str]:
    for network in part.get_attr("WGPEER_A_ALLOWEDIPS") or ():
        yield allowed_ip(network["addr"])


def _endpoint(found: Any) -> Endpoint | None:
    return endpoint_of(found["addr"], found["port"]) if found and found["family"] else None
