"""G1 against packets that no socket sends: segments in the middle of no connection, tiny fragments."""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections.abc import Iterable

import pytest

from tests.support.lab.matrix.rulesets import HELD_ALONE, LASTING, NONE, Ruleset
from tests.support.lab.mesh import CONTROL, NEIGHBOUR, WORKER, Mesh, Role, nft
from tests.support.lab.probe import QUIET_SECONDS
from tests.support.lab.programs.attacker import ipv4_packet, segment
from tests.support.waiting import idle

pytestmark = pytest.mark.lab

FIN, SYN, RST, PSH, ACK, URG = (1 << bit for bit in range(6))
FLAGS = {
    "SYN": SYN,
    "ACK": ACK,
    "PSH ACK": PSH | ACK,
    "FIN ACK": FIN | ACK,
    "SYN ACK": SYN | ACK,
    "RST": RST,
    "RST ACK": RST | ACK,
    "none": 0,
    "all": FIN | SYN | RST | PSH | ACK | URG,
}
MORE_FRAGMENTS = 0x2000

LATE = f"""
add table inet lab
delete table inet lab
table inet lab {{
    chain late {{
        type filter hook input priority 300;
        tcp dport {WORKER} counter comment "worker"
        tcp dport {NEIGHBOUR} counter comment "neighbour"
    }}
}}
"""
"""Counts, behind every rule that could drop, what a socket would see."""


def came(mesh: Mesh, role: Role, packets: Iterable[bytes]) -> dict[str, int]:
    """What of these raw packets of the attacker's came to the worker's port and to its neighbour."""
    machine = mesh.machines[role]
    nft(machine, LATE)
    with (
        mesh.at["attacker"].inside(),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        for packet in packets:
            raw.sendto(packet, (machine.ipv4, 0))
    idle(QUIET_SECONDS)
    rules = json.loads(machine.run(["nft", "-j", "list", "table", "inet", "lab"]).stdout)["nftables"]
    counted = [each["rule"] for each in rules if "rule" in each]
    return {rule["comment"]: rule["expr"][1]["counter"]["packets"] for rule in counted}


def assert_kept_out(mesh: Mesh, role: Role, packets: Iterable[bytes]) -> None:
    """That with each table alone none comes to the worker, and all to its neighbour, half of them each."""
    packets = list(packets)

    def under(ruleset: Ruleset) -> dict[str, int]:
        ruleset.guard(mesh, role, "IPv4")
        return came(mesh, role, packets)

    bare = under(NONE)
    assert bare["worker"] == bare["neighbour"]
    for ruleset in (LASTING, HELD_ALONE):
        assert under(ruleset) == {"worker": 0, "neighbour": bare["neighbour"]}


def sent(mesh: Mesh, role: Role, source: str, *kinds: int) -> Iterable[bytes]:
    """A segment with each of these flags, to both ports, from a port of its own."""
    target = mesh.machines[role].ipv4
    for flags, port in itertools.product(kinds, (WORKER, NEIGHBOUR)):
        yield ipv4_packet(source, target, segment(source, 50000 + flags, target, port, flags))


@pytest.mark.parametrize("role", ["worker", "control"])
def test_g1_no_segment_of_whatever_kind_arrives(bare, role):
    assert_kept_out(bare, role, sent(bare, role, bare.attacker.ipv4, *FLAGS.values()))


def test_g1_nor_in_the_control_nodes_name(bare):
    assert_kept_out(bare, "worker", sent(bare, "worker", CONTROL, SYN, ACK, RST))


@pytest.mark.parametrize("role", ["worker", "control"])
def test_g1_a_port_that_is_split_from_its_flags_is_seen_all_the_same(bare, role):
    """The first fragment has the ports and not the flags: eight octets, as few as there can be."""
    source, target = bare.attacker.ipv4, bare.machines[role].ipv4
    packets = []
    for number, port in enumerate((WORKER, NEIGHBOUR), 1):
        whole = segment(source, 50100, target, port, SYN)
        packets += [
            ipv4_packet(source, target, whole[:8], identification=number, fragment=MORE_FRAGMENTS),
            ipv4_packet(source, target, whole[8:], identification=number, fragment=1),
        ]
    assert struct.unpack("!H", packets[0][22:24])[0] == WORKER
    assert_kept_out(bare, role, packets)
