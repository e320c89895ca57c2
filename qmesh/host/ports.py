"""The kernel's reserved ports, and who listens on which port."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path

from qmesh.errors import KernelRefused
from qmesh.host import files
from qmesh.host.state import HeldPorts, State
from qmesh.mesh.model import ranges_text

RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_MOST_OCTETS = 6 * 65536
"""That the list of reserved ports can have: five digits and a comma for each."""


def reserved() -> frozenset[int]:
    """The ports that the kernel gives to no outgoing connection. Source: ip-sysctl."""
    try:
        with RESERVED.open("rb", buffering=0) as file:
            # The kernel answers the first read only, and as far as that has room.
            text = file.read(_MOST_OCTETS).decode("ascii")
    except OSError as error:
        raise KernelRefused(f"{RESERVED} cannot be read: {error.strerror}", hint="mount /proc") from None
    found: set[int] = set()
    for part in text.replace("\n", "").split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


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
        RESERVED.write_text(ranges_text(tuple(sorted(after)), ",") + "\n")
    except OSError as error:
        raise KernelRefused(
            f"{RESERVED} cannot be written: {error.strerror}",
            hint="run as root, where /proc/sys is writable: some containers forbid it",
        ) from None


def listeners() -> tuple[tuple[str, int], ...]:
    """Address and port of every listening TCP socket of this machine. Source: proc(5), net/tcp."""
    found: list[tuple[str, int]] = []
    for name in ("tcp", "tcp6"):
        lines = (files.read(Path("/proc/net") / name) or b"").decode("ascii").splitlines()[1:]
        found.extend(_local(line) for line in lines if line.split()[3] == "0A")
    return tuple(sorted(set(found)))


def _local(line: str) -> tuple[str, int]:
    address, _, port = line.split()[1].partition(":")
    words = [bytes.fromhex(address[index : index + 8])[::-1] for index in range(0, len(address), 8)]
    return str(ipaddress.ip_address(b"".join(words))), int(port, 16)


def udp_port_in_use(port: int) -> bool:
    """Whether another socket of this machine has a UDP port, on any address."""
    families = [(socket.AF_INET, "0.0.0.0")]  # noqa: S104 - where WireGuard listens
    if Path("/proc/net/if_inet6").exists():
        families.append((socket.AF_INET6, "::"))
    for family, address in families:
        with contextlib.closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                # A low port is refused to a user, and all of IPv6 by a machine without: nobody has those.
                if error.errno == errno.EADDRINUSE:
                    return True
    return False
