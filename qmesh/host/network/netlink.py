"""Requests to the kernel by netlink: errors become qmesh's own, and dumps are read whole.

Nothing built on it may be called from a coroutine: pyroute2 runs an event loop of its own.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink import NLM_F_DUMP_INTR
from pyroute2.netlink.exceptions import NetlinkError

from qmesh.errors import KernelRefused, MachineRefused, NeedsRoot
from qmesh.host.network.netlink_messages import read_whole_dump

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
    except NetlinkError as error:
        raise build_kernel_error(error.code, doing, hints) from None
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


def read_pyroute2_dump(ask: Callable[[], Iterable[Any]]) -> list[Any]:
    """The messages of a dump by pyroute2, as `read_whole_dump` has them."""

    def dump() -> tuple[list[Any], bool]:
        messages = list(ask())
        return messages, any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages)

    return read_whole_dump(dump)


@contextmanager
def open_rtnetlink(doing: str) -> Iterator[Any]:
    """An rtnetlink socket, for as long as it takes; errors met while `doing` are refusals."""
    with translate_errors(doing), IPRoute() as netlink:
        yield netlink


@contextmanager
def suppress_errnos(*codes: int) -> Iterator[None]:
    """Take these errnos from netlink for success."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise
