"""How news of a mesh spreads to real machines with a tunnel each, on the control node's processors.

Each is told, writes the membership and looks at itself. Then some are removed while they send.
None proves its claims, as each would by a processor of its own: here fifty would take a minute of two.
"""

from __future__ import annotations

import base64
import json
import statistics
import time
from pathlib import Path

from benchmarks.measuring import Figure, percentile

from tests.support.lab.cluster import STATE, facts, invite, make_control, qmesh
from tests.support.lab.machines import Lab, Machine

MOST_INFORMED_S, MOST_REMOVED_S = 3, 2

ASK = """
import socket, time
asking = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
asking.connect(("10.77.0.1", 0))
asking.settimeout(0.2)
while True:
    try:
        asking.send(bytes((8, 0, 0xF7, 0xFF)) + bytes(4))  # an echo request, with its checksum
        asking.recv(100)
        print(time.time(), flush=True)
    except OSError:
        pass
    time.sleep(0.01)
"""
"""Says when it was answered through the tunnel, a hundred times a second."""


def figures(machines: int, times: int) -> list[Figure]:
    """Changes told to all machines, and machines removed."""
    with Lab() as lab:
        control = make_control(lab)
        members = []
        for number in range(machines):
            machine = lab.machine(f"m{number}", f"192.168.0.{10 + number}", f"fd00:1a::{10 + number}")
            invite(control, machine, "--workers", "1")
            qmesh(machine, "join", "invitation")
            qmesh(machine, "set", "--no-prove")
            members.append(machine)
        informed = [_informed(control, members, str(4 + turn)) for turn in range(times)]
        removed = [_removed(control, machine) for machine in members[:times]]
    size = f"{machines} machines"
    longest, last = max(informed), max(removed)
    return [
        Figure("`qmesh set`, until all know, median", size, statistics.median(informed), None, "s", "", None),
        Figure(
            f"the same, the longest of {times}",
            size,
            longest,
            None,
            "s",
            f"< {MOST_INFORMED_S} s",
            longest < MOST_INFORMED_S,
        ),
        Figure(
            "`qmesh remove`, until the last packet, median",
            size,
            statistics.median(removed),
            None,
            "s",
            "",
            None,
        ),
        Figure(
            f"the same, the longest of {times}",
            size,
            last,
            None,
            "s",
            f"< {MOST_REMOVED_S} s",
            last < MOST_REMOVED_S,
        ),
        Figure("the same, 90th percentile", size, percentile(removed, 90), None, "s", "", None),
    ]


def _informed(control: Machine, members: list[Machine], workers: str) -> float:
    """Seconds from the command's start to the last file."""
    begun = time.perf_counter()
    revision = facts(control, "set", "control", "--workers", workers)["revision"]
    while any(_held(machine) != revision for machine in members):
        time.sleep(0.01)
    return time.perf_counter() - begun


def _held(machine: Machine) -> int:
    """The revision that a machine holds, read from outside it."""
    path = Path(f"/proc/{machine.pid}/root{STATE}/membership.json")
    payload = base64.b64decode(json.loads(path.read_text())["payload"])
    return int(json.loads(payload)["revision"])


def _removed(control: Machine, machine: Machine) -> float:
    """Seconds from the command's start to the last answer that the machine was given in the tunnel."""
    asking = machine.start(["python", "-c", ASK])
    asking.wait_for("\n", timeout=10)
    begun = time.time()
    qmesh(control, "remove", machine.name)
    time.sleep(0.5)
    asking.kill()
    return float(asking.output().splitlines()[-1]) - begun
