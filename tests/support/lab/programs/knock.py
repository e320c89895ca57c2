"""Two programs that are there before the network is: one that listens, and one that never stops asking.

    knock.py listen RECORD PORT...           a careless server on every address, over TCP and UDP
    knock.py ask RECORD ADDRESS... -- PORT...

Before there is a carrier nothing can arrive: until then it only looks for one.

Each writes to RECORD, some ten times a second, what came or went by now: JSON, from `PROTOCOL PORT` to
the number and to the seconds of uptime at which the first and the last were. They use the standard
library only, and tell systemd when they have begun.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROUND_S = 0.005
TRY_S = 0.1
"""How long a connection may take to come about; a SYN that was dropped has no answer to wait for."""
AT_ONCE = 12
"""Connections to one port of one address that are under way."""
RECORD_S = 0.1
LINGER = struct.pack("ii", 1, 0)
GET_FLAGS, LOOPBACK, RUNNING = 0x8913, 0x8, 0x40  # SIOCGIFFLAGS, IFF_LOOPBACK, IFF_RUNNING: of a struct ifreq


def uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Record:
    """What came or went, and the file that tells it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, dict[str, float]] = {}
        self._until = 0.0

    def note(self, what: str) -> None:
        now = uptime()
        entry = self._found.setdefault(what, {"count": 0, "first": now})
        entry["count"] += 1
        entry["last"] = now

    def write(self) -> None:
        if uptime() < self._until:
            return
        self._until = uptime() + RECORD_S
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps({"at": uptime(), "found": self._found}), encoding="utf-8")
        aside.replace(self._path)


def say_ready() -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(b"READY=1", address)


def listen(record: Record, ports: list[int]) -> None:
    selector = selectors.DefaultSelector()
    for port, kind in itertools.product(ports, (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
        server = socket.socket(socket.AF_INET6, kind)
        server.setblocking(False)
        server.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            server.listen(1024)
        selector.register(server, selectors.EVENT_READ, (kind, port))
    say_ready()
    while True:
        for key, _ in selector.select(RECORD_S):
            kind, port = key.data
            with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                while True:
                    arrive(key.fileobj, kind)
                    record.note(f"{'tcp' if kind == socket.SOCK_STREAM else 'udp'} {port}")
        record.write()


def arrive(server: Any, kind: int) -> None:
    if kind == socket.SOCK_STREAM:
        server.accept()[0].close()
    else:
        server.recv(64)


def ask(record: Record, addresses: list[str], ports: list[int]) -> None:
    senders = {
        family: socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)
    }
    goals = [
        (socket.AF_INET6 if ":" in address else socket.AF_INET, address, port)
        for address, port in itertools.product(addresses, ports)
    ]
    tries = {goal: attempts(record, *goal) for goal in goals}
    say_ready()
    while not has_carrier(senders[socket.AF_INET]):
        record.write()
        time.sleep(ROUND_S)
    while True:
        began = time.monotonic()
        for family, address, port in goals:
            with contextlib.suppress(OSError):  # there is no network yet
                senders[family].sendto(b"x", (address, port))
                record.note(f"udp {port}")
            next(tries[family, address, port])
        record.write()
        # In an emulated machine a round takes long, and others have to come to their work.
        time.sleep(max(ROUND_S, time.monotonic() - began))


def has_carrier(asking: socket.socket) -> bool:
    """Whether somebody is at the other end of an interface."""
    for _, name in socket.if_nameindex():
        answer = fcntl.ioctl(asking, GET_FLAGS, struct.pack("16sh22x", name.encode(), 0))
        if struct.unpack_from("16xh", answer)[0] & (LOOPBACK | RUNNING) == RUNNING:
            return True
    return False


def attempts(record: Record, family: int, address: str, port: int) -> Iterator[None]:
    """At each turn one connection more is tried, and those are let go that came about or took too long."""
    under_way: list[tuple[socket.socket, float]] = []
    while True:
        if len(under_way) < AT_ONCE:
            new = socket.socket(family, socket.SOCK_STREAM)
            new.setblocking(False)
            new.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
            if new.connect_ex((address, port)) in {0, errno.EINPROGRESS}:
                record.note(f"tcp {port}")
                under_way.append((new, time.monotonic()))
            else:
                new.close()
        else:
            under_way.sort(key=lambda each: each[1])
        kept = []
        for each, begun in under_way:
            if time.monotonic() > begun + TRY_S or has_ended(each):
                each.close()
            else:
                kept.append((each, begun))
        under_way = kept
        yield


def has_ended(connection: socket.socket) -> bool:
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return True
    with contextlib.suppress(OSError):
        connection.getpeername()
        return True
    return False


def main() -> None:
    verb, path, *words = sys.argv[1:]
    if verb == "listen":
        listen(Record(Path(path)), list(map(int, words)))
    at = words.index("--")
    ask(Record(Path(path)), words[:at], list(map(int, words[at + 1 :])))


if __name__ == "__main__":
    main()
