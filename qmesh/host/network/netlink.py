"""Requests to the kernel by netlink: errors become qmesh's own."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from qmesh.errors import KernelRefused, MachineRefused, NeedsRoot

_ROUTE_PROTOCOL: Final = 0  # NETLINK_ROUTE
_NOT_UNDERSTOOD: Final = (ValueError, LookupError, OverflowError, struct.error)

_HINTS: Final = {
    errno.EACCES: "IPv6 may be switched off: look at `sysctl net.ipv6.conf.all.disable_ipv6`",
    errno.EADDRINUSE: "another program has the interface's UDP port: `ss -lunp` shows which",
    errno.EEXIST: "look at `ip address`: another program made it, and qmesh does not change that",
    errno.ENOBUFS: "the kernel is short of memory: free some, then run the same command again",
    errno.ENODEV: "run `qmesh apply`, which makes the interface again; `ip link` lists all interfaces",
    errno.ENOMEM: "the kernel is short of memory: free some, then run the same command again",
    errno.EOPNOTSUPP: "this kernel cannot do that; qmesh needs Linux 5.10 or newer, with WireGuard or TUN",
}


@contextmanager
def translate_errors(doing: str, hints: Mapping[int, str] = MappingProxyType({})) -> Iterator[None]:
    """Turn errors of netlink, sockets and files, and what is not understood there, into KernelRefused."""
    try:
        yield
    except OSError as error:
        raise build_kernel_error(error.errno or errno.EIO, doing, hints) from None
    except _NOT_UNDERSTOOD:
        raise KernelRefused(
            f"could not {doing}: the kernel's answer is not understood",
            hint="please report it, with the output of `uname -r`",
        ) from None


def build_kernel_error(
    code: int, doing: str, hints: Mapping[int, str] = MappingProxyType({})
) -> MachineRefused:
    """NeedsRoot or KernelRefused for an errno, met while `doing`; `hints` go before our own."""
    reason = f"could not {doing}: {os.strerror(code & 0xFFFF)}"
    if code == errno.EPERM:
        return NeedsRoot(reason, hint="run the command as root, in a container with CAP_NET_ADMIN")
    hint = hints.get(code) or _HINTS.get(code, "look at `dmesg`: the kernel gave no other reason")
    return KernelRefused(reason, hint=hint)


@contextmanager
def open_rtnetlink(doing: str) -> Iterator[socket.socket]:
    """An rtnetlink socket, for as long as it takes; errors met while `doing` are refusals."""
    with translate_errors(doing), open_socket(_ROUTE_PROTOCOL) as netlink:
        yield netlink


def open_socket(protocol: int) -> socket.socket:
    """A netlink socket of a protocol, one of NETLINK_*. Raises OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)


@contextmanager
def suppress_errnos(*codes: int) -> Iterator[None]:
    """Take these errnos from netlink for success."""
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise
