"""Joining, many at once, to a control node on the same processors.

First clients that are one process, without a tunnel: they redeem, ask until they are answered, and wait for
news, at the agent's own service. Beside it, in turn, the same requests to a bare asyncio server that makes
one durable row of each redemption and answers with as many octets. Then real commands, a machine and a
tunnel each.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from benchmarks.join import make_mesh
from benchmarks.measuring import Figure, percentile

from tests.support.lab.faults import Faulty
from tests.support.lab.machines import TOOLS, Lab, Machine
from tests.support.lab.programs.crowd import TICKS_S, Measured, Round

LEAST_A_SECOND = 50
MOST_S = 3.0


def figures(old: int, members: int, rounds: int, tunnels: int) -> list[Figure]:
    """Rounds of so many at once, to a mesh that has so many old members; then real machines."""
    with Lab() as lab:
        control, faulty = make_mesh(lab)
        done = control.run(["python", TOOLS / "crowd.py", str(old), str(members), str(rounds)], timeout=900)
        crowds = [
            Round(Measured(*each[0]), Measured(*each[1]), *each[2:]) for each in json.loads(done.stdout)
        ]
        commands = of_commands(lab, control, faulty, tunnels) if tunnels else []
        machines = faulty.facts("status")["machines"]
    active = sum(each["state"] == "active" for each in machines) - 1
    twice = sum(
        len(machines) - len({each[field] for each in machines}) for field in ("name", "address", "public_key")
    )
    ports = [port for each in machines for port in each["ports"]]
    twice += len(ports) - len(set(ports))
    size = f"{members} at once" + (f" beside {old:,}" if old else "")
    failed = sum(each.qmesh.failed for each in crowds)
    expected = old + members * rounds + tunnels
    return [
        Figure("joins that failed", size, failed, None, "", "0", failed == 0),
        Figure("members afterwards", size, active, None, "", f"{expected:,}", active == expected),
        Figure("names, addresses, keys, ports twice", size, twice, None, "", "0", twice == 0),
        *of_crowds(crowds, size),
        *commands,
    ]


def of_crowds(crowds: list[Round], size: str) -> list[Figure]:
    """Medians of the rounds."""

    def paired(work: str, unit: str, value: Callable[[Measured], float]) -> Figure:
        ours = statistics.median(value(each.qmesh) for each in crowds)
        theirs = statistics.median(value(each.floor) for each in crowds)
        return Figure(work, size, ours, theirs, unit, "", None)

    a_second = paired("joined, until the last", "/s", lambda each: len(each.joined) / max(each.joined))
    slowest = paired("joined, 99th percentile", "s", lambda each: percentile(each.joined, 99))
    return [
        paired("asked again, as no answer came in 5 s", "", lambda each: each.again),
        a_second._replace(must_be=f">= {LEAST_A_SECOND}", kept=a_second.ours >= LEAST_A_SECOND),
        paired("redeemed, median", "s", lambda each: statistics.median(each.redeemed)),
        paired("joined, median", "s", lambda each: statistics.median(each.joined)),
        slowest._replace(must_be=f"< {MOST_S:.0f} s", kept=slowest.ours < MOST_S),
        paired(
            "of a processor for each, the server", "ms", lambda each: 1000 * each.server_s / len(each.joined)
        ),
        paired("the same, the client", "ms", lambda each: 1000 * each.clients_s / len(each.joined)),
    ]


class Joined(NamedTuple):
    """One real command: its seconds, exit code, and processor seconds; and those of what it left running."""

    took_s: float
    code: int
    command_s: float
    left_s: float


def of_commands(lab: Lab, control: Machine, faulty: Faulty, count: int) -> list[Figure]:
    """So many real commands at once, each on a machine of its own."""
    texts = [faulty.succeed("invite", f"m{number}", "--workers", "1").out for number in range(count)]
    machines = [lab.machine(f"m{number}", f"192.168.0.{10 + number}") for number in range(count)]
    for machine, text in zip(machines, texts, strict=True):
        machine.write("/root/invitation", text, 0o600)
    agent_s = processor_s(control, "qmesh agent")
    with ThreadPoolExecutor(count) as pool:
        began = time.perf_counter()
        joined = list(pool.map(timed_join, machines))
        all_s = time.perf_counter() - began
    agent_s = processor_s(control, "qmesh agent") - agent_s
    size, failed = f"{count} commands at once", sum(each.code != 0 for each in joined)
    took = [each.took_s for each in joined]
    theirs_ms = 1000 * statistics.mean(each.command_s + each.left_s for each in joined)
    return [
        Figure("`qmesh join` that failed", size, failed, None, "", "0", failed == 0),
        Figure("`qmesh join` with a tunnel, median", size, statistics.median(took), None, "s", "", None),
        Figure("the same, 99th percentile", size, percentile(took, 99), None, "s", "", None),
        Figure("joined, until the last command ended", size, count / all_s, None, "/s", "", None),
        Figure("of a processor for each, the machine that joins", size, theirs_ms, None, "ms", "", None),
        Figure("the same, the control node's agent", size, 1000 * agent_s / count, None, "ms", "", None),
    ]


def timed_join(machine: Machine) -> Joined:
    """A join by the real command, started as a shell does."""
    before_s = processor_s(machine)
    began = time.perf_counter()
    done = machine.run(
        ["sh", "-c", "qmesh join invitation; code=$?; times; exit $code"], check=False, timeout=180
    )
    took_s = time.perf_counter() - began
    of_shell, of_children = (sum(map(parse_time, line.split())) for line in done.stdout.splitlines()[-2:])
    left_s = processor_s(machine) - before_s
    return Joined(took_s, done.returncode, of_shell + of_children, left_s)


def parse_time(text: str) -> float:
    """Seconds in what `times` prints, such as `0m0.310s`."""
    minutes, _, seconds = text.removesuffix("s").partition("m")
    return 60 * int(minutes) + float(seconds)


def processor_s(machine: Machine, *words: str) -> float:
    """Processor seconds so far of a machine's processes, or of those with these words in their command."""
    chosen = f"pgrep -f '{words[0]}'" if words else "ls /proc | grep '^[0-9]'"
    said = machine.run(
        ["sh", "-c", f"for p in $({chosen}); do cat /proc/$p/stat; done 2>/dev/null"], check=False
    )
    fields = [line.rpartition(")")[2].split() for line in said.stdout.splitlines()]
    return sum(int(each[11]) + int(each[12]) for each in fields) * TICKS_S
