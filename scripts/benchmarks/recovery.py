"""How long what crashes, hangs or is killed of the agent is down, and until when `check` names it.

Parts of the agent first, then processes, on a machine that systemd runs. `check` is asked without a pause,
and takes some time itself; what is back before it has looked is named by nobody. What hangs is found after
five seconds.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from benchmarks.measuring import Figure

from qmesh.host.firewall.holder_client import STARTED_S
from tests.support.lab.broken_parts import NAMES, WISHED, breakable_agent, findings, spoil
from tests.support.lab.cluster import AGENT, HOLDER, TUNNEL, make_control, make_member, qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.systemd import control_group, start_systemd
from tests.support.waiting import Deadline, wait_until

MOST_S: Final = 10
PARTS: Final = {"control": tuple(name for name in NAMES if name != "asking"), "member": ("asking",)}
PROCESSES: Final = (
    ("agent", AGENT, "killed"),
    ("agent", AGENT, "stopped by a signal"),
    ("holder of the guard", HOLDER, "killed"),
    ("holder of the guard", HOLDER, "stopped by a signal"),
    ("tunnel's process", TUNNEL, "killed"),
)
_OTHER: Final = itertools.cycle("34")
"""Workers of the member: only what is another number than before is news."""


def figures(runs: int, parts: int, ways: int, processes: int) -> list[Figure]:
    """Of so many parts of each machine, each broken in so many ways so many times; the longest of each.

    processes: how many of `PROCESSES`.
    """
    found = []
    with Lab() as lab:
        control = make_control(lab)
        for words in WISHED:
            qmesh(control, *words)
        machines = {"control": control, "member": make_member(lab, control, 201, 2)}
        for which, names in PARTS.items():
            for part in names[:parts]:
                for how in ("crash", "hang")[:ways]:
                    times = [_break_part(machines[which], control, part, how) for _ in range(runs)]
                    does = f"{NAMES[part].replace('`', '')} {how}es".replace("hanges", "hangs")
                    found += _figures(does, times)
    return found + (_figures_of_processes(runs, processes) if processes else [])


def _figures(does: str, times: list[tuple[float | None, float]]) -> list[Figure]:
    named = [each for each, _ in times if each is not None]
    found = [(f"{does}: until it is well", max(well for _, well in times))]
    if named:
        found.insert(0, (f"{does}: until `check` names it", max(named)))
    return [Figure(what, "", took, None, "s", f"< {MOST_S} s", took < MOST_S) for what, took in found]


def _break_part(machine: Machine, control: Machine, part: str, how: str) -> tuple[float | None, float]:
    """Seconds from its being broken until it is named, and until nothing else is said any more."""
    with breakable_agent(machine):
        spoil(machine, how, part, news=lambda: qmesh(control, "set", "machine-b", "--workers", next(_OTHER)))
        return _await_well(machine, {}, lambda found: set(found) == {"agent-restarted"})


def _await_well(
    machine: Machine, known: dict[str, Any], is_over: Callable[[dict[str, Any]], bool]
) -> tuple[float | None, float]:
    """Seconds until `check` finds anything new, None where it is over before, and until it is over."""
    began, named, deadline = time.monotonic(), None, Deadline(90)
    while not is_over(found := findings(machine)):
        if found and found != known and named is None:
            named = time.monotonic() - began
        assert not deadline.is_over(), found
    return named, time.monotonic() - began


def _figures_of_processes(runs: int, count: int) -> list[Figure]:
    try:
        with control_group() as group, Lab() as lab:
            machine = lab.machine("machine-a", "192.168.0.200")
            start_systemd(machine, group)
            words = ("--workers", "1", "--node", "1.4", "--endpoint", "192.168.0.200")
            qmesh(machine, "init", *words, timeout=60)
            return [
                figure
                for name, pattern, how in PROCESSES[:count]
                for figure in _figures(
                    f"{name} is {how}", [_end_process(machine, pattern, how) for _ in range(runs)]
                )
            ]
    except pytest.skip.Exception as why:
        print(why, file=sys.stderr)
        return []


def _end_process(machine: Machine, pattern: str, how: str) -> tuple[float | None, float]:
    """The same from the signal on, until another process is there and all is well."""
    known: dict[str, Any] = {}

    def is_well() -> bool:
        known.clear()
        known.update(findings(machine))
        return known.keys() <= {"agent-restarted"}

    wait_until(is_well, seconds=60)
    before = machine.processes(pattern).keys()
    # `check` takes a young holder that does not answer for one that is starting.
    ages = ["ps", "-o", "etimes=", *(f"-p{each}" for each in before)]
    wait_until(lambda: all(int(each) > STARTED_S for each in machine.run(ages).stdout.split()), seconds=60)
    signal = "KILL" if how == "killed" else "STOP"
    machine.run(["kill", f"-{signal}", *map(str, before)])

    def is_over(found: dict[str, Any]) -> bool:
        return found.keys() <= {"agent-restarted"} and bool(machine.processes(pattern).keys() - before)

    return _await_well(machine, known, is_over)
