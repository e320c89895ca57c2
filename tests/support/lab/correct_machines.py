"""Generated meshes whose machines are as they should be: whatever `check` finds there is a false alarm."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.support.lab.cluster import CONFIG, qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.node_identity import IDENTITY, KEY_STORE
from tests.support.waiting import comes_true

NOT_RUN = frozenset({"worker-silent", "control-silent", "worker-cut-off"})
"""What is found because nobody starts the node."""
SETTLED_S = 20.0
"""Seconds in which the agents have done what they were told."""

FIREWALLS = {
    "none": "",
    "drops by default": """
table inet filter {
  chain input {
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    iif lo accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport 22 accept
    udp dport PORT accept
    tcp dport { 8336, 8340, 25000-25100, 32500-32600 } accept
    iifname INTERFACE accept
  }
}""",
    "limits and counts": """
table ip filter {
  chain INPUT {
    type filter hook input priority filter; policy accept;
    ct state invalid counter drop
    tcp dport 22 ct state new limit rate over 30/minute drop
    ip saddr { 198.51.100.0/24, 203.0.113.77 } drop
  }
}""",
    "masquerades": """
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 172.17.0.0/16 oifname eth0 masquerade
  }
}""",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A mesh to be made. members: their workers. options: of `init`."""

    node: str
    members: tuple[int, ...]
    options: tuple[str, ...]
    listen_port: int
    interface: str
    firewall: str
    changes: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        options, changes = " ".join(self.options), "; ".join(" ".join(each) for each in self.changes)
        machines = f"{1 + len(self.members)} machines, node {self.node}, firewall: {self.firewall}"
        return f"{machines}; init {options or 'as usual'}; {changes or 'no change'}"


def draw_plan(random: Random) -> Plan:
    """One of the meshes that people make."""
    node = random.choice(("1.4", "2.0", "2.1", "2.1-rust"))
    members = tuple(random.randint(1, 12) for _ in range(random.randint(0, 3)))
    listen_port = random.choice((51820, 51820, random.randint(20000, 24000)))
    interface = random.choice(("qmesh0", "qmesh0", f"wg{random.randint(1, 9)}"))
    options = []
    network = random.choice((None, None, "10.99.0.0/24", "fd77:1::/64"))
    if network is not None and not (":" in network and node == "2.1-rust"):
        options += ["--network", network]
    workers = random.randint(1, 8)
    options += ["--workers", str(workers)] if random.random() < 0.7 else ["--reserve", "1"]
    if listen_port != 51820:
        options += ["--listen-port", str(listen_port)]
    if interface != "qmesh0":
        options += ["--interface", interface]
    return Plan(
        node=node,
        members=members,
        options=tuple(options),
        listen_port=listen_port,
        interface=interface,
        firewall=random.choice(list(FIREWALLS)),
        changes=tuple(_draw_changes(random, len(members))),
    )


def _draw_changes(random: Random, members: int) -> Iterator[tuple[str, ...]]:
    names = ["control", *(_name(number) for number in range(members))]
    for _ in range(random.randint(0, 3)):
        port = str(random.randint(9000, 9999))
        reach = random.choice(("control", "mesh", "none"))
        yield random.choice(
            (
                ("set", random.choice(names), "--workers", str(random.randint(1, 12))),
                ("set", random.choice(names), "--guard-port", port, "--from", reach),
                ("set", random.choice(names), "--leave-open", port),
            )
        )
    if members:
        number = random.randrange(members)
        yield from random.choice(
            (
                (),
                (("pause", _name(number)),),
                (("pause", _name(number)), ("resume", _name(number))),
            )
        )


def _name(number: int) -> str:
    return f"machine-{'bcd'[number]}"


def make_mesh(lab: Lab, plan: Plan) -> list[Machine]:
    """The machines of a plan, made by the commands that people type."""
    control = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    _write_node_files(control)
    here = ("--interface", plan.interface) if plan.interface != "qmesh0" else ()
    announce = ("--announce", "203.0.113.200") if plan.node.startswith("2.1") else ()
    _load_firewall(control, plan)
    where = ("--endpoint", f"192.168.0.200:{plan.listen_port}", "--config", CONFIG, *announce)
    qmesh(control, "init", "--node", plan.node, *where, *plan.options)
    qmesh(control, "render-config", "--write")
    machines = [control]
    for number, workers in enumerate(plan.members):
        member = lab.machine(_name(number), f"192.168.0.{201 + number}", f"fd00:1a::{201 + number}")
        _load_firewall(member, plan)
        announce = ("--announce", f"203.0.113.{201 + number}") if plan.node.startswith("2.1") else ()
        files = () if plan.node == "1.4" else ("--node-files",)
        invitation = qmesh(control, "invite", member.name, "--workers", str(workers), *announce, *files)
        member.write("/root/invitation", invitation.stdout, 0o600)
        member.run(["mkdir", "-p", CONFIG])
        port = ("--listen-port", str(plan.listen_port)) if plan.listen_port != 51820 else ()
        qmesh(member, "join", "invitation", "--config", CONFIG, *files, *here, *port)
        if plan.node == "1.4":
            qmesh(member, "render-config", "--write")
        machines.append(member)
    for words in plan.changes:
        qmesh(control, *words)
    return machines


def _write_node_files(control: Machine) -> None:
    control.write(f"{CONFIG}/config.yml", IDENTITY, 0o600)
    control.write(f"{CONFIG}/keys.yml", KEY_STORE, 0o600)


def _load_firewall(machine: Machine, plan: Plan) -> None:
    rules = (
        FIREWALLS[plan.firewall].replace("PORT", str(plan.listen_port)).replace("INTERFACE", plan.interface)
    )
    machine.run(["nft", "-f", "-"], input=rules)


def list_false_alarms(machine: Machine) -> list[Any]:
    """What `check` finds that is not there, once the agents have come to rest."""
    last: list[Any] = []

    def is_fine() -> bool:
        report = json.loads(machine.run(["qmesh", "check", "--json"], check=False).stdout)
        last[:] = [each for each in report["findings"] if not _is_right(each)]
        return not last

    comes_true(is_fine, SETTLED_S)
    return last


def _is_right(finding: Any) -> bool:
    return finding["code"] in NOT_RUN or (finding["code"], finding["severity"]) == ("port-wide", "info")
