"""Whether an address is this machine's, asked of the kernel in little time: each core asks when it starts."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from qmesh.errors import KernelRefused

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_UP, _GATEWAY, _REJECT = 0x1, 0x2, 0x200
"""Flags of a route. Source: linux/route.h."""
_ABSENT: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def can_be_bound(address: str) -> bool:
    """Whether a server can listen on this address now.

    Not so where no interface has it, or IPv6 is still looking for a second machine with it.
    Raises KernelRefused when the kernel does not tell.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with contextlib.closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.bind((address, 0))
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise KernelRefused(
            f"qmesh cannot find out whether {address} is an address of this machine: {error.strerror}",
            hint="run `ip address` and look for it; if it is not there, run `qmesh apply`",
        ) from None
    return True


def find_direct_network(address: str) -> str | None:
    """The network and interface, `10.77.0.0/20 of qmesh0`, by which an address is reached without a router.

    None where there is no such network: then the address may yet become this machine's.
    """
    return find_network_in_routes(_read_proc_lines("ipv6_route" if ":" in address else "route"), address)


def find_network_in_routes(lines: Iterable[str], address: str) -> str | None:
    """As `find_direct_network`, by the kernel's routes for that kind of address. Raises KernelRefused."""
    wanted = ipaddress.ip_address(address)
    try:
        for network, interface in filter(
            None, map(_parse_ipv6_route if wanted.version == 6 else _parse_ipv4_route, lines)
        ):
            if network.prefixlen and wanted in network:
                return f"{network} of {interface}"
    except (ValueError, OverflowError):
        raise KernelRefused(
            "the kernel's list of routes is not understood",
            hint="please report it, with the output of `ip route` and `uname -r`",
        ) from None
    return None


def _parse_ipv4_route(line: str) -> tuple[_Network, str] | None:
    """The network of a route without a router. Raises ValueError. Source: proc(5), net/route."""
    interface, to, _, flags, *_, mask, _, _, _ = line.split()
    if interface == "Iface" or not _is_direct(int(flags, 16)):
        return None
    return ipaddress.IPv4Network((bytes.fromhex(to)[::-1], int(mask, 16).bit_count())), interface


def _parse_ipv6_route(line: str) -> tuple[_Network, str] | None:
    """As `_parse_ipv4_route`. Source: the kernel's net/ipv6/route.c, rt6_info_route."""
    to, prefix, *_, flags, interface = line.split()
    if not _is_direct(int(flags, 16)):
        return None
    return ipaddress.IPv6Network((bytes.fromhex(to), int(prefix, 16))), interface


def _is_direct(flags: int) -> bool:
    return flags & (_UP | _GATEWAY | _REJECT) == _UP


def _read_proc_lines(name: str) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):  # this kernel has none of that family
        yield from Path("/proc/net", name).read_text("ascii", "replace").splitlines()
