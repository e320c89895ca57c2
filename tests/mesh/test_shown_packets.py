"""Packets that a proof shows, as shots of a drill."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from qmesh.mesh.drill.shots import ACK, SYN, Shot
from qmesh.mesh.drill.shown_packets import build_shown_rows
from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.claims.claim_list import CLAIMS, build_cases
from qmesh.mesh.prover.decide import decide_each
from qmesh.mesh.prover.examples import ExamplePacket, OwnInterface
from tests.support.prover_recordings import GUARDS, read_prover_recordings

PACKET = ExamplePacket(
    family="ip", came_by="eth0", protocol="tcp", source="192.0.2.7", source_port=1024, target="192.0.2.2",
    target_port=40000, flags=("SYN",), state="new",
)  # fmt: skip
OWN = {
    "eth0": OwnInterface(None, True, ("192.0.2.2/24", "2001:db8::2/64", "fe80::2/64")),
    "br-x": OwnInterface("bridge", True, ("172.17.0.1/16", "fd17::1/64")),
    "qmesh0": OwnInterface("wireguard", False, ("10.77.0.2/20",)),
    "ppp0": OwnInterface(None, False, ("198.51.100.9/32",)),
}


def shoot(packet: ExamplePacket) -> tuple[tuple[Shot, ...], Shot]:
    ((row,), unfired) = build_shown_rows([("outside", packet)])
    assert unfired == ()
    assert row.wanted == "blocked"
    assert CLAIMS["outside"] in row.what
    return row.before, row.shots[0]


def test_a_packet_that_begins_a_connection_is_fired_as_it_is():
    before, shot = shoot(PACKET)
    assert before == ()
    assert shot == Shot(
        way="eth0", source="192.0.2.7", target="192.0.2.2", protocol="tcp", source_port=1024,
        target_port=40000, flags=SYN,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("packet", "first", "second"),
    [
        (
            replace(PACKET, state="established", flags=("ACK",)),
            ("eth0", 40000, SYN),
            (None, 1024, SYN | ACK),
        ),
        (
            replace(PACKET, state="established, an answer", protocol="udp", flags=()),
            (None, 1024, 0),
            ("eth0", 40000, 0),
        ),
        (
            replace(PACKET, state="established, an answer", came_by="", goes_by="eth0", user=0),
            ("eth0", 1024, SYN),
            (None, 40000, SYN | ACK),
        ),
    ],
)
def test_before_one_of_a_connection_come_its_first_packets(packet, first, second):
    before, _ = shoot(packet)
    assert [(each.way, each.target_port, each.flags) for each in before] == [first, second]


def test_who_asks_back_through_this_machine_was_asked_before_the_guard_was_there():
    passed = replace(PACKET, state="established, an answer", goes_by="docker0 (bridge)")
    before, _ = shoot(passed)
    assert [(each.way, each.target_port, each.flags) for each in before] == [("docker0", 1024, SYN)]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"protocol": "132"}, "it is of protocol 132"),
        ({"state": "invalid"}, "its connection is invalid"),
        ({"state": "related, an answer"}, "its connection is related"),
        ({"came_by": "", "user": None}, "no socket sends it"),
        ({"came_by": "qmesh0 (dummy)"}, "another kind"),
        ({"goes_by": "eth0"}, "it leaves by where it came"),
    ],
)
def test_what_the_range_cannot_fire_is_said(changed, words):
    rows, (unfired,) = build_shown_rows([("tunnel", replace(PACKET, **changed))])
    assert rows == ()
    assert words in unfired


@pytest.mark.parametrize(
    ("claim", "wanted"),
    [("control", "through"), ("others", "as without"), ("service", "blocked"), ("wireguard", "as without")],
)
def test_what_should_become_of_it_is_what_the_claim_says(claim, wanted):
    ((row,), _) = build_shown_rows([(claim, replace(PACKET, came_by="lo"))])
    assert row.wanted == wanted
    assert row.shots[0].way is None


def test_packets_of_a_known_machine_come_by_its_interfaces_to_its_addresses():
    recording, guard = read_prover_recordings()["advice"], GUARDS["worker IPv4"]
    cases = build_cases(recording.ruleset, guard)
    groups = decide_each(cases, guard, recording.listing.interfaces, (), OWN)
    shown: dict[tuple[ClaimCode, str], ExamplePacket] = {}
    for each in (verdict for group in groups for verdict in group):
        if each.answer == "refuted" and each.packet is not None:
            shown.setdefault((each.claim, each.family), each.packet)
    outside, behind = shown["outside", "ip"], shown["containers", "ip6"]
    assert outside.came_by in {"eth0", "ppp0", "br-x (bridge)"}
    assert outside.target in {"192.0.2.2", "172.17.0.1", "10.77.0.2", "198.51.100.9"}
    assert behind.goes_by == "br-x (bridge)"
    assert behind.target.startswith("fd17::")
    assert behind.target != "fd17::1"
    assert shown["tunnel", "ip"].came_by == "qmesh0 (wireguard)"
    assert ("tunnel", "ip6") not in shown  # it has no such address there
    rows, _ = build_shown_rows((claim, packet) for (claim, _), packet in shown.items())
    assert rows
