"""What `set --guard-port` and `--leave-open` make of a machine's ports, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from qmesh.errors import BadInput
from qmesh.mesh.changes import set_endpoints
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import GuardedPort
from qmesh.mesh.ports.port_options import MOST_PORTS, PortOptions, parse_port_list, set_port_options
from qmesh.mesh.values import Endpoint
from tests.support import factories

MESH = factories.mesh(
    factories.machine("a", 1, 3),
    factories.machine("b", 2, 4),
    node="2.1-rust",
    service_port=325,
    base_port=32500,
    p2p_base_port=25000,
)


def asked(mesh: Inventory = MESH, **options: Any) -> Inventory:
    return set_port_options(mesh, "b", PortOptions(**options), {2222: "SSH's"})


def ports(mesh: Inventory) -> tuple[dict[int, str], tuple[int, ...]]:
    machine = mesh.machine("b")
    return {each.port: each.source for each in machine.guarded_ports}, machine.left_open


def test_ports_are_added_and_one_that_is_there_gets_another_source():
    mesh = asked(closed=(5432, 9100), source="mesh")
    mesh = asked(mesh, closed=(8337, 9100), source="control")
    assert ports(mesh) == ({5432: "mesh", 8337: "control", 9100: "control"}, ())
    assert mesh.revision == MESH.revision + 2
    assert mesh.machine("b").guarded_ports == (
        GuardedPort(5432, "mesh"), GuardedPort(8337, "control"), GuardedPort(9100, "control"),
    )  # fmt: skip
    assert mesh.machine("a") == MESH.machine("a")


def test_each_option_takes_back_what_the_other_did():
    mesh = asked(closed=(5432, 9100))
    mesh = asked(mesh, left_open=(80, 9100))
    assert ports(mesh) == ({5432: "none"}, (80, 9100))
    mesh = asked(mesh, closed=(80,))
    assert ports(mesh) == ({80: "none", 5432: "none"}, (9100,))
    assert ports(asked(mesh, closed=())) == ({}, (9100,))
    assert ports(asked(mesh, left_open=())) == ({80: "none", 5432: "none"}, ())
    assert asked(mesh) == mesh


@pytest.mark.parametrize(
    ("port", "whose"),
    [
        (22, "SSH's, and you would be locked out"),
        (325, "where members reach qmesh"),
        (8336, "where the node's network reaches the control process"),
        (8340, "where the node's network reaches the control process"),
        (25000, "where other provers reach"),
        (25006, "where other provers reach"),
        (51820, "WireGuard's"),
        (2222, "SSH's"),
    ],
)
def test_g2_a_port_that_others_have_to_reach_is_not_closed(port: int, whose: str):
    with pytest.raises(BadInput, match=whose) as refused:
        asked(closed=(9100, port))
    assert str(port) in refused.value.message
    assert refused.value.hint
    assert ports(asked(left_open=(port,))) == ({}, (port,))


@pytest.mark.parametrize(
    ("ends", "listen_port", "refused"),
    [
        ((), None, {51820}),
        ((51999,), None, {51999}),
        ((51820, 41000), None, {51820, 41000}),
        ((), 51999, {51999}),
        ((41000,), 51999, {41000, 51999}),  # which is forwarded
    ],
)
@pytest.mark.parametrize("name", ["a", "b"])
def test_g2_wireguards_port_is_not_closed_whatever_is_known_of_it(name, ends, listen_port, refused):
    mesh = set_endpoints(MESH, name, [Endpoint("192.0.2.1", port) for port in ends])
    for port in (51820, 51999, 41000):
        options = PortOptions(closed=(port,))
        if port in refused:
            with pytest.raises(BadInput, match=f"port {port} of {name} cannot be closed: it is WireGuard's"):
                set_port_options(mesh, name, options, {}, listen_port=listen_port)
        else:
            after = set_port_options(mesh, name, options, {}, listen_port=listen_port)
            assert after.machine(name).guarded_ports == (GuardedPort(port, "none"),)


@pytest.mark.parametrize("option", ["closed", "left_open"])
def test_g1_a_workers_port_is_neither_opened_nor_closed_for_others(option: str):
    with pytest.raises(BadInput, match="port 32504 of b is a worker's"):
        asked(MESH, **{option: (32504,)})
    assert ports(asked(MESH, **{option: (32500,)})) != ({}, ())  # that of another machine's


def test_a_port_is_not_closed_and_left_open_at_once():
    with pytest.raises(BadInput, match="port 80 would be both"):
        asked(closed=(80, 81), left_open=(80,))


def test_a_machine_has_so_many_of_them_at_most():
    many = tuple(range(1000, 1000 + MOST_PORTS))
    assert len(asked(closed=many).machine("b").guarded_ports) == MOST_PORTS
    for option in ("closed", "left_open"):
        with pytest.raises(BadInput, match=f"{MOST_PORTS + 1} ports are more than b can have"):
            asked(MESH, **{option: (*many, 999)})


@pytest.mark.parametrize(
    ("text", "found"), [("9100", (9100,)), ("9100, 80,9100", (80, 9100)), ("none", ()), ("65535", (65535,))]
)
def test_a_list_of_ports_is_read(text: str, found: tuple[int, ...]):
    assert parse_port_list(text) == found


@pytest.mark.parametrize(
    "text", ["", "80,", "80-90", "ssh", "-1", "+1", "1e3", "\u0665", "0", "65536", "999999", "all"]
)
def test_what_is_no_list_of_ports_is_refused(text: str):
    with pytest.raises(BadInput):
        parse_port_list(text)
