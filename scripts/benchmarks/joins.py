"""Joining, many at once, to a control node on the same processors.

Some are machines of their own with a tunnel and the real command. The others redeem from their own
addresses at the same registry's service, over HTTP without a tunnel.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.join import make_mesh
from benchmarks.measuring import Figure, percentile

from tests.support.lab.machines import TOOLS, Lab, Machine, Running


def figures(members: int, tunnels: int) -> list[Figure]:
    """Members, of which some have a tunnel each and the others are at the service."""
    with Lab() as lab, contextlib.ExitStack() as stack:
        control, faulty = make_mesh(lab)
        texts = [faulty.succeed("invite", f"m{number}", "--workers", "1").out for number in range(members)]
        real = [lab.machine(f"m{number}", f"192.168.0.{10 + number}") for number in range(tunnels)]
        for machine, text in zip(real, texts, strict=False):
            machine.write("/root/invitation", text, 0o600)
        asking = crowd(control, tunnels + 2, texts[tunnels:])
        pool = stack.enter_context(ThreadPoolExecutor(tunnels))
        begun = time.perf_counter()
        control.run(["touch", "/run/go"])
        joined = list(pool.map(timed_join, real))
        asking.wait(120)
        took = time.perf_counter() - begun
        assert asking.returncode == 0, asking.error_output()
        redeemed = json.loads(asking.output().splitlines()[-1])
        failed = sum(code != 0 for _, code in joined) + sum(status != 200 for _, status in redeemed)
        failed += members - tunnels - len(redeemed)
        machines = faulty.facts("status")["machines"]
    active = sum(each["state"] == "active" for each in machines)
    twice = sum(
        len(machines) - len({each[field] for each in machines}) for field in ("name", "address", "public_key")
    )
    ports = [port for each in machines for port in each["ports"]]
    twice += len(ports) - len(set(ports))
    size = f"{members} at once"
    with_tunnel, rest = f"{tunnels} of them", f"{members - tunnels} of them"
    commands = [1000 * seconds for seconds, _ in joined]
    answers = [1000 * seconds for seconds, _ in redeemed]
    return [
        Figure("joins that failed", size, failed, None, "", "0", failed == 0),
        Figure("members afterwards", size, active - 1, None, "", str(members), active - 1 == members),
        Figure("names, addresses, keys, ports twice", size, twice, None, "", "0", twice == 0),
        Figure(
            "`qmesh join` with a tunnel, median",
            with_tunnel,
            statistics.median(commands),
            None,
            "ms",
            "",
            None,
        ),
        Figure("the same, 99th percentile", with_tunnel, percentile(commands, 99), None, "ms", "", None),
        Figure("redemption at the service, median", rest, statistics.median(answers), None, "ms", "", None),
        Figure("the same, 99th percentile", rest, percentile(answers, 99), None, "ms", "", None),
        Figure("members a second, until the last command ended", size, members / took, None, "", "", None),
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


def crowd(control: Machine, first: int, texts: list[str]) -> Running:
    """Those that only ask the service, from their own addresses; they wait for /run/go."""
    control.start(["python", TOOLS / "crowd.py", "serve"]).wait_for("ready", timeout=20)
    numbers = range(first, first + len(texts))
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
