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
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.waiting import patience

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


WAYS = ("plain", "bound to the tunnel", "by MPTCP", "called root")


def answers(way: str, user: int, address: str, port: int, times: int) -> int:
    """How often that user gets an answer who asks in a way."""
    become(user)
    if way == "called root":
        be_called_root()
    device = b"qmesh0" if way == "bound to the tunnel" else b""
    protocol = MPTCP if way == "by MPTCP" else 0
    with ThreadPoolExecutor(times) as pool:
        return sum(
            pool.map(lambda _: is_answered(address, port, protocol=protocol, device=device), range(times))
        )


def main() -> None:
    """Ask in all ways at once, each in a process of its own, and say how often there was an answer."""
    user, address, port, times, *way = sys.argv[1:]
    if way:
        print(answers(way[0], int(user), address, int(port), int(times)))
        return
    asking = [
        subprocess.Popen([sys.executable, *sys.argv, each], stdout=subprocess.PIPE, text=True)
        for each in WAYS
    ]
    said = [each.communicate()[0] for each in asking]
    print(json.dumps(dict(zip(WAYS, map(int, said), strict=True))))


if __name__ == "__main__":
    main()
