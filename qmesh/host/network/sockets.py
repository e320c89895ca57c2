"""The TCP and UDP sockets of this machine, as the kernel lists them. Source: proc(5), net/tcp."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import KernelRefused
from qmesh.host import files

LISTENING: Final = "0A"
ESTABLISHED: Final = "01"
UNCONNECTED: Final = "07"
"""The state of a UDP socket that takes what anybody sends."""


class Socket(msgspec.Struct, frozen=True):
    """One socket. Addresses in their shortest form, IPv4 as such also on a socket of IPv6.

    protocol: `tcp` or `udp`. inode: what a process's descriptor of it names.
    """

    protocol: str
    state: str
    local: str
    port: int
    remote: str
    remote_port: int
    inode: str


def list_sockets(protocol: str) -> Iterator[Socket]:
    """All sockets of `tcp` or `udp`, of both families; none of a family that the kernel has not."""
    for name in (protocol, f"{protocol}6"):
        yield from parse_sockets(protocol, files.read(Path("/proc/net") / name) or b"")


def parse_sockets(protocol: str, octets: bytes) -> Iterator[Socket]:
    """The sockets of a list of the kernel. Raises KernelRefused."""
    for line in octets.decode("ascii", "replace").splitlines()[1:]:
        yield _parse_socket(protocol, line)


def find_listening_sockets(port: int) -> Iterator[Socket]:
    """The TCP sockets that listen on a port.

    Quick on a machine with many connections: the kernel lists those that listen before all others, and
    the rest of its list is not read. Source: the kernel's networking/proc_net_tcp.
    """
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), Path("/proc/net", name).open("rb") as lines:
            every = (
                _parse_socket("tcp", line.decode("ascii", "replace"))
                for line in itertools.islice(lines, 1, None)
            )
            found = itertools.takewhile(lambda each: each.state == LISTENING, every)
            yield from (each for each in found if each.port == port)


def _parse_socket(protocol: str, line: str) -> Socket:
    """A line of the kernel's list. Raises KernelRefused."""
    try:
        _, local, remote, state, *_, inode = line.split(maxsplit=10)[:10]
        return Socket(protocol, state, *_parse_address(local), *_parse_address(remote), inode)
    except ValueError:
        raise KernelRefused(
            "the kernel's list of sockets is not understood",
            hint="please report it, with the output of `ss -anp` and `uname -r`",
        ) from None


def wildcard_addresses(address: str) -> frozenset[str]:
    """What a socket that listens on every address has for its own, if that takes in this one."""
    return frozenset({"::"} if ":" in address else {"0.0.0.0", "::"})  # noqa: S104 - not bound to


def render_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An address as text, one of IPv4 as such also where it is written as one of IPv6."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _parse_address(text: str) -> tuple[str, int]:
    """Address and port. The address is in words of four octets, each in the machine's own order."""
    address, _, port = text.partition(":")
    octets = b"".join(bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
    return render_address(ipaddress.ip_address(octets)), int(port, 16)
