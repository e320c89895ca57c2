"""The members of a mesh: cores without a hole, nothing twice, nobody renumbered by who comes after."""

from __future__ import annotations

import ipaddress
from itertools import pairwise
from typing import Any, TypeAlias

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from qmesh.errors import BadInput
from qmesh.mesh.inventory import (
    CoreOwners,
    Inventory,
    Worker,
    add_machine,
    admit_machine,
    find_core,
    list_worker_ports,
    list_workers,
    worker_ports,
)
from qmesh.mesh.machine import Cores, GuardedPort, count_default_workers
from qmesh.mesh.networks import find_lowest_free_address
from qmesh.mesh.values import Endpoint
from tests.support.errors import assert_refused
from tests.support.factories import key, machine, mesh

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


A, B, C = machine("a", 1, 3), machine("b", 2, 4), machine("c", 3, 10)
TUTORIAL = mesh(A, B, C)


def test_the_rendered_list_is_the_tutorials_entry_for_entry() -> None:
    assert [worker.multiaddr for worker in list_workers(TUTORIAL)] == [
        "/ip4/10.77.0.1/tcp/40000",
        "/ip4/10.77.0.1/tcp/40001",
        "/ip4/10.77.0.1/tcp/40002",
        "/ip4/10.77.0.2/tcp/40003",
        "/ip4/10.77.0.2/tcp/40004",
        "/ip4/10.77.0.2/tcp/40005",
        "/ip4/10.77.0.2/tcp/40006",
        *(f"/ip4/10.77.0.3/tcp/{port}" for port in range(40007, 40017)),
    ]


def test_the_cores_and_ports_are_the_tutorials() -> None:
    assert TUTORIAL.cores == {"a": Cores(1, 3), "b": Cores(4, 4), "c": Cores(8, 10)}
    assert worker_ports(TUTORIAL, "a") == (40000, 40001, 40002)
    assert worker_ports(TUTORIAL, "b") == (40003, 40004, 40005, 40006)
    assert worker_ports(TUTORIAL, "c") == tuple(range(40007, 40017))


@pytest.mark.parametrize("without", ["", "b", "c"])
def test_each_workers_core_is_found_by_its_place_and_no_others(without: str) -> None:
    inventory = mesh(*(replace(each, state="paused") if each.name == without else each for each in (A, B, C)))
    for worker in list_workers(inventory):
        assert find_core(inventory, worker.address, worker.port) == worker.core
        assert find_core(inventory, "10.77.0.9", worker.port) is None
    ports = list_worker_ports(inventory)
    assert [worker.port for worker in list_workers(inventory)] == list(ports)
    assert find_core(inventory, A.address, ports[0] - 1) is None
    assert find_core(inventory, C.address, ports[-1] + 1) is None


@pytest.mark.parametrize("without", [None, "b", "nobody"])
def test_the_owner_of_each_core_is_known_without_a_list_of_them(without: str | None) -> None:
    expected = {worker.core: worker.machine for worker in list_workers(TUTORIAL) if worker.machine != without}
    owners = CoreOwners(TUTORIAL, without=without)
    assert dict(owners) == expected
    assert len(owners) == len(expected)
    assert [owners.get(core) for core in (0, 18, -1)] == [None] * 3
    assert (5 in owners) is (without != "b")


def test_workers_of_two_machines_may_have_one_public_address() -> None:
    where = (Endpoint("203.0.113.5", 51820),)
    machines = (replace(each, endpoints=where) for each in (A, B))
    away = mesh(*machines, node="2.1", stream="public", p2p_base_port=25000)
    found = {worker.core: find_core(away, worker.address, worker.port) for worker in list_workers(away)}
    assert found == {core: core for core in range(1, 8)}


def test_a_worker_is_listed_with_its_core_and_machine() -> None:
    assert list(list_workers(TUTORIAL))[3] == Worker(4, "b", "10.77.0.2", 40003)


def test_an_ipv6_worker_is_listed_as_ip6() -> None:
    assert Worker(1, "a", "fd00::1", 40000).multiaddr == "/ip6/fd00::1/tcp/40000"


@pytest.mark.parametrize("state", ["paused", "invited"])
def test_a_machine_that_is_not_active_has_no_cores_and_leaves_no_hole(state: str) -> None:
    inventory = mesh(A, machine("b", 2, 4, state=state), C)
    assert inventory.cores == {"a": Cores(1, 3), "c": Cores(4, 10)}
    assert worker_ports(inventory, "b") == ()
    assert {worker.machine for worker in list_workers(inventory)} == {"a", "c"}


def test_a_machine_is_found_by_its_name() -> None:
    assert TUTORIAL.machine("b") is B
    assert TUTORIAL.control_node is A
    assert mesh(A, B, control="b").control_node is B


def test_an_unknown_machine_is_answered_with_some_of_those_that_are_known() -> None:
    many = mesh(A, *(machine(f"m{number}", number) for number in range(2, 24)))
    error = assert_refused(r"no machine is named 'x\n'", many.machine, "x\n")
    named = ", ".join(f"m{number}" for number in range(2, 21))
    assert error.hint == f"machines of this mesh: a, {named} and 3 more"
    assert (
        assert_refused("no machine is named", TUTORIAL.machine, "x").hint == "machines of this mesh: a, b, c"
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("10.77.0.2", "b"),
        ("10.77.0.2:40003", "b"),
        ("203.0.113.5", "b or c"),
        ("203.0.113.5:51821", "c"),
        ("203.0.113.5:51829", "b or c"),
        ("node.example.org", "a"),
        ("[fd00::2]:51820", "c"),
        ("203.0.113.80", "a"),
    ],
)
def test_an_address_in_place_of_a_name_is_answered_with_whose_it_is(text: str, name: str) -> None:
    reached = mesh(
        msgspec.structs.replace(A, endpoints=(Endpoint("node.example.org", 51820),), announce="203.0.113.80"),
        msgspec.structs.replace(B, endpoints=(Endpoint("203.0.113.5", 51820),)),
        msgspec.structs.replace(C, endpoints=(Endpoint("203.0.113.5", 51821), Endpoint("fd00::2", 51820))),
    )
    error = assert_refused(f"'{text}' is {name}, but a machine's name is needed", reached.machine, text)
    assert error.hint == f"use {name} in its place"


V6 = {"network": "fd00::/126", "control": "a"}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "name twice": ({"machines": (A, B, machine("b", 3))}, "two machines have the name b"),
    "address twice": (
        {"machines": (A, B, machine("c", 3, address="10.77.0.2"))},
        "two machines have the tunnel address 10.77.0.2",
    ),
    "key twice": (
        {"machines": (A, B, machine("c", 3, public_key=key(2)))},
        f"two machines have the public key {key(2)}",
    ),
    "address outside": (
        {"machines": (machine("a", 1, address="10.77.16.1"),)},
        "tunnel address 10.77.16.1 of a is no host address of 10.77.0.0/20",
    ),
    "address below": ({"machines": (machine("a", 1, address="10.76.255.255"),)}, "is no host address"),
    "network's address": ({"machines": (machine("a", 1, address="10.77.0.0"),)}, "is no host address"),
    "broadcast": ({"machines": (machine("a", 1, address="10.77.15.255"),)}, "is no host address"),
    "IPv6 network's address": (
        {**V6, "machines": (machine("a", 1, address="fd00::"),)},
        "is no host address",
    ),
    "IPv6 outside": ({**V6, "machines": (machine("a", 1, address="fd00::4"),)}, "is no host address"),
    "IPv4 in an IPv6 network": ({"network": "::/64", "machines": (A,)}, "is no host address of ::/64"),
    "IPv6 in an IPv4 network": (
        {"machines": (machine("a", 1, address="::a4d:1"),)},
        "tunnel address ::a4d:1 of a is no host address",
    ),
    "no control node": ({"control": "x"}, "no machine is named 'x'"),
    "no machine": ({"machines": ()}, "no machine is named 'a'"),
    "control node paused": (
        {"machines": (machine("a", 1, 3, state="paused"), B)},
        "the control node a is paused",
    ),
    "control node invited": (
        {"machines": (machine("a", 1, 3, state="invited"), B)},
        "the control node a is invited",
    ),
    "endpoint inside": (
        {"machines": (A, machine("b", 2, endpoints=(Endpoint("host", 5), Endpoint("10.77.9.9", 5))))},
        "endpoint 10.77.9.9 is an address of the tunnel network 10.77.0.0/20",
    ),
    "ports beyond 65535": ({"base_port": 65520}, "17 workers do not fit into the ports from 65520 to 65535"),
    "ports of a paused machine": (
        {"base_port": 65533, "machines": (A, machine("b", 2, 1, state="paused"))},
        "4 workers do not fit",
    ),
    "service port is a worker's": (
        {"service_port": 40000},
        "port 40000 would be both WireGuard's and a worker's on a",
    ),
    "service port is the last worker's": ({"service_port": 40002}, "port 40002 would be both"),
    "port of a new mesh's service is a worker's": (
        {"service_port": 325, "base_port": 324},
        "port 325 would be both the membership service's and a worker's on a",
    ),
    "base port 0": ({"base_port": 0}, "worker base port 0 is out of range"),
    "service port 65536": ({"service_port": 65536}, "service port 65536 is out of range"),
    "network with host bits": ({"network": "10.77.0.1/20"}, "'10.77.0.1/20' is not a network"),
    "no network": ({"network": "\n"}, r"'\n' is not a network"),
    "network not canonical": (
        {"network": "10.77.0.0/255.255.240.0"},
        "network '10.77.0.0/255.255.240.0' is not canonical",
    ),
}


@pytest.mark.parametrize(("wrong", "message"), REFUSED.values(), ids=REFUSED)
def test_e5_an_inventory_cannot_be_built_wrong(wrong: dict[str, Any], message: str) -> None:
    assert_refused(message, mesh, **{"machines": TUTORIAL.machines, **wrong})


def test_the_hint_for_a_network_that_is_not_canonical_says_how_to_write_it() -> None:
    error = assert_refused("not canonical", mesh, A, network="10.77.0.0/255.255.240.0")
    assert error.hint == "write it as 10.77.0.0/20"


def test_the_hint_for_too_many_workers_says_how_many_fit() -> None:
    assert "the whole mesh can have 16;" in assert_refused("do not fit", mesh, A, B, C, base_port=65520).hint


ALLOWED: dict[str, dict[str, Any]] = {
    "last address": {"machines": (machine("a", 1, address="10.77.15.254"),)},
    "IPv6's last address": {"network": "fd00::/126", "machines": (machine("a", 1, address="fd00::3"),)},
    "the last port": {"base_port": 65518},
    "service port behind the control node's workers": {"service_port": 40003},
    "service port before the control node's workers": {"service_port": 39999},
    "endpoint outside": {"machines": (machine("a", 1, endpoints=(Endpoint("10.77.16.1", 5),)),)},
}


@pytest.mark.parametrize("right", ALLOWED.values(), ids=ALLOWED)
def test_an_inventory_may_go_to_the_edge(right: dict[str, Any]) -> None:
    named = {"machines": (A, B, machine("c", 3, 11)), **right}
    assert mesh(**named).machines == named["machines"]


def test_an_inventory_outlives_a_message() -> None:
    inventory = mesh(A, machine("b", 2, None, state="invited", endpoints=(Endpoint("::1", 5),)))
    assert msgspec.json.decode(msgspec.json.encode(inventory), type=Inventory) == inventory


def test_an_added_machine_stands_at_the_end() -> None:
    assert add_machine(mesh(A, B), C) == TUTORIAL


def test_a_machine_is_not_added_under_a_name_that_is_taken() -> None:
    assert_refused("a machine named b is already in the mesh", add_machine, TUTORIAL, machine("b", 9))


def test_e5_a_resting_address_is_not_given() -> None:
    assert_refused(
        "tunnel address 10.77.0.3 is not free yet", add_machine, mesh(A, B), C, resting={"10.77.0.3"}
    )
    assert add_machine(mesh(A, B), C, resting={"10.77.0.4"}) == TUTORIAL


def test_e5_an_added_machine_takes_nobodys_address_or_key() -> None:
    assert_refused(
        "the tunnel address 10.77.0.2", add_machine, TUTORIAL, machine("d", 4, address="10.77.0.2")
    )
    assert_refused("the public key", add_machine, TUTORIAL, machine("d", 4, public_key=key(2)))


def test_an_admitted_machine_is_active_behind_every_other_with_its_own_key() -> None:
    invited = machine("b", 2, None, state="invited", endpoints=(Endpoint("host", 5),))
    after = admit_machine(mesh(A, invited, C), "b", public_key=key(9), workers=4)
    member = machine("b", 2, 4, public_key=key(9), endpoints=(Endpoint("host", 5),))
    assert after == mesh(A, C, member, revision=8)


@pytest.mark.parametrize("state", ["active", "paused"])
def test_e3_a_member_is_not_admitted_again(state: str) -> None:
    inventory = mesh(A, machine("b", 2, 4, state=state))
    assert_refused(f"b is {state}, not invited", admit_machine, inventory, "b", public_key=key(9), workers=4)


def test_an_unknown_machine_is_not_admitted() -> None:
    assert_refused("no machine is named 'x'", admit_machine, TUTORIAL, "x", public_key=key(9), workers=4)


def test_e5_nobody_is_admitted_with_anothers_key() -> None:
    inventory = mesh(A, B, machine("c", 3, None, state="invited"))
    assert_refused("the public key", admit_machine, inventory, "c", public_key=key(2), workers=4)


@st.composite
def histories(draw: st.DrawFn) -> list[Inventory]:
    """The inventories that a mesh goes through while machines are invited, admitted and added."""
    history = [mesh(machine("a", 1, draw(st.integers(1, 9))))]
    for number in range(2, draw(st.integers(2, 10))):
        now = history[-1]
        invited = [member.name for member in now.machines if member.state == "invited"]
        if draw(st.booleans()) and invited:
            name, workers = draw(st.sampled_from(invited)), draw(st.integers(1, 9))
            history.append(admit_machine(now, name, public_key=key(100 + number), workers=workers))
        else:
            address = find_lowest_free_address(now.network, {member.address for member in now.machines})
            state: str = draw(st.sampled_from(["active", "invited", "paused"]))
            workers = draw(st.integers(1, 9))
            new = machine(f"m{number}", number, workers, state=state, address=address)
            history.append(add_machine(now, new))
    return history


@given(histories())
def test_e5_no_name_address_key_core_or_port_is_anothers(history: list[Inventory]) -> None:
    machines, workers = history[-1].machines, list(list_workers(history[-1]))
    for values in (
        [member.name for member in machines],
        [member.address for member in machines],
        [member.public_key for member in machines],
        [worker.core for worker in workers],
        [worker.port for worker in workers],
        [port for member in machines for port in worker_ports(history[-1], member.name)],
    ):
        assert len(set(values)) == len(values)


@given(histories())
def test_cores_count_from_1_without_a_hole_in_the_order_of_the_machines(history: list[Inventory]) -> None:
    inventory = history[-1]
    workers = list(list_workers(inventory))
    active = [member for member in inventory.machines if member.state == "active"]
    assert [worker.core for worker in workers] == list(range(1, len(workers) + 1))
    assert [worker.port for worker in workers] == list(range(40000, 40000 + len(workers)))
    assert [worker.machine for worker in workers] == [
        member.name for member in active for _ in range(member.workers or 0)
    ]


@given(histories())
def test_a_newcomer_renumbers_nobody(history: list[Inventory]) -> None:
    for before, after in pairwise(history):
        assert before.cores.items() <= after.cores.items()


@given(histories())
def test_e6_the_revision_grows_by_one_with_each_admission(history: list[Inventory]) -> None:
    for before, after in pairwise(history):
        admitted = len(after.machines) == len(before.machines)
        assert after.revision == before.revision + admitted


@pytest.mark.parametrize("revision", [-1, 2**53 + 1])
def test_a_revision_that_cannot_be_is_refused(revision: int) -> None:
    with pytest.raises(BadInput, match="no revision"):
        mesh(A, revision=revision)


@pytest.mark.parametrize(
    ("there", "reserve", "workers"), [(8, None, 7), (1, None, 1), (1, 0, 1), (8, 0, 8), (8, 7, 1)]
)
def test_the_control_process_keeps_a_core_or_as_many_as_it_is_given(there, reserve, workers):
    assert count_default_workers(there, reserve) == workers


@pytest.mark.parametrize("reserve", [-1, 8, 4096])
def test_what_leaves_no_worker_is_refused(reserve):
    with pytest.raises(BadInput, match=f"{reserve} of 8 cores"):
        count_default_workers(8, reserve)


@pytest.mark.parametrize(
    "fields",
    [
        {"announce": "2001:DB8::1"},
        {"announce": "-"},
        {"left_open": (80, 80)},
        {"left_open": (81, 80)},
        {"guarded_ports": (GuardedPort(80, "mesh"), GuardedPort(80, "none"))},
        {"guarded_ports": (GuardedPort(80, "mesh"),), "left_open": (80,)},
    ],
)
def test_a_machine_has_no_port_twice_and_no_address_that_is_none(fields: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        machine("a", 1, **fields)


def test_what_a_machine_has_nothing_of_is_not_in_the_membership() -> None:
    assert b"node_files" not in msgspec.json.encode(A)
    asked = machine("a", 1, node_files=True, left_open=(80,), guarded_ports=(GuardedPort(5432, "none"),))
    assert msgspec.json.decode(msgspec.json.encode(asked), type=type(A)) == asked
