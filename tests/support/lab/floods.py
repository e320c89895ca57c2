"""What asking the control node's agent without end does to the rest of a mesh, measured.

Root of one member asks the membership service, or a user of the control machine asks for its metrics.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from qmesh.mesh.protocol.enrolment import parse_invitation
from tests.support.lab.cluster import AGENT, STATE, facts, find_only, make_control, make_member, qmesh
from tests.support.lab.machines import TOOLS, Lab, Machine
from tests.support.waiting import patience, pause, wait_until

KINDS = ("polls", "bodies", "redemptions", "connections", "documents", "reports")
METRICS_KINDS = ("metrics", "untaken_metrics", "half_questions")
"""Those of a user of the control machine."""
METRICS_PLACE = "127.0.0.1:9586"
_USER = 65534
MOST_HEARD_S, MOST_MB, MOST_SHARE, MOST_LOGGED = 2.0, 150.0, 0.5, 64 * 1024
MOST_GUARD_MS = 100.0
_EVERY_S = 1.0


class Flooded(msgspec.Struct, frozen=True):
    """What a flood did.

    heard_s: of the changes meanwhile, the longest until another member had it.
    guard_ms: the longest until the control node's guard was back that was deleted.
    megabytes: of the control node's agent, at most; share: of one processor that it used; logged: octets by
        which its log grew.
    begun: connections of the flood. scraped: of root's questions for metrics, one a second, the part that was
        answered; None where none was asked.
    """

    kind: str
    heard_s: float
    guard_ms: float
    megabytes: float
    share: float
    logged: int
    begun: int
    scraped: float | None = None


class Floods:
    """A mesh of three: the control node, a hostile member, and one that wants to hear of changes."""

    def __init__(self, lab: Lab) -> None:
        self.control = make_control(lab)
        self.hostile = make_member(lab, self.control, 201, 4)
        self.other = make_member(lab, self.control, 202, 4)
        self.invitation = self.hostile.read("/root/invitation")
        self.port = parse_invitation(self.invitation).service_port
        machines = _membership(self.hostile)["machines"]
        (self.key,) = (each["public_key"] for each in machines if each["name"] == self.hostile.name)
        self._workers = 4

    def flood(self, kind: str, seconds: float) -> Flooded:
        """One of them, for so long."""
        agent = _process(self.control)
        before, used, began = _logged(self.control), _used_s(agent), time.monotonic()
        is_of_metrics = kind in METRICS_KINDS
        if is_of_metrics:
            qmesh(self.control, "set", "--metrics", METRICS_PLACE)
            wait_until(self.scrape, 30)
        words: list[str | Path] = ["python", TOOLS / "flood.py", kind]
        if is_of_metrics:
            flooding = self.control.start([*words, *METRICS_PLACE.split(":"), str(_USER)])
        else:
            words += ["10.77.0.1", str(self.port)]
            flooding = self.hostile.start(words, input=self.invitation + self.key)
        flooding.wait_for("ready")
        most, ended = [_resident_mb(agent)], threading.Event()
        watching = threading.Thread(target=_watch, args=(agent, most, ended))
        watching.start()
        try:
            heard, guard_ms = [self._change()], self._deleted()
            scraped = [self.scrape()] if is_of_metrics else []
            while time.monotonic() < began + seconds:
                pause(_EVERY_S)
                heard.append(self._change())
                guard_ms += self._deleted()
                scraped += [self.scrape()] if is_of_metrics else []
        finally:
            ended.set()
            watching.join()
            share = (_used_s(agent) - used) / (time.monotonic() - began)
            flooding.send_signal(signal.SIGTERM)
        assert flooding.wait(30) == 0, flooding.error_output()
        assert _process(self.control) == agent, "the agent was begun anew"
        told = json.loads(flooding.output().removeprefix("ready\n"))
        logged = _logged(self.control) - before
        return Flooded(
            kind=kind,
            heard_s=max(heard),
            guard_ms=max(guard_ms),
            megabytes=max(most),
            share=share,
            logged=logged,
            begun=told["begun"],
            scraped=sum(scraped) / len(scraped) if scraped else None,
        )

    def scrape(self) -> bool:
        """Whether Prometheus, on the control machine, has its metrics within its ten seconds."""
        asking = f"import urllib.request as u; u.urlopen('http://{METRICS_PLACE}/metrics', timeout=10).read()"
        return self.control.run(["python", "-c", asking], check=False).returncode == 0

    def _deleted(self) -> list[float]:
        """Milliseconds until the guard is back that is deleted; no command is to find it gone."""
        return list(json.loads(self.control.run(["python", TOOLS / "siege.py", "delete", "2"]).stdout))

    def _change(self) -> float:
        """Seconds from the begin of a command that changes the mesh until the other member has it."""
        self._workers = 9 - self._workers
        began = time.monotonic()
        revision = facts(self.control, "set", "control", "--workers", str(self._workers))["revision"]
        until = began + patience(20)
        while _held(self.other) < revision and time.monotonic() < until:
            pause()
        return time.monotonic() - began


def _membership(machine: Machine) -> Any:
    return json.loads(base64.b64decode(json.loads(machine.read(f"{STATE}/membership.json"))["payload"]))


def _held(machine: Machine) -> int:
    return int(_membership(machine)["revision"])


def _process(control: Machine) -> int:
    """The host's number of the agent."""
    (process,) = control._on_host([find_only(control, AGENT)])
    return process


def _logged(control: Machine) -> int:
    """Octets in its logs."""
    return sum(path.stat().st_size for path in control.path(STATE).glob("agent.log*"))


def _watch(process: int, most: list[float], ended: threading.Event) -> None:
    while not ended.wait(0.1):
        most.append(_resident_mb(process))


def _resident_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def _used_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
