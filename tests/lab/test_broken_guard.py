"""The matrix notices a guard that was broken on purpose: each rule lost in turn, and worse."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest

from qmesh.mesh.guard.render import render_table
from qmesh.mesh.state import Guard
from tests.support.lab.matrix.case import BOTH, Hostile, Legitimate, passes, reached
from tests.support.lab.matrix.hostile import HOSTILE
from tests.support.lab.matrix.legitimate import LEGITIMATE
from tests.support.lab.matrix.rulesets import Ruleset
from tests.support.lab.mesh import GUARDS, LAST_WORKER, NEIGHBOUR, PORTS, WORKER, Mesh, Role
from tests.support.lab.probe import QUIET_SECONDS

pytestmark = pytest.mark.lab

CASES: dict[str, Hostile | Legitimate] = {
    **{case.name: case for case in HOSTILE},
    **{case.name: case for case in LEGITIMATE},
}


class Break(NamedTuple):
    """A way to break the guard of a role's machine. case: the one that notices.

    PORTS stands for the closed ports of an interval, and for those of the set.
    """

    name: str
    role: Role
    old: str
    new: str
    case: str


BOTH_PROTOCOLS = "meta l4proto { tcp, udp }"
TO_MEMBERS = f'th dport @mesh_ports meta iifkind "tun" {BOTH_PROTOCOLS}'
CLOSED_PORT = f"{BOTH_PROTOCOLS} fib daddr type local goto closed_port"
INTERVAL = f"{PORTS[0]}-{NEIGHBOUR - 1}"
ALL_CLOSED = re.findall("elements = [^}]*}", render_table(GUARDS["worker"]))[0]
ON_THE_LAN = "LAN, every way, to closed ports that are no workers'"
LOCAL_RULES = (
    f"\t\tth dport {INTERVAL} {CLOSED_PORT}\n"
    f"\t\tth dport @closed_ports th dport != @guarded_ports {CLOSED_PORT}\n"
)
TAKEN_UP = "ct direction original ct state new goto taken_up"
TAKEN_UP_RULES = f"\t\ttcp sport {INTERVAL} {TAKEN_UP}\n\t\ttcp sport @closed_ports {TAKEN_UP}\n"
OF_ITSELF = "the machine itself, root and users, to its closed ports that are no workers'"
BREAKS = (
    Break("set emptied", "worker", ALL_CLOSED, "", ON_THE_LAN),
    Break("set emptied", "control", ALL_CLOSED, "", ON_THE_LAN),
    Break("a port left out", "worker", f", {LAST_WORKER} }}", " }", "LAN: IPv4"),
    Break(
        "an interval too short",
        "worker",
        f"th dport {INTERVAL}",
        f"th dport {WORKER + 1}-{NEIGHBOUR - 1}",
        "LAN: IPv4",
    ),
    Break("drop made accept", "worker", "counter drop", "counter accept", "LAN: IPv4"),
    Break("drop made accept", "control", "counter drop", "counter accept", "LAN: global IPv6"),
    Break("the interface's name swapped", "worker", '"qmesh0"', '"eth0"', "control node to every worker"),
    Break("the interface's name swapped", "control", '"qmesh0"', '"eth0"', "SSH from the LAN: IPv4"),
    Break(
        "the kind of interface forgotten",
        "worker",
        'meta iifkind "tun" ',
        "",
        "a veth with the tunnel's name",
    ),
    Break(
        "the address alone",
        "worker",
        'ip saddr 10.77.0.1 iifname "qmesh0" meta iifkind "tun"',
        "ip saddr 10.77.0.1",
        "control node's address forged, tunnel up",
    ),
    Break(
        "the interface alone",
        "worker",
        "ip saddr 10.77.0.1 ",
        "",
        "another member, through the tunnel",
    ),
    Break(
        "established instead of direction",
        "worker",
        "ct direction reply goto answered",
        "ct state established,new accept",
        "LAN: IPv4",
    ),
    Break("only IPv4", "worker", "meta l4proto", "meta nfproto ipv4 meta l4proto", "LAN: global IPv6"),
    Break("only TCP", "worker", "meta l4proto { tcp, udp }", "meta l4proto tcp", "LAN: broadcast"),
    Break(
        "looked at after destination NAT",
        "worker",
        "hook prerouting priority mangle",
        "hook prerouting priority -90",
        "container-a's port published, a port of its own under a worker's (attacker)",
    ),
    Break(
        "input alone",
        "worker",
        f"PORTS {CLOSED_PORT}",
        "PORTS accept",
        "Docker's own rules, a port of its own under a worker's",
    ),
    Break(
        "no look at what is forwarded after NAT",
        "worker",
        "ct status dnat goto closed_port",
        "ct status dnat accept",
        "beyond's port published under another (attacker)",
    ),
    Break(
        "no look at bridges",
        "worker",
        'meta oifkind "bridge" goto closed_port',
        'meta oifkind "bridge" accept',
        "container-a's own address",
    ),
    Break(
        "no look at what arrives after NAT",
        "control",
        f"PORTS {BOTH_PROTOCOLS} goto closed_port",
        "PORTS accept",
        "another port redirected to the worker",
    ),
    Break(
        "the hub forwards into the tunnel",
        "control",
        'oifname "qmesh0" goto into_tunnel',
        'oifname "qmesh0" accept',
        "the hub's LAN, by a hub that masquerades",
    ),
    Break(
        "the hub forwards what bears its address",
        "control",
        'oifname "qmesh0" goto into_tunnel',
        'oifname "qmesh0" accept',
        "the hub's LAN, by a hub, the control node's address forged",
    ),
    Break(
        "local users let in",
        "worker",
        f"{LOCAL_RULES}{TAKEN_UP_RULES}",
        TAKEN_UP_RULES,
        "container-a's port published under its number (worker)",
    ),
    Break(
        "local users let in from a closed port",
        "worker",
        f"{LOCAL_RULES}{TAKEN_UP_RULES}",
        f"{TAKEN_UP_RULES}{LOCAL_RULES}",
        "container-a's port published under its number (worker), from a worker port's number",
    ),
    Break(
        "the tunnel open to all",
        "worker",
        "goto through_tunnel",
        "accept",
        "another member, to what is no worker",
    ),
    Break(
        "replies forgotten",
        "worker",
        "ct direction reply goto answered",
        "",
        "outward, from a worker port's number",
    ),
    Break(
        "loopback forgotten",
        "control",
        "meta iiftype loopback accept",
        "",
        "the control machine to its own workers",
    ),
    Break(
        "routing forgotten",
        "worker",
        'meta oifkind "bridge" goto closed_port',
        "goto closed_port",
        "routing for others to equal port numbers",
    ),
    Break(
        "containers' answers forgotten",
        "worker",
        "chain into_tunnel {\n\t\tct direction reply accept",
        "chain into_tunnel {",
        "control node to a worker in Docker",
    ),
    Break(
        "the begin of a connection forgotten",
        "worker",
        "tcp flags syn accept",
        "",
        "outward, from a worker port's number",
    ),
    Break(
        "answers through the tunnel forgotten",
        "worker",
        "ct direction reply accept\n\t\tth dport",
        "th dport",
        "a member to the membership service, and its answer",
    ),
    Break(
        "the membership service forgotten",
        "control",
        "tcp dport 9377 ip daddr 10.77.0.1 meta iifkind",
        "tcp dport 9378 ip daddr 10.77.0.1 meta iifkind",
        "members to the membership service",
    ),
    Break(
        "the control node let in to what is the machine's own",
        "worker",
        "th dport @closed_ports th dport != @guarded_ports ip saddr",
        "th dport @closed_ports ip saddr",
        "the control node, to a port that only the machine itself reaches",
    ),
    Break(
        "a port of the control node's forgotten",
        "worker",
        "th dport @control_ports",
        "th dport @mesh_ports",
        "control node to the ports that it reaches besides workers'",
    ),
    Break(
        "members forgotten",
        "control",
        f"{TO_MEMBERS} fib daddr type local accept",
        "",
        "members to a port that all of them reach",
    ),
    Break(
        "members forgotten, where the port is not looked up yet",
        "worker",
        'th dport @mesh_ports iifname "qmesh0" meta iifkind "tun" accept',
        "",
        "members to a port that all of them reach",
    ),
    Break(
        "members forgotten, after the tunnel",
        "control",
        'th dport @mesh_ports iifname "qmesh0" meta iifkind "tun" accept',
        "",
        "members to a port that all of them reach",
    ),
    Break(
        "answers to members forgotten",
        "control",
        'th sport @mesh_ports oifname "qmesh0" meta oifkind "tun" accept',
        "",
        "members to a port that all of them reach",
    ),
    Break(
        "members sent on",
        "control",
        f"{TO_MEMBERS} fib daddr type local accept",
        f"{TO_MEMBERS} accept",
        "a member, to a port of the control node's LAN that all members reach on the control machine",
    ),
    Break(
        "itself forgotten", "worker", "meta iiftype loopback th dport @guarded_ports accept", "", OF_ITSELF
    ),
    Break(
        "answers to itself forgotten",
        "worker",
        "meta oiftype loopback th sport @guarded_ports accept",
        "",
        OF_ITSELF,
    ),
    Break(
        "answers to itself forgotten",
        "control",
        "meta oiftype loopback accept",
        "",
        "the control machine to its own workers",
    ),
    *(Break("answers are all dropped", role, "goto sent_back", "drop", OF_ITSELF) for role in BOTH),
    *(
        Break(
            "users ask the service",
            role,
            "goto asks_service",
            "accept",
            "a local user to the membership service at 10.77.0.1",
        )
        for role in BOTH
    ),
    Break(
        "root does not ask the service",
        "worker",
        "meta skuid 0 accept",
        "",
        "a member to the membership service, and its answer",
    ),
    Break(
        "root does not ask the service",
        "control",
        "meta skuid 0 accept",
        "",
        "root of the control machine to its own membership service",
    ),
)


EACH_PORTS = (INTERVAL, "@closed_ports")
SHOWN_ELSEWHERE = {
    "answered: tcp flags rst,ack accept": (
        "test_g1_a_local_user_cannot_hold_a_worker_port_open_for_his_friend"
    ),
    **{
        f"sent: tcp sport {ports} {TAKEN_UP}": "test_g1_a_connection_opened_before_the_guard_is_dead"
        for ports in EACH_PORTS
    },
    "taken_up: meta oiftype loopback tcp sport @guarded_ports accept": (
        "test_g2_a_machines_own_connection_that_is_older_than_the_guard_goes_on"
    ),
    **{
        f'passed_on: tcp sport {ports} meta iifkind "bridge" {TAKEN_UP}': (
            "test_g1_a_container_does_not_take_up_a_connection_that_is_older_than_the_guard"
        )
        for ports in EACH_PORTS
    },
    "asked_for: udp dport 51820 accept": "test_g2_wireguards_own_port_stays_open_though_it_were_a_workers",
    "arrived_at: udp dport 51820 accept": "test_g2_wireguards_own_port_stays_open_though_it_were_a_workers",
    "sent: udp sport 51820 accept": "test_g2_wireguards_own_port_stays_open_though_it_were_a_workers",
}
"""By rules, the tests that notice their loss: no case of the matrix is of one packet there."""


def broken(found: Break) -> Callable[[Guard], str]:
    def script(guard: Guard) -> str:
        text = whole = render_table(guard)
        for ports in EACH_PORTS:
            text = text.replace(found.old.replace("PORTS", ports), found.new.replace("PORTS", ports))
        assert text != whole, "there is nothing to break any more"
        return text

    return script


def is_right(mesh: Mesh, name: str, role: Role, ruleset: Ruleset, *, seconds: float = 3) -> bool:
    case = CASES[name]
    with case.arranged(mesh, role):
        ruleset.guard(mesh, role, "IPv4")
        if isinstance(case, Hostile):
            return not reached(mesh, case, role)
        return passes(mesh, case, role, "IPv4", seconds=seconds)


OF_EACH_CHANGE = {"set emptied", "drop made accept", "the tunnel open to all", "replies forgotten"}
"""It is the matrix that is tried here, not the guard: all of it is for who changes one of the two."""


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(
            found,
            id=f"{found.name}, {found.role}",
            marks=[] if found.name in OF_EACH_CHANGE else pytest.mark.long,
        )
        for found in BREAKS
    ],
)
def test_g1_g2_a_broken_guard_is_noticed(bare: Mesh, found: Break):
    # With the whole guard all of it is right in test_matrix.py. What does not arrive is not waited for.
    assert not is_right(
        bare, found.case, found.role, Ruleset(found.name, broken(found)), seconds=QUIET_SECONDS
    )


def test_each_case_is_one_of_the_matrix_for_that_role():
    assert [found for found in BREAKS if found.role not in CASES[found.case].roles] == []
    assert [found for found in BREAKS if "IPv4" not in CASES[found.case].overlays] == []


def test_every_rule_of_the_guard_is_broken_by_one_of_these_or_shown_elsewhere():
    rules, touched = set(), set()
    for role, guard in GUARDS.items():
        lines = rules_of(render_table(guard))
        rules |= lines
        touched |= {
            line for found in BREAKS if found.role == role for line in lines - rules_of(broken(found)(guard))
        }
    assert rules - touched == set(SHOWN_ELSEWHERE)


def rules_of(text: str) -> set[str]:
    """The lines of a table that end in a verdict, each after its chain."""
    chain, found = "", set()
    for line in map(str.strip, text.splitlines()):
        chain = line.split()[1] if line.startswith("chain ") else chain
        if re.search(r"\b(accept|drop|goto \w+)$", line):
            found.add(f"{chain}: {line}")
    return found
