"""Attacks on machines of a lab, by every way that a neighbour on the LAN has.

Made from three programs: `attacker.py` in the attacker's machine, `witness.py` in the attacked
ones, and whatever listens there. Give every attack ports of no worker as well: that they are
reached shows that the attempt was one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from tests.support.lab.machines import TOOLS, Machine

WAYS = ("ipv4", "ipv6", "link-local", "tunnel-address", "forged-source")
"""IPv4; IPv6 global; IPv6 link-local; the tunnel address by way of the LAN; the same with the
control node's tunnel address as forged source."""

FIRST_SOURCE_PORT = 20000


@dataclass(frozen=True)
class Attempt:
    """One try to reach a port.

    Attributes:
        machine: name of the attacked machine.
        way: one of WAYS.
        target: address the packets go to, with a scope when link-local.
        port: TCP port.
        via: LAN address that leads to the target, or "".
        source: forged source address, or "".
        source_port: of a forged packet, unique; else 0.
        outcome: `connected`, `answered` (a forged packet was), `timeout`, `refused`, `unreachable`
            or `unanswered`; "" before it was made.
    """

    machine: str
    way: str
    target: str
    port: int
    via: str = ""
    source: str = ""
    source_port: int = 0
    outcome: str = ""

    def __str__(self) -> str:
        return f"{self.machine}, {self.way} to {self.target} port {self.port}: {self.outcome}"

    @property
    def reached(self) -> bool:
        """A packet of the attempt came to the port."""
        return self.outcome in {"connected", "answered"}


def attempts_on(
    machine: Machine, ports: Iterable[int], *, tunnel_address: str, control_address: str
) -> list[Attempt]:
    """An attempt by each of WAYS on each port of a machine; without IPv6 address not by that."""
    made = []
    for port in ports:
        name, lan, tunnel = machine.name, machine.ipv4, tunnel_address
        made.append(Attempt(name, "ipv4", lan, port))
        if machine.ipv6:
            made.append(Attempt(name, "ipv6", machine.ipv6, port))
        made.append(Attempt(name, "link-local", f"{machine.link_local}%eth0", port))
        made.append(Attempt(name, "tunnel-address", tunnel, port, via=lan))
        made.append(Attempt(name, "forged-source", tunnel, port, via=lan, source=control_address))
    return made


def make_gullible(machine: Machine) -> None:
    """Let the kernel believe forged sources, so that only the guard is left to refuse them.

    Reverse-path filtering would drop some by itself, and so would a machine's dislike of packets
    from an address of its own, which the control node's is on the control node.
    """
    for key, value in {"rp_filter": 0, "accept_local": 1}.items():
        for scope in ("all", "eth0"):
            machine.run(["sysctl", "-qw", f"net.ipv4.conf.{scope}.{key}={value}"])


def attack(attacker: Machine, victims: Sequence[Machine], attempts: Iterable[Attempt]) -> list[Attempt]:
    """Make all attempts at once and return them with their outcomes, in the same order."""
    numbered = [
        replace(attempt, source_port=FIRST_SOURCE_PORT + number) if attempt.source else attempt
        for number, attempt in enumerate(attempts)
    ]
    bounds = [str(FIRST_SOURCE_PORT), str(FIRST_SOURCE_PORT + len(numbered))]
    with contextlib.ExitStack() as stack:
        witnesses = {}
        for victim in victims:
            witness = victim.start(["python", TOOLS / "witness.py", *bounds])
            stack.callback(witness.stop)
            witnesses[victim.name] = witness
        for witness in witnesses.values():
            witness.wait_for("ready")
        told = attacker.run(
            ["python", TOOLS / "attacker.py"], input=json.dumps([asdict(attempt) for attempt in numbered])
        )
    answered = {
        (name, port, source_port)
        for name, witness in witnesses.items()
        for port, source_port in json.loads(witness.output().partition("ready\n")[2])
    }
    return [_judged(Attempt(**attempt), answered) for attempt in json.loads(told.stdout)]


def _judged(attempt: Attempt, answered: set[tuple[str, int, int]]) -> Attempt:
    """An attempt with a forged source gets the witness's word for its outcome."""
    if not attempt.source:
        return attempt
    seen = (attempt.machine, attempt.port, attempt.source_port) in answered
    return replace(attempt, outcome="answered" if seen else "unanswered")
