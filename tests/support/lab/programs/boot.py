"""What is done in a machine of asked_machine.py once it is up, from inside: `boot.py guarded`, and others.

It answers in JSON. The one that asks (knock.py) goes on from before the network came until the end.
"""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.waiting import Deadline, comes_true, idle

RECORDS = Path("/run/knock")
WORKERS = [f"qmesh-worker@{core}.service" for core in (2, 3)]
KEPT_OUT = "qmesh-worker@1.service"
"""The careless server has its port."""
UNITS = ["qmesh-guard.service", "qmesh-hold.service", "qmesh.service", *WORKERS]
UNTIL_S = 60.0
QUIET_S = 0.7
"""How long each disturbance is watched at least."""
ENOUGH = 50
"""How often a worker is asked for meanwhile, at least."""


def run(*words: str) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def shown(name: str, *units: str) -> list[str]:
    """A property of units, in their order."""
    return run("systemctl", "show", "--value", f"--property={name}", *units).split("\n\n")


def processes(*units: str) -> list[int]:
    return list(map(int, shown("MainPID", *units)))


def states(*units: str) -> list[str]:
    return [state.strip() for state in shown("ActiveState", *units)]


def began(*units: str) -> dict[str, float]:
    """Seconds of uptime at which units were active."""
    found = shown("ActiveEnterTimestampMonotonic", *units)
    return {unit: int(microseconds) / 1e6 for unit, microseconds in zip(units, found, strict=True)}


def are_active(*units: str) -> bool:
    return set(states(*units)) == {"active"}


def tables() -> list[str]:
    listed = run("nft", "list", "tables").splitlines()
    return sorted(line.removeprefix("table ").strip() for line in listed if " qmesh" in line)


def until(true: Callable[[], bool], what: str) -> None:
    if not comes_true(true, UNTIL_S, every_s=0.1):
        raise RuntimeError(f"it did not come about within {Deadline(UNTIL_S)}: {what}")


def recorded(name: str) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads((RECORDS / name).read_text())
        return found
    return {"at": 0.0, "found": {}}


def knocks() -> dict[str, Any]:
    """What was asked for and what arrived, as it is after this moment."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    until(lambda: recorded("asked")["at"] > now and recorded("came")["at"] > now, "records")
    return {"asked": recorded("asked")["found"], "came": recorded("came")["found"]}


def times_asked(found: dict[str, Any] | None = None) -> int:
    """How often workers were asked for, by what was recorded; by now unless given."""
    found = recorded("asked")["found"] if found is None else found
    return sum(int(entry["count"]) for what, entry in found.items() if what.endswith(" 40000"))


def neighbour_came() -> bool:
    return {"tcp 39999", "udp 39999"} <= set(recorded("came")["found"])


def kill(unit: str) -> None:
    until(lambda: processes(unit) != [0], f"{unit} runs")
    os.kill(processes(unit)[0], signal.SIGKILL)


def systemctl(*words: str) -> Callable[[], object]:
    return lambda: run("systemctl", *words)


# Those of the agent and the holder are not waited for: the next finds them on their way up. While no
# agent runs, only what systemd does brings the first table back.
DISTURBANCES: dict[str, Callable[[], object]] = {
    "stop qmesh": systemctl("stop", "qmesh"),
    "restart nftables": systemctl("restart", "nftables"),
    "reload nftables": systemctl("reload", "nftables"),
    "stop nftables": systemctl("stop", "nftables"),
    "start nftables": systemctl("start", "nftables"),
    "start qmesh": systemctl("start", "qmesh"),
    "restart nftables under the agent": systemctl("restart", "nftables"),
    "daemon-reload": systemctl("daemon-reload"),
    "kill -9 of the agent": lambda: kill("qmesh.service"),
    "kill -9 of the holder": lambda: kill("qmesh-hold.service"),
    "restart qmesh": systemctl("restart", "--no-block", "qmesh"),
    "restart qmesh-hold": systemctl("restart", "--no-block", "qmesh-hold"),
}


def disturbed(disturb: Callable[[], object]) -> dict[str, Any]:
    before, workers = knocks(), processes(*WORKERS)
    disturb()
    at_once = tables()
    idle(QUIET_S)
    until(lambda: times_asked() >= times_asked(before["asked"]) + ENOUGH, "questions")
    return {
        "before": before,
        "after": knocks(),
        "tables": at_once,
        "workers_went_on": workers == processes(*WORKERS) and are_active(*WORKERS),
    }


def guarded() -> dict[str, Any]:
    until(lambda: are_active(*UNITS), "all units")
    until(neighbour_came, "the network")
    until(lambda: times_asked() >= 4 * ENOUGH, "questions")
    until(
        lambda: "is in use" in run("journalctl", "--boot", "--output=cat", f"--unit={KEPT_OUT}"), "a refusal"
    )
    return {
        "kept_out": processes(KEPT_OUT),
        "tables": tables(),
        "tunnel": json.loads(run("ip", "-json", "-details", "link", "show", "qmesh0"))[0]["linkinfo"],
        "began": began(*UNITS, "network-pre.target", "lan.service"),
        "reserved": (RECORDS / "reserved").read_text().strip(),
        "knocks": knocks(),
    }


def all_disturbed() -> dict[str, Any]:
    guarded()
    found = {name: disturbed(disturb) for name, disturb in DISTURBANCES.items()}
    answer = {"disturbed": found, "verified": verified()}
    until(lambda: are_active(*UNITS), "all units again")
    until(lambda: times_asked() >= 40 * ENOUGH, "questions")
    return {**answer, "end": knocks(), "tables": tables()}


def verified() -> str:
    units = ["qmesh.service", "qmesh-guard.service", "qmesh-hold.service", "nftables.service", WORKERS[0]]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], check=False, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def broken() -> dict[str, Any]:
    until(neighbour_came, "the network")
    boot = states("qmesh-guard.service", *WORKERS)
    until(lambda: are_active("qmesh.service", "qmesh-hold.service"), "the agent and the holder")
    mended = time.clock_gettime(time.CLOCK_BOOTTIME)
    idle(QUIET_S)
    closed = knocks()
    until(lambda: are_active(*WORKERS), "the workers")
    until(lambda: times_asked() >= times_asked(closed["asked"]) + ENOUGH, "questions")
    return {
        "boot": boot,
        "began": began("network-pre.target", "lan.service", *WORKERS),
        "mended": mended,
        "tables": tables(),
        "closed": closed,
        "end": knocks(),
    }


def removed() -> dict[str, Any]:
    until(neighbour_came, "the network")
    until(lambda: times_asked() >= 4 * ENOUGH, "questions")
    return {"tables": tables(), "began": began("qmesh-guard.service", "network-pre.target"), "end": knocks()}


DONE = {"guarded": guarded, "disturbed": all_disturbed, "broken": broken, "removed": removed}


if __name__ == "__main__":
    try:
        print(json.dumps(DONE[sys.argv[1]]()))
    except RuntimeError as error:
        journal = run("journalctl", "--boot", "--no-pager", "--output=short-monotonic", "--lines=120")
        sys.exit(f"{error}\n{journal}")
