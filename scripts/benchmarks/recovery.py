"""How long a part of the agent that crashes or hangs is down, and until when `check` names it.

`check` is asked without a pause, and takes some time itself. What hangs is found after five seconds.
"""

from __future__ import annotations

import itertools
import time
from typing import Final

from benchmarks.measuring import Figure

from tests.support.lab.broken_parts import NAMES, breakable_agent, findings, spoil
from tests.support.lab.cluster import make_control, make_member, qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import wait_until

MOST_S: Final = 10
PARTS: Final = {
    "control": ("service", "look", "monitor", "answering", "following"),
    "member": ("asking",),
}
_OTHER: Final = itertools.cycle("34")
"""Workers of the member: only what is another number than before is news."""


def figures(runs: int, parts: int, ways: int) -> list[Figure]:
    """Of so many parts of each machine, each broken in so many ways so many times; the longest of each."""
    found = []
    with Lab() as lab:
        control = make_control(lab)
        machines = {"control": control, "member": make_member(lab, control, 201, 2)}
        for which, names in PARTS.items():
            for part in names[:parts]:
                for how in ("crash", "hang")[:ways]:
                    times = [_broken(machines[which], control, part, how) for _ in range(runs)]
                    found += _figures(part, how, times)
    return found


def _figures(part: str, how: str, times: list[tuple[float, float]]) -> list[Figure]:
    named, well = (max(each[which] for each in times) for which in (0, 1))
    does = f"{NAMES[part].replace('`', '')} {how}es".replace("hanges", "hangs")
    return [
        Figure(f"{does}: until `check` names it", "", named, None, "s", f"< {MOST_S} s", named < MOST_S),
        Figure(f"{does}: until it is well", "", well, None, "s", f"< {MOST_S} s", well < MOST_S),
    ]


def _broken(machine: Machine, control: Machine, part: str, how: str) -> tuple[float, float]:
    """Seconds from its being broken until it is named, and until nothing else is said any more."""
    named: list[float] = []

    def is_well() -> bool:
        found = findings(machine)
        if found and not named:
            named.append(time.monotonic() - began)
        return set(found) == {"agent-restarted"}

    with breakable_agent(machine):
        spoil(machine, how, part, news=lambda: qmesh(control, "set", "machine-b", "--workers", next(_OTHER)))
        began = time.monotonic()
        wait_until(is_well, seconds=60)
        return named[0], time.monotonic() - began
