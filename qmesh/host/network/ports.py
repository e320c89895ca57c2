"""The kernel's reserved ports, and who listens on which port."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec

from qmesh.errors import KernelRefused
from qmesh.host.network import reserved_ports as kernels
from qmesh.host.network.sockets import LISTENING, UNCONNECTED, Socket, sockets
from qmesh.host.state.directory import State
from qmesh.host.state.documents import HeldPorts
from qmesh.host.system import processes
from qmesh.mesh.model import ranges_text


def reserved() -> frozenset[int]:
    """The ports that the kernel gives to no outgoing connection. Raises KernelRefused."""
    try:
        return reserved_in(kernels.listed())
    except (OSError, ValueError) as error:
        raise KernelRefused(f"{kernels.SYSCTL} cannot be read: {error}", hint="mount /proc") from None


def reserved_in(text: str) -> frozenset[int]:
    """The ports of the kernel's list. Raises KernelRefused."""
    try:
        return kernels.ports_in(text)
    except ValueError:
        raise KernelRefused(f"{kernels.SYSCTL} is not understood", hint="look at it, and report it") from None


def ephemeral() -> tuple[int, int]:
    """The first and the last port that the kernel gives to outgoing connections. Raises KernelRefused."""
    try:
        first, last = kernels.EPHEMERAL.read_text(encoding="ascii").split()
        return int(first), int(last)
    except (OSError, ValueError) as error:
        raise KernelRefused(f"{kernels.EPHEMERAL} cannot be read: {error}", hint="mount /proc") from None


def held(state: State) -> tuple[int, ...]:
    """The ports that qmesh wants reserved and that are."""
    wanted = state.held_ports()
    return tuple(sorted(reserved().intersection((*wanted.ours, *wanted.others))))


def hold(state: State, ports: Iterable[int]) -> None:
    """Reserve just these ports for qmesh; what others reserved stays as it is."""
    wanted, now, before = set(ports), reserved(), state.held_ports()
    ours = (wanted - now) | (wanted & set(before.ours))
    # Remembered first: a port reserved and not remembered would never be given back.
    state.save_held_ports(HeldPorts(tuple(sorted(ours)), tuple(sorted(wanted - ours))))
    after = (now - (set(before.ours) - wanted)) | wanted
    try:
        kernels.SYSCTL.write_text(ranges_text(tuple(sorted(after)), ",") + "\n")
    except OSError as error:
        raise KernelRefused(
            f"{kernels.SYSCTL} cannot be written: {error.strerror}",
            hint="run as root, where /proc/sys is writable: some containers forbid it",
        ) from None


class Listener(msgspec.Struct, frozen=True, order=True):
    """A socket that takes what strangers send. program, process: who has it; empty and 0 when unknown."""

    protocol: str
    address: str
    port: int
    program: str
    process: int


def listeners() -> tuple[tuple[str, int], ...]:
    """Address and port of every listening TCP socket of this machine."""
    return tuple(sorted({(each.local, each.port) for each in sockets("tcp") if each.state == LISTENING}))


def listening_on(ports: Iterable[int]) -> tuple[Listener, ...]:
    """Who listens on any of these ports, over TCP or UDP, beyond loopback."""
    wanted = set(ports)
    mine = [
        each
        for each in (*sockets("tcp"), *sockets("udp"))
        if each.state == {"tcp": LISTENING, "udp": UNCONNECTED}[each.protocol]
        and each.port in wanted
        and not ipaddress.ip_address(each.local).is_loopback
    ]
    owners = _owners({each.inode for each in mine}) if mine else {}
    return tuple(sorted(_listener(each, owners.get(each.inode, 0)) for each in mine))


def _listener(found: Socket, owner: int) -> Listener:
    return Listener(found.protocol, found.local, found.port, processes.name_of(owner), owner)


def _owners(inodes: set[str]) -> dict[str, int]:
    """Processes by the sockets that they have."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, int] = {}
    for process, descriptor in processes.descriptors():
        with contextlib.suppress(OSError, KeyError):
            found[wanted[str(descriptor.readlink())]] = process
    return found


def udp_port_in_use(port: int) -> bool:
    """Whether another socket of this machine has a UDP port, on any address."""
    return _in_use(port, socket.SOCK_DGRAM)


def tcp_port_in_use(port: int) -> bool:
    """Whether another socket of this machine listens at a TCP port, on any address."""
    return _in_use(port, socket.SOCK_STREAM)


def _in_use(port: int, kind: socket.SocketKind) -> bool:
    families = [(socket.AF_INET, "0.0.0.0")]  # noqa: S104 - where WireGuard listens
    if Path("/proc/net/if_inet6").exists():
        families.append((socket.AF_INET6, "::"))
    for family, address in families:
        with contextlib.closing(socket.socket(family, kind)) as probe:
            if kind == socket.SOCK_STREAM:  # a connection that has ended is nobody
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                # A low port is refused to a user, and all of IPv6 by a machine without: nobody has those.
                if error.errno == errno.EADDRINUSE:
                    return True
    return False
