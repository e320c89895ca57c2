"""How long workers are out of reach while the control role moves to another machine.

It goes to and fro between two machines that dial all the others' workers, each some forty times a second.
What counts is from when the old control node reached a worker last until the new one did first.
"""

from __future__ import annotations

import statistics

from benchmarks.measuring import Figure

from tests.support.lab.cluster import facts, invite, make_control, qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import wait_until

MOST_S = 5
"""Seconds that WireGuard waits for the answer to a handshake. Source: its REKEY_TIMEOUT."""

LISTEN = """
import socket, sys
listening = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    listening.accept()[0].close()
"""
DIAL = """
import socket, sys, threading, time
def ask(address, port):
    while True:
        try:
            socket.create_connection((address, port), timeout=0.2).close()
            print(time.time(), address, flush=True)
        except OSError:
            pass
        time.sleep(0.02)
for number, address in enumerate(sys.argv[2:]):
    threading.Thread(target=ask, args=(address, int(sys.argv[1]) + number)).start()
"""
"""Says when it has reached a worker, some forty times a second for each."""


def figures(machines: int, turns: int) -> list[Figure]:
    """The role goes to and fro between two machines; the others' workers are dialled from both."""
    with Lab() as lab:
        control = make_control(lab, workers=1)
        members = []
        for number in range(machines):
            machine = lab.machine(f"m{number}", f"192.168.0.{10 + number}")
            invite(control, machine, "--workers", "1")
            qmesh(machine, "join", "invitation")
            members.append(machine)
        qmesh(control, "set", "m0", "--endpoint", "192.168.0.10:51820")
        others = members[1:]
        for number, machine in enumerate(others):
            machine.start(["python", "-c", LISTEN, str(40002 + number)]).wait_for("ready")
        gaps: list[float] = []
        pair = [("control", control), ("m0", members[0])]
        for _ in range(turns):
            gaps += _handed_over(pair[0][1], *pair[1], len(others))
            pair.reverse()
    size = f"{machines} machines"
    longest = max(gaps)
    return [
        Figure(
            "`qmesh handover`, a worker out of reach, median",
            size,
            statistics.median(gaps),
            None,
            "s",
            "",
            None,
        ),
        Figure(
            f"the same, the longest of {len(gaps)}",
            size,
            longest,
            None,
            "s",
            f"< {MOST_S} s",
            longest < MOST_S,
        ),
    ]


def _handed_over(old: Machine, name: str, new: Machine, count: int) -> list[float]:
    """For each worker, seconds from when the old control node reached it last until the new one did first."""
    addresses = [f"10.77.0.{3 + number}" for number in range(count)]
    dialling = [machine.start(["python", "-c", DIAL, "40002", *addresses]) for machine in (old, new)]
    wait_until(lambda: all(address in dialling[0].output() for address in addresses))
    facts(old, "handover", name)
    wait_until(lambda: all(address in dialling[1].output() for address in addresses), seconds=30)
    for each in dialling:
        each.kill()
    reached: list[dict[str, list[float]]] = [{}, {}]
    for each, found in zip(dialling, reached, strict=True):
        for line in each.output().splitlines():
            when, _, address = line.partition(" ")
            found.setdefault(address, []).append(float(when))
    return [min(reached[1][address]) - max(reached[0][address]) for address in addresses]
