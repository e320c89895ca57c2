"""Interfaces of this machine and their addresses, by rtnetlink. Source: rtnetlink(7)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from qmesh.errors import KernelRefused
from qmesh.host.network import rtnetlink_messages
from qmesh.host.network.netlink import open_rtnetlink, suppress_errnos
from qmesh.host.network.netlink_messages import read_whole_dump, send_request


class Link(msgspec.Struct, frozen=True):
    """A network interface.

    kind: what the kernel calls it, "wireguard" or "tun" for a tunnel; None for most hardware.
    mtu: octets.
    addresses: of global scope, with prefix length, `10.77.0.2/20`, sorted.
    master: the interface that it is a part of, a VRF or a bridge.
    """

    name: str
    index: int
    kind: str | None
    mtu: int
    up: bool
    addresses: tuple[str, ...]
    master: str | None = None


def read(interface: str) -> Link | None:
    """The interface as it is; None when there is none. Raises MachineRefused when it cannot look."""
    with _open_netlink(interface) as netlink:
        found = _find_link(netlink, interface)
        if found is None:
            return None
        dump = read_whole_dump(lambda: send_request(netlink, rtnetlink_messages.build_addresses_request()))
        return Link(
            name=interface,
            index=found.index,
            kind=found.kind,
            mtu=found.mtu,
            up=found.up,
            addresses=tuple(sorted(rtnetlink_messages.parse_addresses(dump, found.index))),
            master=None if found.master is None else name_interface(found.master),
        )


def name_interface(index: int) -> str:
    """An interface's name by the kernel's number; `interface 7` where it is gone meanwhile."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def find_interface_index(interface: str) -> int | None:
    """The kernel's number of an interface; None when there is none. Raises as `read` does."""
    with _open_netlink(interface) as netlink:
        found = _find_link(netlink, interface)
    return None if found is None else found.index


def create(interface: str, kind: str) -> None:
    """Make an interface of a kind such as "wireguard", down. Raises MachineRefused."""
    with open_rtnetlink(f"create {interface}") as netlink:
        send_request(netlink, rtnetlink_messages.build_link_creation(interface, kind))


def delete(interface: str) -> None:
    """Delete an interface; one that is not there is fine. Raises MachineRefused."""
    with open_rtnetlink(f"delete {interface}") as netlink, suppress_errnos(errno.ENODEV):
        send_request(netlink, rtnetlink_messages.build_link_deletion(_require_index(interface)))


def set_link_state(interface: str, *, up: bool) -> None:
    """Bring an interface up or down. Raises MachineRefused."""
    with open_rtnetlink(f"bring {interface} {'up' if up else 'down'}") as netlink:
        send_request(netlink, rtnetlink_messages.build_link_change(_require_index(interface), up=up))


def release_from_master(interface: str) -> None:
    """Take an interface out of the one that it is a part of. Raises MachineRefused."""
    with open_rtnetlink(f"take {interface} out of the interface that it is a part of") as netlink:
        send_request(netlink, rtnetlink_messages.build_link_change(_require_index(interface), master=0))


def set_mtu(interface: str, octets: int) -> None:
    """Set an interface's MTU, in octets. Raises MachineRefused."""
    with open_rtnetlink(f"set the MTU of {interface} to {octets}") as netlink:
        send_request(netlink, rtnetlink_messages.build_link_change(_require_index(interface), mtu=octets))


def add_address(interface: str, address: str) -> None:
    """Add an address, `10.77.0.2/20`; one that is there is fine. Raises MachineRefused.

    IPv6 skips duplicate address detection (IFA_F_NODAD): no other machine on a tunnel would answer it.
    """
    with open_rtnetlink(f"add {address} to {interface}") as netlink:
        index = _require_index(interface)
        try:
            send_request(netlink, rtnetlink_messages.build_address_change(index, address, add=True))
        except OSError as error:
            # IPv6 also says EEXIST to the same address with another prefix length.
            link = read(interface)
            if error.errno != errno.EEXIST or link is None or address not in link.addresses:
                raise


def remove_address(interface: str, address: str) -> None:
    """Remove an address, `10.77.0.2/20`; one that is not there is fine. Raises MachineRefused."""
    with (
        open_rtnetlink(f"remove {address} from {interface}") as netlink,
        suppress_errnos(errno.EADDRNOTAVAIL, errno.ENODEV),
    ):
        index = _require_index(interface)
        send_request(netlink, rtnetlink_messages.build_address_change(index, address, add=False))


@contextmanager
def _open_netlink(interface: str) -> Iterator[socket.socket]:
    with open_rtnetlink(f"look at {interface}") as netlink:
        try:
            yield netlink
        except ValueError:
            raise KernelRefused(
                f"the kernel's answer about {interface} is not understood",
                hint="please report it, with the output of `ip address` and `uname -r`",
            ) from None


def _find_link(netlink: socket.socket, interface: str) -> rtnetlink_messages.FoundInterface | None:
    try:
        (message,), _ = send_request(netlink, rtnetlink_messages.build_link_request(interface))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    found = rtnetlink_messages.parse_link(message)
    if found.name != interface:
        raise KernelRefused(
            f"{interface} is another name of the interface {found.name}",
            hint=f"run `ip link property del dev {found.name} altname {interface}`",
        )
    return found


def _require_index(interface: str) -> int:
    index = find_interface_index(interface)
    if index is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    return index
