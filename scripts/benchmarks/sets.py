"""What a packet costs more with the guard, by how many guarded ports its sets have: no tunnel, no encryption.

Two machines on one wire; a datagram is sent, and received or dropped, in one turn of one processor.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from benchmarks import sample
from benchmarks.measuring import Figure
from benchmarks.packets import STATEFUL

from qmesh.host.firewall import nftables
from qmesh.mesh.guard.script_text import render_release_script
from qmesh.mesh.guard.scripts import render_held_script, render_load_script
from qmesh.mesh.state import Guard

NAMESPACE = "beyond"
NEAR, FAR = "192.0.2.1", "192.0.2.2"
OTHER, WORKER, FIRST_GUARDED = 9000, 20000, 30000
WORKERS = 16
DATAGRAMS = 20_000
"""Sent in one measurement: some tens of milliseconds."""


def figures(ports: int, runs: int) -> list[Figure]:
    """This machine is a worker machine; a neighbour sends to it."""
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    wire = ("near", "type", "veth", "peer", "name", "far", "netns", NAMESPACE)
    subprocess.run(["ip", "link", "add", *wire], check=True)
    for words in (
        ("address", "add", f"{NEAR}/24", "dev", "near"),
        ("link", "set", "near", "up"),
        ("-n", NAMESPACE, "address", "add", f"{FAR}/24", "dev", "far"),
        ("-n", NAMESPACE, "link", "set", "far", "up"),
    ):
        subprocess.run(["ip", *words], check=True)
    asked = {"another port": OTHER, "a worker's port, dropped": WORKER}
    if ports:
        asked["a guarded port, dropped"] = FIRST_GUARDED
    size = f"{ports:,} guarded ports"
    with listening(), Sender() as sender:
        found = []
        for what, port in asked.items():
            ours, none, stateful = sender.compare(port, guard_with(ports), runs)
            work = f"a datagram to {what}"
            found += [Figure(f"{work}, beside no table", size, ours, none, "us", "", None)]
            if port == OTHER:
                found += [Figure(f"{work}, beside one stateful rule", size, ours, stateful, "us", "", None)]
        return found


def guard_with(ports: int) -> Guard:
    """A worker machine's, with so many ports that are no workers'."""
    return Guard(
        role="worker",
        interface=sample.INTERFACE,
        kind="wireguard",
        listen_port=51820,
        control_address="10.64.0.1",
        service_port=51820,
        ports=tuple(range(WORKER, WORKER + WORKERS)),
        own_ports=tuple(range(FIRST_GUARDED, FIRST_GUARDED + ports)),
    )


@contextmanager
def listening() -> Iterator[None]:
    """Somebody has each port, so that no packet is answered by ICMP; what arrives is read by nobody."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    for each, port in zip(sockets, (OTHER, WORKER, FIRST_GUARDED), strict=True):
        each.bind((NEAR, port))
    try:
        yield
    finally:
        for each in sockets:
            each.close()


class Sender:
    """A process in the other namespace, which sends to a port, and says how long that took."""

    def __enter__(self) -> Self:
        words = ["ip", "netns", "exec", NAMESPACE, sys.executable, __file__]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def compare(self, port: int, guard: Guard, runs: int) -> tuple[float, ...]:
        """Microseconds a datagram with both tables, with none, and with one rule: medians, taken in turn."""
        without = f"flush ruleset\n{render_release_script()}"
        both = f"{render_load_script(guard)}{render_held_script(guard)}"
        scripts = [f"{without}{rules}" for rules in (both, "", STATEFUL)]
        taken = [[self._measure(port, script) for script in scripts] for _ in range(runs)]
        return tuple(map(statistics.median, zip(*taken, strict=True)))

    def _measure(self, port: int, script: str) -> float:
        nftables.run(script)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{port}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def serve() -> None:
    """Called in the other namespace: send to each port that is told, and say microseconds a datagram."""
    payload = bytes(64)
    for line in sys.stdin:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.connect((NEAR, int(line)))
            send = here.send
            for _ in range(DATAGRAMS // 20):  # the neighbour is looked up, and the connection is tracked
                send(payload)
            began = time.perf_counter()
            for _ in range(DATAGRAMS):
                send(payload)
            print((time.perf_counter() - began) / DATAGRAMS * 1e6, flush=True)


if __name__ == "__main__":
    serve()
