"""The kernel's WireGuard, by generic netlink. Checked on Linux 6.1."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Final

import msgspec

from qmesh.errors import BadInput, KernelRefused
from qmesh.host.network import links
from qmesh.host.network.netlink import open_socket, translate_errors
from qmesh.host.network.netlink_messages import read_whole_dump, send_request
from qmesh.host.wireguard import genetlink_messages
from qmesh.host.wireguard.device import Device, add_known_endpoint, port_hint, refuse_taken_port
from qmesh.mesh.state import Peer
from qmesh.mesh.values import InterfaceKind, Secret

FAMILY: Final = "wireguard"
_GENERIC_PROTOCOL: Final = 16  # NETLINK_GENERIC


def is_available() -> bool:
    """Whether the kernel has WireGuard; asking makes it load the module. Raises MachineRefused."""
    with translate_errors("ask the kernel for WireGuard"), open_socket(_GENERIC_PROTOCOL) as netlink:
        return _find_family(netlink) is not None


def _find_family(netlink: socket.socket) -> int | None:
    """The number of WireGuard's netlink family; None where the kernel has no WireGuard."""
    try:
        (answer,), _ = send_request(netlink, genetlink_messages.build_family_request(FAMILY))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return genetlink_messages.parse_family(answer)


def parse_device(interface: str, dump: Sequence[bytes]) -> Device:
    """The interface that a dump's messages tell of. Raises KernelRefused."""
    try:
        return genetlink_messages.parse_device(dump)
    except (ValueError, BadInput):
        raise KernelRefused(
            f"the kernel's answer about {interface} is not understood",
            hint="please report it, with the output of `uname -r`",
        ) from None


class KernelWireGuard:
    """WireGuard by the kernel's own interfaces."""

    kind: InterfaceKind = "wireguard"

    def begin_creation(self, interface: str) -> AbstractContextManager[None]:  # noqa: ARG002 - takes no time
        return nullcontext()

    def create(self, interface: str) -> None:
        links.create(interface, self.kind)

    def delete(self, interface: str) -> None:
        links.delete(interface)

    def read(self, interface: str) -> Device:
        with _open_session(f"read the WireGuard configuration of {interface}") as kernel:
            dump = read_whole_dump(
                lambda: kernel.dump(genetlink_messages.build_device_request(kernel.family, interface))
            )
        return parse_device(interface, dump)

    def set_key(self, interface: str, private_key: Secret) -> None:
        with _open_session(f"set the private key of {interface}") as kernel:
            kernel.request(
                genetlink_messages.build_private_key_message(kernel.family, interface, private_key)
            )

    def set_listen_port(self, interface: str, port: int) -> None:
        if port not in {0, self.read(interface).listen_port}:
            refuse_taken_port(interface, port)
        with _open_session(f"let {interface} listen on UDP port {port}", port_hint(port)) as kernel:
            kernel.request(genetlink_messages.build_listen_port_message(kernel.family, interface, port))

    def set_peers(self, interface: str, peers: Sequence[Peer]) -> None:
        self._send_peers(
            interface, (block for peer in peers for block in genetlink_messages.peer_blocks(peer))
        )

    def remove_peers(self, interface: str, public_keys: Sequence[str]) -> None:
        self._send_peers(interface, map(genetlink_messages.removal_block, public_keys))

    def reset_session(self, interface: str, peer: Peer) -> None:
        whole = add_known_endpoint(peer, self.read(interface))
        self._send_peers(
            interface,
            [genetlink_messages.removal_block(peer.public_key), *genetlink_messages.peer_blocks(whole)],
        )

    def _send_peers(self, interface: str, blocks: Iterable[bytes]) -> None:
        with _open_session(f"configure the peers of {interface}") as kernel:
            for message in genetlink_messages.build_peer_messages(kernel.family, interface, blocks):
                kernel.request(message)


class _NetlinkSession(msgspec.Struct, frozen=True):
    """An open conversation with the kernel's WireGuard. Its methods raise OSError."""

    netlink: socket.socket
    family: int

    def request(self, message: bytes) -> None:
        """Have something done."""
        send_request(self.netlink, message)

    def dump(self, message: bytes) -> tuple[list[bytes], bool]:
        """What is asked for, message by message, and whether it was changed meanwhile."""
        return send_request(self.netlink, message)


@contextmanager
def _open_session(doing: str, hints: Mapping[int, str] = MappingProxyType({})) -> Iterator[_NetlinkSession]:
    with translate_errors(doing, hints), open_socket(_GENERIC_PROTOCOL) as netlink:
        family = _find_family(netlink)
        if family is None:
            raise KernelRefused(
                f"could not {doing}: the kernel has no WireGuard now",
                hint="run `modprobe wireguard`; if the kernel was upgraded since the last boot, reboot",
            )
        yield _NetlinkSession(netlink, family)
