"""Netlink's errors as ours, and its dumps whole: for every module of this room that speaks netlink.

Nothing built on it may be called from a coroutine: pyroute2 runs an event loop of its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, TypeVar

# pyroute2's package imports all of itself, some 0.1 s, whichever of its modules is asked for.
from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink import NLM_F_DUMP_INTR
from pyroute2.netlink.exceptions import NetlinkError

from qmesh.errors import KernelRefused, MachineRefused, NeedsRoot

T = TypeVar("T")

_DUMP_ATTEMPTS = 10

_HINTS: Final = {
    errno.EACCES: "IPv6 may be switched off; see `sysctl net.ipv6.conf.all.disable_ipv6`",
    errno.EADDRINUSE: "another program has the interface's UDP port; see `ss -lunp`",
    errno.EEXIST: "see `ip address`; what others made, qmesh does not touch",
    errno.ENOBUFS: "the kernel is short of memory; try again",
    errno.ENODEV: "see `ip link`; `qmesh apply` makes the interface anew",
    errno.ENOMEM: "the kernel is short of memory; try again",
    errno.EOPNOTSUPP: "this kernel lacks it; qmesh needs Linux 5.10 or newer, with WireGuard or TUN",
}


@contextmanager
def refusals(doing: str, hints: Mapping[int, str] = MappingProxyType({})) -> Iterator[None]:
    """Turn the errors of netlink, sockets and files into `refusal`s."""
    try:
        yield
    except NetlinkError as error:
        raise refusal(error.code, doing, hints) from None
    except OSError as error:
        raise refusal(error.errno or errno.EIO, doing, hints) from None


def refusal(code: int, doing: str, hints: Mapping[int, str] = MappingProxyType({})) -> MachineRefused:
    """NeedsRoot or KernelRefused for an errno, met while `doing`; `hints` go before our own."""
    reason = f"could not {doing}: {os.strerror(code)}"
    if code == errno.EPERM:
        return NeedsRoot(reason, hint="run the command as root, in a container with CAP_NET_ADMIN")
    hint = hints.get(code) or _HINTS.get(code, "the kernel gave no more than that; see `dmesg`")
    return KernelRefused(reason, hint=hint)


def whole_dump(ask: Callable[[], Iterable[Any]]) -> list[Any]:
    """The messages of a dump by pyroute2, as `whole` has them."""

    def dump() -> tuple[list[Any], bool]:
        messages = list(ask())
        return messages, any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages)

    return whole(dump)


def whole(dump: Callable[[], tuple[list[T], bool]]) -> list[T]:
    """The messages of a netlink dump, asked for again while changes under way tear it.

    dump: asks once, and tells the messages and whether NLM_F_DUMP_INTR was among their flags.
    Raises KernelRefused when it never came whole.
    """
    for _ in range(_DUMP_ATTEMPTS):
        messages, torn = dump()
        if not torn:
            return messages
    raise KernelRefused("the kernel's tables change too fast to be read", hint="try again")


@contextmanager
def rtnetlink(doing: str) -> Iterator[Any]:
    """An rtnetlink socket, for as long as it takes; errors met while `doing` are refusals."""
    with refusals(doing), IPRoute() as netlink:
        yield netlink


@contextmanager
def fine(*codes: int) -> Iterator[None]:
    """Take these errnos from netlink for success."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise
