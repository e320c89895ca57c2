"""`status --bench`: how quick a core of this machine is now, beside what other machines have told of theirs.

Nothing is asked of another machine: each agent measures its own at long intervals, and tells it.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from typing import Final

import msgspec

from qmesh.agent.local import load_local
from qmesh.agent.preconditions import check_user
from qmesh.host.machine_facts import hardware
from qmesh.host.machine_facts.core_speed import measure_core_speed
from qmesh.host.state.directory import State
from qmesh.host.system import agent_health, background
from qmesh.mesh.machine_facts.facts import MachineFacts, ToldFacts

HEALTH_S: Final = 2.0
_SLICE_S: Final = 0.02
_SLICES: Final = 25
"""So many pieces of so much processor time, of which the middle one counts."""
_NICENESS: Final = 5
"""Workers that need all processors have three quarters of that one meanwhile."""


class MachineSpeed(msgspec.Struct, frozen=True):
    """A machine's cores. core_speed: as of `MachineFacts`; None where it was not measured yet.

    share: of the quickest machine's speed, 0 to 1. age_s: seconds since that was told.
    """

    machine: str
    cpu: str
    cores: int | None
    core_speed: int | None
    share: float | None
    age_s: float | None


class BenchStatus(msgspec.Struct, frozen=True):
    """What `status --bench` answers. name: this machine's, which was measured now; others as they told."""

    mesh: str
    name: str
    machines: tuple[MachineSpeed, ...]


def measure_machines(state: State) -> BenchStatus:
    """Measure this machine, for half a second of one core, and list what is known of others."""
    check_user("status", option="--bench")
    here, now = load_local(state), time.time()
    told = {each.address: each for each in _request_facts(state)}
    address = here.machine.address
    own = told[address].facts if address in told else MachineFacts()
    measured = msgspec.structs.replace(
        own,
        cpu=hardware.read_cpu_model(),
        cores=hardware.count_cores(),
        core_speed=_measure_in_pieces(),
    )
    told[address] = ToldFacts(address, now, measured)
    known = {each.name: told.get(each.address) for each in here.inventory.machines}
    return BenchStatus(here.inventory.mesh, here.settings.name, _build_rows(known, now))


def _measure_in_pieces() -> int:
    os.nice(_NICENESS)
    return round(statistics.median(measure_core_speed(_SLICE_S) for _ in range(_SLICES)))


def _request_facts(state: State) -> tuple[ToldFacts, ...]:
    """What this machine's agent knows; nothing where it does not say, which is for `check` to tell."""
    if background.is_agent_running(state):
        with contextlib.suppress(agent_health.NoAnswer):
            return agent_health.request_health(state.directory, wait_s=HEALTH_S).facts
    return ()


def _build_rows(known: dict[str, ToldFacts | None], now: float) -> tuple[MachineSpeed, ...]:
    speeds = (each.facts.core_speed or 0 for each in known.values() if each is not None)
    quickest = max(speeds, default=0)
    rows = []
    for name, each in known.items():
        facts = MachineFacts() if each is None else each.facts
        speed = facts.core_speed
        rows.append(
            MachineSpeed(
                name,
                facts.cpu,
                facts.cores,
                speed,
                round(speed / quickest, 3) if speed and quickest else None,
                None if each is None else max(0.0, round(now - each.at, 1)),
            )
        )
    return tuple(rows)
