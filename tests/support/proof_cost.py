"""What a proof of the guard takes, beside rules of others: processor time, time and memory."""

from __future__ import annotations

import ipaddress
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from qmesh.agent.assurance.proof import prove_rules
from qmesh.host.firewall import nftables
from tests.support.lab.mesh import GUARDS
from tests.support.prover_recordings import render_both

_FIRST: Final = int(ipaddress.IPv4Address("198.18.0.0"))


class Size(NamedTuple):
    """What is beside the guard. seconds, megabytes: of the processor and of memory, that a proof may take."""

    elements: int = 0
    rules: int = 0
    intervals: int = 0
    seconds: float | None = None
    megabytes: float | None = None

    def __str__(self) -> str:
        words = {"set elements": self.elements, "rules": self.rules, "intervals": self.intervals}
        return ", ".join(f"{count:,} {word}" for word, count in words.items() if count) or "nothing"


SIZES: Final = (
    Size(),
    Size(elements=5000, rules=500, seconds=2.0),
    Size(intervals=200_000, seconds=5.0, megabytes=300.0),
)


class Cost(NamedTuple):
    """Processor's and other seconds, megabytes at the most; and how many claims were proved of how many."""

    processor_s: float
    wall_s: float
    megabytes: float
    proved: int
    claims: int


def render_beside(size: Size) -> str:
    """Tables of others: a set of addresses and rules that ask many things, or a set of intervals."""
    addresses = ", ".join(str(ipaddress.IPv4Address(_FIRST + 3 * place)) for place in range(size.elements))
    spans = ", ".join(
        f"{ipaddress.IPv4Address(_FIRST + 4 * place)}-{ipaddress.IPv4Address(_FIRST + 4 * place + 1)}"
        for place in range(size.intervals)
    )
    text = ""
    if size.rules:
        rules = "\n".join(_draw_rule(place) for place in range(size.rules))
        head = "type filter hook input priority 5; policy accept;\nip saddr @banned drop"
        text += (
            f"table inet theirs {{\nset banned {{\ntype ipv4_addr\nelements = {{ {addresses} }}\n}}\n"
            f"chain c {{\n{head}\n{rules}\n}}\n}}\n"
        )
    if size.intervals:
        head = "type filter hook prerouting priority -200; policy accept;\nip saddr @some drop"
        text += (
            f"table ip countries {{\nset some {{\ntype ipv4_addr\nflags interval\n"
            f"elements = {{ {spans} }}\n}}\nchain c {{\n{head}\n}}\n}}\n"
        )
    return text


def _draw_rule(place: int) -> str:
    port = 1024 + 7 * place
    return (
        f"tcp dport {port} accept",
        f"ip saddr 203.0.{place % 256}.0/24 udp dport {port}-{port + 5} drop",
        f'iifname "eth{place}" tcp dport {port} ct state new accept',
        f"ip6 saddr 2001:db8:{place:x}::/48 tcp dport {port} drop",
        f"ip saddr @banned udp dport {port} counter drop",
    )[place % 5]


def measure(size: Size) -> Cost:
    """Prove once. Counted are the processes that this one has waited for: it has to be a fresh one."""
    guard = GUARDS["worker"]
    nftables.run(f"flush ruleset\n{render_both(guard)}{render_beside(size)}")
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    proof = prove_rules(guard, None)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    proved = sum(verdict.answer == "proved" for verdict in proof.verdicts)
    return Cost(processor, wall, after.ru_maxrss / 1024, proved, len(proof.verdicts))


class CostRow(NamedTuple):
    """A line of a table, and whether the proof took no more than it may."""

    text: str
    is_kept: bool


def list_costs() -> Iterator[CostRow]:
    """Each size by a process of its own."""
    for size in SIZES:
        words = [sys.executable, "-m", "tests.support.proof_cost", json.dumps(size)]
        cost = Cost(*json.loads(subprocess.run(words, capture_output=True, check=True).stdout))
        is_quick = size.seconds is None or cost.processor_s < size.seconds
        is_small = size.megabytes is None or cost.megabytes < size.megabytes
        most = [f"< {size.seconds:.0f} s"] if size.seconds else []
        most += [f"< {size.megabytes:.0f} MB"] if size.megabytes else []
        shown = f"{cost.processor_s:.2f} s | {cost.wall_s:.2f} s | {cost.megabytes:.0f} MB"
        said = "" if not most else "kept" if is_quick and is_small else "NOT kept"
        text = f"| {size} | {shown} | {cost.proved} of {cost.claims} | {', '.join(most)} | {said} |"
        yield CostRow(text, is_quick and is_small)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Size(*json.loads(sys.argv[1])))))
