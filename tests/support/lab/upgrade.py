"""An upgrade under load: what comes through the guard, what is lost, and how long no agent is there.

A control node and a member have qmesh by its package. The control process holds connections to the member's
workers through the tunnel, and a machine of the same LAN asks for all workers without end.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from qmesh.host.system import agent_health
from qmesh.mesh.guard.render import FORMAT
from tests.support.lab.cluster import CONFIG, NODE_CONFIG, STATE
from tests.support.lab.machines import TOOLS, Lab, Machine
from tests.support.lab.packages import PROGRAM, install, prepare_packages
from tests.support.waiting import idle, wait_until

PORTS: Final = {"machine-a": (40000, 40001, 40002), "machine-b": (40003, 40004, 40005, 40006)}
"""The worker ports of each machine."""
OTHER: Final = 9001
"""A port of no worker: that packets arrive there shows that the attempts are real."""
ATTACKER: Final = "192.168.0.66", "fd00:1a::66"
_POLL_S: Final = 0.005
_ANSWER_S: Final = 0.5
_AFTER_S: Final = 0.5
"""Seconds that what was sent last has to arrive, and to be counted."""


class UpgradeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it.

    seconds: until dpkg has ended. away_s: the longest time in which no agent answered.
    asked, arrived: the attacker's attempts at worker ports, and those that came there.
    arrived_elsewhere: those that came to a port of no worker.
    held, lost: connections of the control process. silence_ms: the longest on one of them.
    """

    machine: str
    seconds: float
    away_s: float
    asked: int
    arrived: int
    arrived_elsewhere: int
    held: int
    lost: int
    silence_ms: int

    @property
    def is_good(self) -> bool:
        """Whether nothing came through, nothing was lost, and the attempts were real."""
        return self.arrived == self.lost == 0 < min(self.asked, self.arrived_elsewhere, self.held)


class UpgradeCluster:
    """A control node and a member with a package, under load; `upgrade` gives one of them another package."""

    def __init__(self, lab: Lab, package: Path) -> None:
        self.control = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        self.member = lab.machine("machine-b", "192.168.0.201", "fd00:1a::201")
        self._attacker = lab.machine("attacker", *ATTACKER)
        for machine in (self.control, self.member):
            prepare_packages(machine)
            install(machine, package)
        self._join()
        for machine in (self.control, self.member):
            ports = list(map(str, (*PORTS[machine.name], OTHER)))
            _begin(machine, "load.py", "serve", "/root/served", *ports)
            where = (machine.ipv4, str(machine.ipv6))
            _begin(self._attacker, "knock.py", "ask", f"/root/{machine.name}", *where, "--", *ports)
        workers = list(map(str, PORTS["machine-b"]))
        _begin(self.control, "load.py", "hold", "/root/held", "10.77.0.2", *workers)
        wait_until(lambda: _read(self.control, "/root/held").get("held") == len(workers))

    def _join(self) -> None:
        self.control.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
        words = ("--workers", "3", "--node", "1.4", "--config", CONFIG, "--endpoint", "192.168.0.200")
        self.control.run([PROGRAM, "init", *words])
        text = self.control.run([PROGRAM, "invite", "machine-b", "--workers", "4"]).stdout
        self.member.run(["mkdir", "-p", CONFIG])
        self.member.run([PROGRAM, "join", "-", "--config", CONFIG], input=text)

    def upgrade(self, machine: Machine, package: Path) -> UpgradeReport:
        """Give a machine a package of this checkout, and count until both tables of its guard are loaded."""
        asked, began = self._count_asked(machine), time.monotonic()
        with _measure_absence(machine) as absence:
            install(machine, package)
            seconds = time.monotonic() - began
        wait_until(lambda: _list_formats(machine) == [FORMAT, FORMAT])
        idle(_AFTER_S)
        served, held = _read(machine, "/root/served"), _read(self.control, "/root/held")
        arrived = {OTHER: 0}
        for what, count in served.items():
            port, _, peer = what.partition(" ")
            if peer in ATTACKER:
                arrived[int(port)] = arrived.get(int(port), 0) + count
        return UpgradeReport(
            machine=machine.name,
            seconds=seconds,
            away_s=max(absence),
            asked=self._count_asked(machine) - asked,
            arrived=sum(count for port, count in arrived.items() if port != OTHER),
            arrived_elsewhere=arrived[OTHER],
            held=held["held"],
            lost=held["lost"],
            silence_ms=held["silence_ms"],
        )

    def _count_asked(self, machine: Machine) -> int:
        found = _read(self._attacker, f"/root/{machine.name}")["found"]
        return sum(entry["count"] for what, entry in found.items() if not what.endswith(f" {OTHER}"))


def _list_formats(machine: Machine) -> list[str]:
    """What the loaded tables of the guard say that they are, the second one too."""
    loaded = machine.run(["nft", "list", "ruleset"]).stdout
    return re.findall(r'comment "(qmesh guard \d+): ', loaded)


def _begin(machine: Machine, program: str, verb: str, record: str, *words: str) -> None:
    machine.start(["python", TOOLS / program, verb, record, *words])
    wait_until(machine.path(record).exists)


def _read(machine: Machine, record: str) -> Any:
    return json.loads(machine.read(record))


@contextlib.contextmanager
def flush_rules(machine: Machine) -> Iterator[None]:
    """Have another program of that machine remove all rules, again and again, in this block."""
    flushing = machine.start(["sh", "-c", "while :; do nft flush ruleset; sleep 0.1; done"])
    try:
        yield
    finally:
        flushing.kill_session()


@contextlib.contextmanager
def _measure_absence(machine: Machine) -> Iterator[list[float]]:
    """How long each time was in which no agent answered that it had looked at the machine, in seconds."""
    found, over = [0.0], threading.Event()

    def ask() -> None:
        answered = time.monotonic()
        while not over.wait(_POLL_S):
            with contextlib.suppress(agent_health.NoAnswer):
                if agent_health.request_health(machine.path(STATE), wait_s=_ANSWER_S).looked_s is not None:
                    now = time.monotonic()
                    found.append(now - answered)
                    answered = now
        found.append(time.monotonic() - answered)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield found
    finally:
        over.set()
        asking.join()
