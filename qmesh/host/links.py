"""Interfaces of this machine and their addresses, by rtnetlink. Source: rtnetlink(7).

Nothing here may be called from a coroutine: pyroute2 runs an event loop of its own.
"""

from __future__ import annotations

import errno
import ipaddress
from typing import Any, Final

import msgspec
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP

from qmesh.errors import KernelRefused
from qmesh.host.netlink import fine, rtnetlink, whole_dump

SCOPE_GLOBAL: Final = 0
"""Of an address that is good everywhere. Source: rtnetlink(7)."""
_NO_DAD = 0x02


class Link(msgspec.Struct, frozen=True):
    """A network interface.

    kind: what the kernel calls it, "wireguard" or "tun" for a tunnel; None for most hardware.
    mtu: octets.
    addresses: of global scope, with prefix length, `10.77.0.2/20`, sorted.
    """

    name: str
    index: int
    kind: str | None
    mtu: int
    up: bool
    addresses: tuple[str, ...]


def read(interface: str) -> Link | None:
    """The interface as it is; None when there is none. Raises MachineRefused when it cannot look."""
    with rtnetlink(f"look at {interface}") as netlink:
        found = find(netlink, interface)
        if found is None:
            return None
        addresses = _addresses(netlink, found["index"])
    return Link(
        name=interface,
        index=found["index"],
        kind=found.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND"),
        mtu=found.get_attr("IFLA_MTU"),
        up=bool(found["flags"] & IFF_UP),
        addresses=tuple(sorted(addresses)),
    )


def create(interface: str, kind: str) -> None:
    """Make an interface of a kind such as "wireguard", down. Raises MachineRefused."""
    with rtnetlink(f"create {interface}") as netlink:
        netlink.link("add", ifname=interface, kind=kind)


def delete(interface: str) -> None:
    """Delete an interface; one that is not there is fine. Raises MachineRefused."""
    with rtnetlink(f"delete {interface}") as netlink, fine(errno.ENODEV):
        netlink.link("del", index=_index(netlink, interface))


def set_up(interface: str, *, up: bool) -> None:
    """Bring an interface up or down. Raises MachineRefused."""
    with rtnetlink(f"bring {interface} {'up' if up else 'down'}") as netlink:
        netlink.link("set", index=_index(netlink, interface), state="up" if up else "down")


def set_mtu(interface: str, octets: int) -> None:
    """Set an interface's MTU, in octets. Raises MachineRefused."""
    with rtnetlink(f"set the MTU of {interface} to {octets}") as netlink:
        netlink.link("set", index=_index(netlink, interface), mtu=octets)


def add_address(interface: str, address: str) -> None:
    """Add an address, `10.77.0.2/20`; one that is there is fine. Raises MachineRefused.

    IPv6 is not tried for duplicates first (IFA_F_NODAD): nobody else is on a tunnel to ask.
    """
    with rtnetlink(f"add {address} to {interface}") as netlink:
        index = _index(netlink, interface)
        wanted = _address_arguments(address)
        try:
            netlink.addr("add", index=index, flags=_NO_DAD if ":" in address else 0, **wanted)
        except NetlinkError as error:
            # IPv6 also says EEXIST to the same address with another prefix length.
            if error.code != errno.EEXIST or address not in _addresses(netlink, index):
                raise


def remove_address(interface: str, address: str) -> None:
    """Remove an address, `10.77.0.2/20`; one that is not there is fine. Raises MachineRefused."""
    with (
        rtnetlink(f"remove {address} from {interface}") as netlink,
        fine(errno.EADDRNOTAVAIL, errno.ENODEV),
    ):
        netlink.addr("del", index=_index(netlink, interface), **_address_arguments(address))


def find(netlink: Any, interface: str) -> Any | None:
    """What the kernel tells of an interface, or None. Raises NetlinkError and KernelRefused."""
    try:
        (found,) = netlink.link("get", ifname=interface)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise
    name = found.get_attr("IFLA_IFNAME")
    if name != interface:
        raise KernelRefused(
            f"{interface} is another name of {name}", hint="remove it with `ip link property del`"
        )
    return found


def _index(netlink: Any, interface: str) -> int:
    found = find(netlink, interface)
    if found is None:
        raise NetlinkError(errno.ENODEV)
    return int(found["index"])


def _addresses(netlink: Any, index: int) -> list[str]:
    messages = whole_dump(lambda: netlink.get_addr(index=index))
    return [address_text(message) for message in messages if message["scope"] == SCOPE_GLOBAL]


def address_text(message: Any) -> str:
    """This machine's own side of an address that the kernel tells of, `10.77.0.2/20`."""
    # With a point-to-point address, IFA_ADDRESS is the other side's.
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return ipaddress.ip_interface(f"{own}/{message['prefixlen']}").with_prefixlen


def _address_arguments(address: str) -> dict[str, Any]:
    own = ipaddress.ip_interface(address)
    return {"address": str(own.ip), "prefixlen": own.network.prefixlen}
