"""The kernel's reserved ports, and who listens on which port."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import KernelRefused
from qmesh.host.network import reserved_ports as kernels
from qmesh.host.network.sockets.socket_lists import (
    ESTABLISHED,
    LISTENING,
    UNCONNECTED,
    Socket,
    list_listening_sockets,
    select_tcp_sockets,
    select_udp_sockets,
)
from qmesh.host.network.sysctl_files import read_configured_ports
from qmesh.host.state.directory import State
from qmesh.host.state.documents import PortReservations
from qmesh.host.system import processes
from qmesh.mesh.ports.port_ranges import format_port_ranges, parse_port_ranges
from qmesh.mesh.sysctls import describe_outer_sysctl

_MOUNT: Final = "mount /proc: `mount -t proc proc /proc`"


def read_reserved_ports() -> frozenset[int]:
    """The ports that the kernel gives to no outgoing connection. Raises KernelRefused."""
    try:
        return parse_reserved_ports(kernels.read_reserved_list())
    except (OSError, ValueError) as error:
        raise KernelRefused(f"{kernels.SYSCTL} cannot be read: {error}", hint=_MOUNT) from None


def parse_reserved_ports(text: str) -> frozenset[int]:
    """The ports of the kernel's list. Raises KernelRefused."""
    try:
        return parse_port_ranges(text)
    except ValueError:
        raise KernelRefused(
            f"{kernels.SYSCTL} is not understood", hint="please report it, with the content of that file"
        ) from None


def read_ephemeral_range() -> tuple[int, int]:
    """The first and the last port that the kernel gives to outgoing connections. Raises KernelRefused."""
    try:
        first, last = Path(kernels.EPHEMERAL).read_text(encoding="ascii").split()
        return int(first), int(last)
    except (OSError, ValueError) as error:
        raise KernelRefused(f"{kernels.EPHEMERAL} cannot be read: {error}", hint=_MOUNT) from None


def list_own_reserved_ports(state: State) -> tuple[int, ...]:
    """The ports that qmesh wants reserved and that are."""
    wanted = state.read_port_reservations()
    return tuple(sorted(read_reserved_ports().intersection((*wanted.ours, *wanted.others))))


def reserve_ports(state: State, ports: Iterable[int]) -> None:
    """Reserve just these ports for qmesh; what others reserved stays as it is, also if qmesh did before.

    Raises KernelRefused where the list would have to be another, and cannot be written.
    """
    wanted, now, before = set(ports), read_reserved_ports(), state.read_port_reservations()
    held = set(before.ours) - _find_ports_of_others(before, now)
    ours = (wanted - now) | (wanted & held)
    after = (now - (held - wanted)) | wanted
    others = tuple(sorted(wanted - ours))
    if after != now:
        # Remembered first: a port reserved and not remembered would never be given back.
        known = tuple(sorted(ours | held))
        state.save_port_reservations(PortReservations(known, others, is_pending=True))
        _write_reserved_ports(after)
    state.save_port_reservations(PortReservations(tuple(sorted(ours)), others))


def _find_ports_of_others(before: PortReservations, now: frozenset[int]) -> frozenset[int]:
    """Of the ports that qmesh reserved, those that another program or the administrator wants as well.

    Where some of qmesh's are gone, another program has written the whole list, and what it has is that one's.
    """
    ours = frozenset(before.ours)
    is_rewritten = not before.is_pending and not ours <= now
    return ours & (read_configured_ports() | (now if is_rewritten else frozenset()))


def _write_reserved_ports(ports: Iterable[int]) -> None:
    text = format_port_ranges(sorted(ports), ",")
    try:
        Path(kernels.SYSCTL).write_text(text + "\n")
    except OSError as error:
        raise KernelRefused(
            f"{kernels.SYSCTL} cannot be written: {error.strerror}", hint=describe_outer_sysctl(text)
        ) from None


def can_reserve_ports() -> bool:
    """Whether the list can be written: in a container /proc/sys is often read-only."""
    return os.access(kernels.SYSCTL, os.W_OK)


class Listener(msgspec.Struct, frozen=True, order=True):
    """A socket that takes what strangers send. program, process: who has it; empty and 0 when unknown."""

    protocol: str
    address: str
    port: int
    program: str
    process: int


def list_listeners() -> tuple[tuple[str, int], ...]:
    """Address and port of every listening TCP socket of this machine."""
    return tuple(sorted({(each.local, each.port) for each in list_listening_sockets()}))


_FIRST_ORDINARY_USER: Final = 1000
"""Source: login.defs(5), UID_MIN."""


def list_ports_of_others(among: Iterable[int], user: int) -> frozenset[int]:
    """Those of these ports that are not a user's to speak of: another user listens there over TCP.

    Or root, or a system's user, has any socket there, such as a login's or a VPN's. That of an ordinary user
    does not count: he could take any port so, beside the one who listens.
    """
    wanted, there = frozenset(among), {ESTABLISHED, UNCONNECTED}
    if not wanted:
        return wanted

    def is_wanted(_: str, port: int, __: int) -> bool:
        return port in wanted

    tcp = select_tcp_sockets({LISTENING, ESTABLISHED}, is_wanted)
    return frozenset(
        each.port
        for each in itertools.chain(tcp, select_udp_sockets(is_wanted))
        if each.user != user
        and (each.state == LISTENING or (each.state in there and each.user < _FIRST_ORDINARY_USER))
    )


def find_listeners(ports: Iterable[int]) -> tuple[Listener, ...]:
    """Who listens on any of these ports, over TCP or UDP, beyond loopback."""
    wanted = set(ports)
    found = (
        *(each for each in list_listening_sockets() if each.port in wanted),
        *select_udp_sockets(lambda state, port, _: state == UNCONNECTED and port in wanted),
    )
    mine = [each for each in found if not ipaddress.ip_address(each.local).is_loopback]
    owners = processes.find_socket_owners({each.inode for each in mine})
    return tuple(sorted(_build_listener(each, owners.get(each.inode, 0)) for each in mine))


def _build_listener(found: Socket, owner: int) -> Listener:
    return Listener(found.protocol, found.local, found.port, processes.read_process_name(owner), owner)


def is_udp_port_used(port: int) -> bool:
    """Whether another socket of this machine has a UDP port, on any address."""
    return _is_port_used(port, socket.SOCK_DGRAM)


def is_tcp_port_used(port: int) -> bool:
    """Whether another socket of this machine listens at a TCP port, on any address."""
    return _is_port_used(port, socket.SOCK_STREAM)


def _is_port_used(port: int, kind: socket.SocketKind) -> bool:
    families = [(socket.AF_INET, "0.0.0.0")]  # noqa: S104 - where WireGuard listens
    if Path("/proc/net/if_inet6").exists():
        families.append((socket.AF_INET6, "::"))
    for family, address in families:
        with contextlib.closing(socket.socket(family, kind)) as probe:
            if kind == socket.SOCK_STREAM:  # a connection that has ended does not count
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                # A low port is refused to a user, and all of IPv6 by a machine without it: neither is in use.
                if error.errno == errno.EADDRINUSE:
                    return True
    return False
