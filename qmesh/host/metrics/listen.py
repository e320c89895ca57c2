"""Where metrics are served: a socket that listens there, or why none can."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Final

from qmesh.errors import KernelRefused, MachineRefused
from qmesh.mesh.values import Endpoint

_BACKLOG: Final = 1024
"""Connections that wait to be taken, in their order: one of many users has its turn after two seconds."""


class _PortTaken(KernelRefused):
    """Another program listens there."""


def open_listener(place: Endpoint, interface: str | None) -> socket.socket:
    """A socket that listens there. interface: the only one by which it is reached; None for any.

    Raises KernelRefused.
    """
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    # With the protocol named, asyncio sends an answer's parts at once (TCP_NODELAY).
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if interface is not None:
            # Linux answers for any of its addresses on any interface: the address alone binds nothing.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        listening.bind((place.host, place.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        kind = _PortTaken if error.errno == errno.EADDRINUSE else KernelRefused
        raise kind(
            f"metrics cannot be served at {place}: {error.strerror}",
            hint=f"`ss -ltnp sport = :{place.port}` shows which program has the port: stop that program, or"
            " pass another port to `qmesh set --metrics`",
        ) from None
    return listening


def refuse_taken_port(place: Endpoint) -> None:
    """Raise MachineRefused where another program listens there; an address that is not there yet is none."""
    with contextlib.suppress(KernelRefused):
        try:
            open_listener(place, None).close()
        except _PortTaken as error:
            raise MachineRefused(error.message, hint=error.hint) from None
