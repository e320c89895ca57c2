"""The TCP and UDP sockets of this machine, as the kernel lists them.

Source: sock_diag(7); proc(5), net/udp, and net/tcp where the kernel lacks the other.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import KernelRefused
from qmesh.host.network.sockets import sock_diag

LISTENING: Final = "0A"
ESTABLISHED: Final = "01"
_ENDED: Final = b" 06 00000000:00000000 03:"
"""In a line of a connection that is over: no process has it. Who dialled thousands has thousands of these."""
UNCONNECTED: Final = "07"
"""The state of a UDP socket that takes what anybody sends."""


class Socket(msgspec.Struct, frozen=True):
    """One socket. Addresses in their shortest form, IPv4 as such also on a socket of IPv6.

    protocol: `tcp` or `udp`. user: the number of who made it. inode: what a process's descriptor of it names.
    """

    protocol: str
    state: str
    local: str
    port: int
    remote: str
    remote_port: int
    inode: str
    user: int = 0


def select_tcp_sockets(
    states: Collection[str], is_wanted: Callable[[str, int, int], bool] = lambda *_: True
) -> Iterator[Socket]:
    """The sockets of TCP in these states that are wanted, of both families, out of many.

    states: LISTENING alone is quick, however many connections there are.
    is_wanted: by its state, its port, and the port of its other end; most are left out by these alone.
    Raises KernelRefused.
    """
    try:
        found = [
            _build_socket(sock_diag.parse_socket(message))
            for message in sock_diag.request_tcp_sockets(int(each, 16) for each in states)
            if is_wanted(*_describe_outline(message))
        ]
    except (OSError, ValueError, struct.error):  # a kernel, or a container, without
        yield from _select_listed("tcp", lambda state, *ports: state in states and is_wanted(state, *ports))
        return
    yield from found


def _describe_outline(message: bytes) -> tuple[str, int, int]:
    state, port, remote_port = sock_diag.parse_outline(message)
    return f"{state:02X}", port, remote_port


def select_udp_sockets(is_wanted: Callable[[str, int, int], bool]) -> Iterator[Socket]:
    """The same of UDP, in any state."""
    return _select_listed("udp", is_wanted)


def _build_socket(found: sock_diag.TcpSocket) -> Socket:
    return Socket(
        "tcp",
        f"{found.state:02X}",
        found.local,
        found.port,
        found.remote,
        found.remote_port,
        str(found.inode),
        user=found.user,
    )


def _select_listed(protocol: str, is_wanted: Callable[[str, int, int], bool]) -> Iterator[Socket]:
    for name in (protocol, f"{protocol}6"):
        yield from parse_sockets(protocol, _read_lines(name), is_wanted)


def parse_sockets(
    protocol: str, lines: Iterable[bytes], is_wanted: Callable[[str, int, int], bool]
) -> Iterator[Socket]:
    """The sockets that are wanted, of lines of the kernel's list. Raises KernelRefused."""
    for line in lines:
        if _ENDED in line:
            continue
        text = line.decode("ascii", "replace")
        if is_wanted(*_parse_outline(text)):
            yield _parse_socket(protocol, text)


def _read_lines(name: str) -> Iterator[bytes]:
    """A list of the kernel's, line by line, as it may be long; none where it has no such family."""
    try:
        with Path("/proc/net", name).open("rb") as lines:
            yield from itertools.islice(lines, 1, None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelRefused(
            f"the kernel's list of sockets cannot be read: {error.strerror}",
            hint="mount /proc: `mount -t proc proc /proc`",
        ) from None


def _parse_outline(line: str) -> tuple[str, int, int]:
    """State and both ports of a line of the kernel's list. Raises KernelRefused."""
    try:
        _, local, remote, state, _ = line.split(maxsplit=4)
        return state, int(local[-4:], 16), int(remote[-4:], 16)
    except ValueError:
        raise _unreadable_error() from None


def find_listening_sockets(port: int) -> Iterator[Socket]:
    """The TCP sockets that listen on a port."""
    return (each for each in list_listening_sockets() if each.port == port)


def list_listening_sockets() -> Iterator[Socket]:
    """All TCP sockets that listen."""
    return select_tcp_sockets({LISTENING})


def _parse_socket(protocol: str, line: str) -> Socket:
    """A line of the kernel's list. Raises KernelRefused."""
    try:
        _, local, remote, state, *_, user, _, inode = line.split(maxsplit=10)[:10]
        return Socket(protocol, state, *_parse_address(local), *_parse_address(remote), inode, user=int(user))
    except ValueError:
        raise _unreadable_error() from None


def _unreadable_error() -> KernelRefused:
    return KernelRefused(
        "the kernel's list of sockets is not understood",
        hint="please report it, with the output of `ss -anp` and `uname -r`",
    )


def wildcard_addresses(address: str) -> frozenset[str]:
    """What a socket that listens on every address has for its own, if that takes in this one."""
    return frozenset({"::"} if ":" in address else {"0.0.0.0", "::"})  # noqa: S104 - not bound to


def _parse_address(text: str) -> tuple[str, int]:
    """Address and port."""
    address, _, port = text.partition(":")
    return _decode_address(address), int(port, 16)


@functools.lru_cache(maxsize=1024)
def _decode_address(text: str) -> str:
    """An address, which is in words of four octets, each in the machine's own order. Few are in use."""
    octets = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return sock_diag.render_address(ipaddress.ip_address(octets))
