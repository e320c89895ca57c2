"""A UDP relay that is far away: the public side of somebody's NAT, with a forwarded port and a delay.

    python far.py PORT HOST TO_PORT DELAY_MS

Datagrams to PORT go to HOST:TO_PORT from a socket for each sender, and answers go back, each way late.
"""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import heapq
import itertools
import select
import socket
import sys
import time


def main() -> None:
    port, host, to_port, delay_ms = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    front.bind(("", port))
    backs: dict[tuple[str, int], socket.socket] = {}
    senders: dict[socket.socket, tuple[str, int]] = {}
    late: list[tuple[float, int, socket.socket, bytes, tuple[str, int]]] = []
    number = itertools.count()
    print("ready", flush=True)
    while True:
        wait_s = max(0.0, late[0][0] - time.monotonic()) if late else None
        for ready in select.select([front, *senders], [], [], wait_s)[0]:
            datagram, sender = ready.recvfrom(1 << 16)
            if ready is front and sender not in backs:
                backs[sender] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                senders[backs[sender]] = sender
            out, to = (backs[sender], (host, to_port)) if ready is front else (front, senders[ready])
            heapq.heappush(late, (time.monotonic() + delay_ms / 1000, next(number), out, datagram, to))
        while late and late[0][0] <= time.monotonic():
            _, _, out, datagram, to = heapq.heappop(late)
            out.sendto(datagram, to)


if __name__ == "__main__":
    main()
