"""A local user who wants to speak with the membership service: `user.py NUMBER ADDRESS PORT TIMES`.

Becomes that user, and asks so often in each way that he has; prints in JSON by each how often he got
an answer. Number 0 is root, as the positive control.
"""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab.waiting import patience

MPTCP = 262
NEW_USERS = 0x10000000
DUMPABLE = 4
QUESTION = b"GET /v1/membership?newer_than=0&wait=0&whole=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
ANSWER_S = 2.5
"""Longer than TCP takes to ask for a connection a second time."""


def is_answered(address: str, port: int, *, protocol: int = 0, device: bytes = b"") -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, protocol) as asking:
        asking.settimeout(patience(ANSWER_S))
        try:
            if device:
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
            asking.connect((address, port))
            asking.send(QUESTION)
            return asking.recv(4) == b"HTTP"
        except OSError:
            return False


def become(user: int) -> None:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    assert os.getresuid() == (user, user, user)


def be_called_root() -> None:
    """In a user namespace of one's own."""
    user, libc = os.getuid(), ctypes.CDLL(None)
    libc.prctl(DUMPABLE, 1)
    assert libc.unshare(NEW_USERS) == 0
    Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="utf-8")
    assert os.getuid() == 0


def main() -> None:
    """Ask in each way, and say how often there was an answer."""
    user, address, port, times = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    ways = {
        "plain": lambda: is_answered(address, port),
        "bound to the tunnel": lambda: is_answered(address, port, device=b"qmesh0"),
        "by MPTCP": lambda: is_answered(address, port, protocol=MPTCP),
        "called root": lambda: is_answered(address, port),
    }
    become(user)
    found = {}
    for name, way in ways.items():
        if name == "called root":
            be_called_root()
        with ThreadPoolExecutor(times) as pool:
            found[name] = sum(pool.map(lambda _, way=way: way(), range(times)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
