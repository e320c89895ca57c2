"""Joining: one machine after the other, and two hundred at once."""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.measuring import Figure

from tests.lab.cluster import invite, qmesh
from tests.lab.faults import Ended, Faulty, reset
from tests.lab.machines import TOOLS, Lab, Machine, Running

RUNS, PHASED_RUNS = 50, 15
MEMBERS, TUNNELS = 200, 30
PHASES = {
    "first look": "create private.key",
    "own key": "create joining.json",
    "guard, and the process that holds it": "start wireguard-go",
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


def percentile(values: list[float], percent: int) -> float:
    """The least value that so many percent are not above."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def one_by_one() -> list[Figure]:
    """Median, the slowest of a hundred, and where the time goes."""
    with Lab() as lab:
        control, faulty = make_mesh(lab)
        member = lab.machine("machine-b", "192.168.0.201")
        whole = []
        for _ in range(RUNS):
            start_over(faulty, control, member)
            begun = time.perf_counter()
            qmesh(member, "join", "invitation")
            whole.append(1000 * (time.perf_counter() - begun))
        joining = Faulty(member)
        phased = []
        for _ in range(PHASED_RUNS):
            start_over(faulty, control, member)
            phased.append(joining.succeed("join", "/root/invitation"))
    size = f"{RUNS} times"
    figures = [
        Figure("`qmesh join`, median", size, statistics.median(whole), None, "ms", "", None),
        Figure("`qmesh join`, 99th percentile", size, percentile(whole, 99), None, "ms", "", None),
    ]
    loaded = statistics.median(whole) - 1000 * statistics.median(each.times[-1] for each in phased)
    phases = {"Python and what qmesh loads": loaded, **medians(phased)}
    return figures + [
        Figure(f"of it: {name}", f"{PHASED_RUNS} times", took, None, "ms", "", None)
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


def at_once() -> list[Figure]:
    """Two hundred, of which some have a tunnel each and the others are at the service."""
    with Lab() as lab, contextlib.ExitStack() as stack:
        control, faulty = make_mesh(lab)
        texts = [faulty.succeed("invite", f"m{number}", "--workers", "1").out for number in range(MEMBERS)]
        real = [lab.machine(f"m{number}", f"192.168.0.{10 + number}") for number in range(TUNNELS)]
        for machine, text in zip(real, texts, strict=False):
            machine.write("/root/invitation", text, 0o600)
        asking = crowd(control, texts[TUNNELS:])
        pool = stack.enter_context(ThreadPoolExecutor(TUNNELS))
        begun = time.perf_counter()
        control.run(["touch", "/run/go"])
        joined = list(pool.map(timed_join, real))
        asking.wait(120)
        took = time.perf_counter() - begun
        redeemed = json.loads(asking.output().splitlines()[-1])
        failed = sum(code != 0 for _, code in joined) + sum(status != 200 for _, status in redeemed)
        failed += MEMBERS - TUNNELS - len(redeemed)
        machines = faulty.facts("status")["machines"]
    active = sum(each["state"] == "active" for each in machines)
    twice = sum(
        len(machines) - len({each[field] for each in machines}) for field in ("name", "address", "public_key")
    )
    ports = [port for each in machines for port in each["ports"]]
    twice += len(ports) - len(set(ports))
    size = f"{MEMBERS} at once"
    tunnels, rest = f"{TUNNELS} of them", f"{MEMBERS - TUNNELS} of them"
    commands = [1000 * seconds for seconds, _ in joined]
    answers = [1000 * seconds for seconds, _ in redeemed]
    return [
        Figure("joins that failed", size, failed, None, "", "0", failed == 0),
        Figure("members afterwards", size, active - 1, None, "", str(MEMBERS), active - 1 == MEMBERS),
        Figure("names, addresses, keys, ports twice", size, twice, None, "", "0", twice == 0),
        Figure(
            "`qmesh join` with a tunnel, median", tunnels, statistics.median(commands), None, "ms", "", None
        ),
        Figure("the same, 99th percentile", tunnels, percentile(commands, 99), None, "ms", "", None),
        Figure("redemption at the service, median", rest, statistics.median(answers), None, "ms", "", None),
        Figure("the same, 99th percentile", rest, percentile(answers, 99), None, "ms", "", None),
        Figure("members a second, until the last command ended", size, MEMBERS / took, None, "", "", None),
        Figure(
            "redemptions a second, at the service",
            rest,
            1000 * len(answers) / max(answers),
            None,
            "",
            "",
            None,
        ),
    ]


def crowd(control: Machine, texts: list[str]) -> Running:
    """Those that only ask the service, from their own addresses; they wait for /run/go."""
    control.start(["python", TOOLS / "crowd.py", "serve"]).wait_for("ready", timeout=20)
    numbers = range(TUNNELS + 2, MEMBERS + 2)
    commands = "".join(f"addr add 10.77.0.{number}/32 dev lo\n" for number in numbers)
    control.run(["ip", "-batch", "-"], input=commands)
    asking = control.start(["python", TOOLS / "crowd.py", "ask"], input="".join(texts))
    asking.wait_for("ready", timeout=20)
    return asking


def timed_join(machine: Machine) -> tuple[float, int]:
    """A join by the real command: seconds, and its exit code."""
    begun = time.perf_counter()
    done = machine.run(["qmesh", "join", "invitation"], check=False, timeout=180)
    return time.perf_counter() - begun, done.returncode
