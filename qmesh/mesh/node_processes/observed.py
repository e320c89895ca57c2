"""Processes and their sockets, as the kernel has them. Nothing of it comes from a process itself."""

from __future__ import annotations

import ipaddress
from typing import Final, Literal, TypeAlias

import msgspec

Protocol: TypeAlias = Literal["tcp", "udp"]


class NodeProcess(msgspec.Struct, frozen=True):
    """A process. program: what the kernel calls it; started_s: seconds from the machine's start on.

    unit: the systemd unit that it runs in, such as `qmesh-worker@4.service`; empty where it is in none.
    is_stopped: whether a signal has stopped it, as Ctrl-Z does: its sockets take calls, and it answers none.
    frozen: the directory of the control group with which it is frozen, to the same effect; else empty.
    """

    number: int
    program: str
    started_s: float
    unit: str = ""
    is_stopped: bool = False
    frozen: str = ""

    @property
    def stands_still(self) -> bool:
        """Whether it does nothing until it is told to go on."""
        return self.is_stopped or bool(self.frozen)


UNKNOWN_PROCESS: Final = NodeProcess(number=0, program="", started_s=0.0)
"""As answers have one of which nothing is known."""


class ListeningSocket(msgspec.Struct, frozen=True):
    """A socket that takes what others send. user: the number of who made it.

    process: None where the kernel does not show it, as from within a container.
    """

    protocol: Protocol
    address: str
    port: int
    user: int
    process: NodeProcess | None


class Connection(msgspec.Struct, frozen=True):
    """An established TCP connection. address, port: this machine's end; process: 0 where it is not known."""

    address: str
    port: int
    remote: str
    remote_port: int
    process: int


class NodeSockets(msgspec.Struct, frozen=True):
    """The sockets of a machine that concern its node."""

    listening: tuple[ListeningSocket, ...] = ()
    connections: tuple[Connection, ...] = ()


def is_loopback(address: str) -> bool:
    """Whether an address, as text, is reached from its own machine only."""
    return ipaddress.ip_address(address).is_loopback
