"""Sees, on the attacked machine, which asked-for TCP connections reached a listening port.

    witness.py FIRST LAST

FIRST and LAST bound the source ports of the attempts that are watched for. Says `ready`, and on
SIGTERM writes a JSON list of [port, source port] of those that were reached.

A port was reached when the kernel answers for it: a SYN-ACK is about to leave by any interface,
the tunnel and lo included, or, should a rule drop that answer, a half-open connection is in the
kernel's table. The forger never sees the answer, so he can't tell; this can.
"""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path

ANY_PROTOCOL = 0x0003
OUTGOING = 4
SYN_AND_ACK = 0x12
SYN_RECEIVED = "03"
TABLE_SECONDS = 0.05


def answered(packet: bytes) -> tuple[int, int] | None:
    """(port, source port) of the connection that this IPv4 packet accepts, or None."""
    if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
        return None
    start = (packet[0] & 0x0F) * 4
    port, source_port = struct.unpack_from("!HH", packet, start)
    return (port, source_port) if packet[start + 13] & SYN_AND_ACK == SYN_AND_ACK else None


def half_open() -> set[tuple[int, int]]:
    """(port, source port) of every connection in state SYN_RECV. Source: proc(5)."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            if state == SYN_RECEIVED:
                found.add((int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16)))
    return found


def watch(sniffer: socket.socket, stop: socket.socket) -> set[tuple[int, int]]:
    """Collect what was reached until something can be read from `stop`."""
    reached: set[tuple[int, int]] = set()
    look_again = 0.0
    while True:
        readable, _, _ = select.select([sniffer, stop], [], [], TABLE_SECONDS)
        if time.monotonic() > look_again or stop in readable:
            reached |= half_open()
            look_again = time.monotonic() + TABLE_SECONDS
        if sniffer in readable:
            packet, origin = sniffer.recvfrom(128)
            connection = answered(packet) if origin[2] == OUTGOING else None
            if connection:
                reached.add(connection)
        elif stop in readable:
            return reached


def main() -> None:
    """Watch until terminated, then tell."""
    first, last = int(sys.argv[1]), int(sys.argv[2])
    stop, stopped = socket.socketpair()
    stopped.setblocking(False)
    signal.set_wakeup_fd(stopped.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ANY_PROTOCOL)) as sniffer:
        print("ready", flush=True)
        reached = watch(sniffer, stop)
    print(json.dumps(sorted(pair for pair in reached if first <= pair[1] <= last)))


if __name__ == "__main__":
    main()
