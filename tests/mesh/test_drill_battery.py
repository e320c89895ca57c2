"""What a drill fires, from which sides, and what should become of it."""

from __future__ import annotations

import itertools
from typing import Literal

import msgspec
import pytest

from qmesh.mesh.drill.battery import list_rows
from qmesh.mesh.drill.local_rows import USER
from qmesh.mesh.drill.rows import DrillRow
from qmesh.mesh.drill.shots import ACK, SYN, Shot
from qmesh.mesh.drill.target import STRANGER, DrillTarget, choose_ports
from tests.support import factories

ADDRESSES = {
    "lo": ("127.0.0.1/8", "::1/128"),
    "eth0": ("192.0.2.254/24", "2001:db8::2/64", "fe80::2/64"),
    "eth1": ("203.0.113.9/32",),
    "docker0": ("172.17.0.1/16",),
    "qmesh0": ("10.77.0.2/20",),
}


def target(role: Literal["control", "worker"] = "worker", **changed: object) -> DrillTarget:
    guard = factories.guard(
        role=role,
        ports=(*range(40000, 40004), 40010),
        own_ports=(8337,),
        control_ports=(9100,),
        mesh_ports=(5432,),
        control_address="10.77.0.1",
    )
    plain = DrillTarget(
        guard=guard,
        ways=("eth0", "eth1", "docker0", "qmesh0"),
        bridges=("docker0",),
        addresses=ADDRESSES,
        member="10.77.0.3",
        listened=(22, 80),
    )
    return msgspec.structs.replace(plain, **changed)


def shots_of(rows: list[DrillRow], wanted: str) -> list[Shot]:
    return [shot for row in rows if row.wanted == wanted for shot in row.shots]


@pytest.mark.parametrize(
    ("listed", "sources"),
    [
        (("192.0.2.254/24", "fe80::2/64"), {"192.0.2.254"}),
        (("fe80::2/64", "2001:db8::2/64", "169.254.1.1/16"), {"2001:db8::2"}),
    ],
)
def test_g2_the_machines_own_connections_begin_at_an_address_that_others_can_answer(listed, sources):
    rows = list_rows(target(ways=("eth0",), bridges=(), addresses={"eth0": listed}))
    openers = {shot.source for row in rows for shot in row.openers}
    replied = {shot.target for row in rows if row.what == "replies to those" for shot in row.shots}
    assert openers == replied == sources


@pytest.mark.parametrize("role", ["worker", "control"])
def test_g1_every_interface_and_family_is_a_way_to_closed_ports(role):
    blocked = shots_of(list_rows(target(role)), "blocked")
    sides = {
        (shot.way, shot.version, shot.protocol, shot.target_port)
        for shot in blocked
        if shot.way not in {None, "qmesh0"}
    }
    ports = (40000, 40003, 40010, 8337, 9100, 5432)
    ways = ("eth0", "eth1", "docker0")
    assert set(itertools.product(ways, (4, 6), ("tcp", "udp"), ports)) <= sides


def test_g1_segments_with_all_flags_and_none_and_every_shape_are_fired():
    blocked = shots_of(list_rows(target()), "blocked")
    assert {shot.flags for shot in blocked if shot.protocol == "tcp"} >= {0, SYN, ACK, SYN | ACK, 0x3F}
    assert {shot.shape for shot in blocked} == {"whole", "fragments", "tiny fragments", "options"}


def test_g1_the_control_nodes_address_is_forged_everywhere_and_lets_in_through_the_tunnel_alone():
    rows = list_rows(target())
    forged = {shot.way for shot in shots_of(rows, "blocked") if shot.source == "10.77.0.1"}
    assert forged >= {"eth0", "eth1", "docker0"}
    answered = shots_of(rows, "answered")
    assert {shot.way for shot in answered} == {"qmesh0"}
    assert {shot.target_port for shot in answered if shot.source == "10.77.0.1"} == {
        40000,
        40003,
        40010,
        9100,
        5432,
    }


def test_g1_to_the_control_machine_its_own_processes_get_through_and_members_do_not():
    rows = list_rows(target("control"))
    local = [shot for shot in shots_of(rows, "as without") if shot.way is None and shot.target_port == 40000]
    assert {shot.user for shot in local} == {0, USER}
    members = [
        shot for shot in shots_of(rows, "blocked") if shot.source == "10.77.0.3" and shot.way == "qmesh0"
    ]
    assert {40000, 22} <= {shot.target_port for shot in members}
    answered = {(shot.source, shot.target_port) for shot in shots_of(rows, "answered")}
    assert answered == {("10.77.0.3", 5432), ("10.77.0.3", rows and target().guard.service_port)}


def test_g5_root_and_no_user_asks_the_service():
    for role in ("worker", "control"):
        rows = list_rows(target(role))
        asked = {
            (shot.user, row.wanted)
            for row in rows
            for shot in row.shots
            if shot.way is None and shot.target_port == target().guard.service_port
        }
        assert asked == {(0, "through"), (USER, "blocked")}


def test_no_two_shots_of_a_row_are_one_connection():
    for row in list_rows(target()):
        if row.before:  # these are connections that there are
            continue
        ends = [
            (s.source, s.source_port, s.target, s.target_port, s.protocol, s.way, s.user) for s in row.shots
        ]
        assert len(set(ends)) == len(ends), row.what


def test_sources_and_targets_are_of_one_family():
    for row in list_rows(target()):
        for shot in (*row.shots, *row.before, *row.openers):
            assert (":" in shot.source) == (":" in shot.target)


def test_without_a_tunnel_nothing_is_fired_through_it_or_into_it():
    rows = list_rows(target(ways=("eth0",), addresses={"eth0": ADDRESSES["eth0"]}))
    assert rows
    assert not any("tunnel" in row.what for row in rows)
    assert {shot.way for row in rows for shot in row.shots} == {None, "eth0"}


@pytest.mark.parametrize("role", ["worker", "control"])
def test_without_another_member_only_its_rows_are_missing(role):
    rows = list_rows(target(role, member=None))
    assert rows
    assert not any(shot.source == "10.77.0.3" for row in rows for shot in row.shots)


def test_a_mesh_of_ipv6_is_fired_at_with_its_addresses():
    guard = msgspec.structs.replace(target().guard, control_address="fd77::1")
    addresses = {**ADDRESSES, "qmesh0": ("fd77::2/64",)}
    rows = list_rows(target(guard=guard, addresses=addresses, member="fd77::3"))
    answered = shots_of(rows, "answered")
    assert {(shot.source, shot.target) for shot in answered} >= {
        ("fd77::1", "fd77::2"),
        ("fd77::3", "fd77::2"),
    }


def test_a_tunnel_without_an_address_is_fired_at_all_the_same():
    rows = list_rows(target(addresses={"eth0": ADDRESSES["eth0"]}))
    assert any(shot.way == "qmesh0" for row in rows for shot in row.shots)


def test_who_is_beside_an_interface_has_an_address_there_that_is_not_the_machines():
    it = target()
    assert it.find_neighbour("eth0", 4) == "192.0.2.1"
    assert it.find_neighbour("docker0", 4) == "172.17.255.254"
    assert it.find_neighbour("eth1", 4) == STRANGER[4]
    assert it.find_neighbour("eth1", 6) == STRANGER[6]


def test_the_ends_of_intervals_and_of_the_others_stand_for_all_ports():
    assert choose_ports(range(40000, 41000), [(40000, 40900)]) == (40000, 40900, 40901, 40902, 40998, 40999)
    assert choose_ports([]) == ()
    assert len(choose_ports(range(9), [(p, p + 1) for p in range(100, 200, 2)])) == 8


def test_source_ports_begin_anew_where_there_are_no_more():
    guard = msgspec.structs.replace(target().guard, ports=tuple(range(40000, 40040, 2)))
    ways = tuple(f"eth{number}" for number in range(20))
    addresses = {way: (f"10.9.{number}.1/24",) for number, way in enumerate(ways)}
    rows = list_rows(target(guard=guard, ways=ways, addresses=addresses))
    assert sum(len(row.shots) for row in rows) > 28_000
    assert all(
        1024 <= shot.source_port < 61_000 for shot in shots_of(rows, "blocked") if shot.way is not None
    )
