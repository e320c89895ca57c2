"""Joining, one machine after the other, to a control node on the same processors; and where the time goes."""

from __future__ import annotations

import itertools
import statistics
import time

from benchmarks.measuring import Figure, percentile

from tests.support.lab.cluster import invite, qmesh
from tests.support.lab.faults import Ended, Faulty, reset
from tests.support.lab.machines import Lab, Machine

PHASES = {
    "first look": "create private.key",
    "own key": "create joining.json",
    "guard": "start setpriv",
    "the process that holds it, beside the tunnel's": "send unix set=1",
    "tunnel": "send http POST /v1/redemptions",
    "handshake and redemption": "create preshared.key",
    "membership kept": "nft worker ports",
    "the guard with its ports, the own key": "send http GET /v1/membership",
    "handshake with the own key": "mkdir node",
    "config.yml": "start qmesh agent",
}
"""What ends each phase of a join; the last one is the agent's start."""


def make_mesh(lab: Lab) -> tuple[Machine, Faulty]:
    """A control node, with an agent."""
    machine = lab.machine("machine-a", "192.168.0.200")
    faulty = Faulty(machine)
    faulty.succeed("init", "--workers", "1", "--node", "1.4", "--endpoint", machine.ipv4)
    return machine, faulty


def figures(runs: int, phased_runs: int) -> list[Figure]:
    """Median, the slowest of a hundred, and the phases of some more whose points are written down."""
    with Lab() as lab:
        control, faulty = make_mesh(lab)
        member = lab.machine("machine-b", "192.168.0.201")
        whole = []
        for _ in range(runs):
            start_over(faulty, control, member)
            begun = time.perf_counter()
            qmesh(member, "join", "invitation")
            whole.append(1000 * (time.perf_counter() - begun))
        joining = Faulty(member)
        phased = []
        for _ in range(phased_runs):
            start_over(faulty, control, member)
            phased.append(joining.succeed("join", "/root/invitation"))
    size = f"{runs} times"
    figures = [
        Figure("`qmesh join`, median", size, statistics.median(whole), None, "ms", "", None),
        Figure("`qmesh join`, 99th percentile", size, percentile(whole, 99), None, "ms", "", None),
    ]
    loaded = statistics.median(whole) - 1000 * statistics.median(each.times[-1] for each in phased)
    phases = {"Python and what qmesh loads": loaded, **medians(phased)}
    return figures + [
        Figure(f"of it: {name}", f"{phased_runs} times", took, None, "ms", "", None)
        for name, took in phases.items()
    ]


def start_over(faulty: Faulty, control: Machine, member: Machine) -> None:
    """A machine that never heard of the mesh, with an invitation."""
    reset(member)
    faulty("remove", "machine-b")
    invite(control, member, "--workers", "4")


def medians(phased: list[Ended]) -> dict[str, float]:
    """Milliseconds of each phase, by its name."""
    found: dict[str, list[float]] = {name: [] for name in (*PHASES, "agent started")}
    for each in phased:
        ends = [each.times[each.points.index(label)] for label in PHASES.values()]
        for name, (begun, ended) in zip(found, itertools.pairwise((0.0, *ends, each.times[-1])), strict=True):
            found[name].append(1000 * (ended - begun))
    return {name: statistics.median(took) for name, took in found.items()}
