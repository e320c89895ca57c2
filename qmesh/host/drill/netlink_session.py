"""Requests by netlink of the drill: asked of the machine, or sent in the copy of it."""

from __future__ import annotations

import os
import socket
from typing import Final, Self

from qmesh.host.drill.namespaces import Namespaces
from qmesh.host.lean.nftables_messages import build_batch
from qmesh.host.network.netlink import open_socket
from qmesh.host.network.netlink_messages import (
    ACK,
    HEADER,
    build_request,
    parse_answers,
    read_whole_dump,
    receive_octets,
    send_request,
)

_SNDBUFFORCE: Final = 32  # asm-generic/socket.h
CREATE: Final = 0x200 | 0x400  # NLM_F_EXCL, NLM_F_CREATE


def dump_raw(protocol: int, request: bytes) -> list[bytes]:
    """Each message of a dump, of the namespace that this process is in. Raises OSError, MachineRefused."""
    with open_socket(protocol) as netlink:
        return read_whole_dump(lambda: send_request(netlink, request))


class CopySession:
    """A netlink socket of the copy. Raises KernelRefused where this process is not there."""

    def __init__(self, namespaces: Namespaces, protocol: int) -> None:
        namespaces.verify_copy()
        self.netlink: socket.socket = open_socket(protocol)
        self._batches = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.netlink.close()

    def send(self, kind: int, payload: bytes, flags: int = CREATE) -> None:
        """Have one thing done. Raises OSError."""
        send_request(self.netlink, build_request(kind, ACK | flags, payload))

    def send_batch(self, messages: list[tuple[int, int, bytes]]) -> None:
        """Have nftables do all of it, or nothing. messages: each with its flags. Raises OSError."""
        self._batches += 1
        octets = build_batch(messages, self._batches)
        self.netlink.setsockopt(socket.SOL_SOCKET, _SNDBUFFORCE, 2 * len(octets) + 4096)
        self.netlink.sendto(octets, (0, 0))
        while True:
            for message, code, _ in parse_answers(receive_octets(self.netlink)):
                if code is not None and HEADER.unpack_from(message)[3] == self._batches:
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
