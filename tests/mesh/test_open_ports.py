"""Which ports have to be open to the internet, by machine, role and version of the node."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qmesh.errors import BadInput
from qmesh.mesh.changes import (
    pause_machine,
    remove_machine,
    resume_machine,
    set_announced_host,
    set_endpoints,
    set_worker_count,
)
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.reachability.announcements import lacks_stream_host
from qmesh.mesh.reachability.open_ports import (
    MachinePorts,
    find_open_ports,
    list_all_open_ports,
    list_changed_ports,
)
from qmesh.mesh.values import Endpoint, Profile
from tests.support.factories import cluster

KNOWN = {"a": 51820, "b": 51821}


def mesh(node: Profile = "2.1-rust", *, endpoints: dict[str, str] | None = None, **named: Any) -> Inventory:
    p2p = {} if node in {"1.4", "2.0"} else {"base_port": 32500, "p2p_base_port": 25000}
    made = cluster(3, 4, 10, node=node, **p2p, **named)
    for name, where in (endpoints or {}).items():
        made = set_endpoints(made, name, (Endpoint.parse(where),))
    return made


def shown(found: MachinePorts) -> list[str]:
    return [f"{each.protocol} {each.ports[0]}-{each.ports[-1]} {each.purpose}" for each in found.open]


@pytest.mark.parametrize("node", ["1.4", "2.0"])
def test_before_2_1_nobody_calls_workers(node):
    assert [shown(each) for each in list_all_open_ports(mesh(node), KNOWN)] == [
        ["udp 51820-51820 WireGuard", "udp 8336-8336 node"],
        [],
        [],
    ]


@pytest.mark.parametrize("node", ["2.1", "2.1-rust"])
def test_from_2_1_on_each_machines_workers_are_called(node):
    assert [shown(each) for each in list_all_open_ports(mesh(node), KNOWN)] == [
        ["udp 51820-51820 WireGuard", "udp 8336-8336 node", "tcp 8340-8340 node", "tcp 25000-25002 workers"],
        ["tcp 25003-25006 workers"],
        ["tcp 25007-25016 workers"],
    ]


def test_wireguards_port_is_an_endpoints_and_open_where_there_is_one():
    there = mesh(endpoints={"a": "203.0.113.5:4500", "c": "203.0.113.7:4600"})
    assert shown(find_open_ports(there, "a", KNOWN))[0] == "udp 4500-4500 WireGuard"
    assert shown(find_open_ports(there, "b", KNOWN)) == ["tcp 25003-25006 workers"]
    assert shown(find_open_ports(there, "c", KNOWN))[0] == "udp 4600-4600 WireGuard"
    assert shown(find_open_ports(mesh(), "a", {}))[0] == "udp 8336-8336 node"


def test_public_streams_and_a_master_proxy():
    ways = {name: f"203.0.113.{at}" for at, name in enumerate("abc", 1)}
    public = mesh("2.1", endpoints=ways)
    public = msgspec.structs.replace(public, stream="public")
    (workers,) = (each for each in find_open_ports(public, "b", {}).open if each.purpose == "workers")
    assert workers.ports == (*range(25003, 25007), *range(32503, 32507))
    proxied = msgspec.structs.replace(mesh("2.1"), master_proxy=True)
    assert [shown(each) for each in list_all_open_ports(proxied, KNOWN)][1:] == [[], []]


def test_ports_of_workers_go_with_the_core_numbers():
    before = mesh()
    for after, changed in (
        (pause_machine(before, "b"), {"b": [], "c": ["tcp 25003-25012 workers"]}),
        (remove_machine(before, "b"), {"c": ["tcp 25003-25012 workers"]}),
        (set_worker_count(before, "c", 11), {"c": ["tcp 25007-25017 workers"]}),
        (before, {}),
    ):
        found = list_changed_ports(before, after, KNOWN)
        assert {each.machine: shown(each) for each in found} == changed
    paused = pause_machine(before, "b")
    found = list_changed_ports(paused, resume_machine(paused, "b"), KNOWN)
    assert {each.machine: shown(each) for each in found} == {"b": ["tcp 25013-25016 workers"]}


def test_the_control_nodes_ports_go_with_the_control_role():
    before = mesh(endpoints={"a": "203.0.113.5", "b": "203.0.113.6"})
    after = msgspec.structs.replace(before, control="b")
    found = list_changed_ports(before, after, KNOWN)
    assert {each.machine: shown(each) for each in found} == {
        "a": ["udp 51820-51820 WireGuard", "tcp 25000-25002 workers"],
        "b": [
            *("udp 51820-51820 WireGuard", "udp 8336-8336 node", "tcp 8340-8340 node"),
            "tcp 25003-25006 workers",
        ],
    }
    assert not lacks_stream_host(after)
    assert lacks_stream_host(msgspec.structs.replace(before, control="c"))
    assert not lacks_stream_host(mesh("2.0"))


def test_where_the_network_comes_is_named_with_who_else_is_there():
    there = mesh(endpoints={"a": "203.0.113.5", "b": "192.168.0.201"})
    a, b, c = list_all_open_ports(there, KNOWN)
    assert [(each.host, each.is_forwarded, each.shared_with) for each in (a, b, c)] == [
        ("203.0.113.5", False, ()),
        ("203.0.113.5", True, ("a",)),
        (None, False, ()),
    ]
    both = set_announced_host(there, "c", "203.0.113.5")
    (changed,) = list_changed_ports(there, both, KNOWN)
    assert (changed.machine, changed.host, changed.shared_with) == ("c", "203.0.113.5", ("a",))
    assert find_open_ports(both, "a", KNOWN).shared_with == ("c",)
    # Which node tells nobody where its workers are has no use for an address.
    assert list_all_open_ports(mesh("2.0", endpoints={"a": "203.0.113.5"}), KNOWN)[0].host is None


def test_who_is_only_invited_has_no_ports():
    invited = msgspec.structs.replace(mesh().machine("c"), state="invited", workers=None)
    there = msgspec.structs.replace(mesh(), machines=(*mesh().machines[:2], invited))
    assert [each.machine for each in list_all_open_ports(there, KNOWN)] == ["a", "b"]


def test_an_announced_address_is_none_of_the_tunnel_and_none_that_the_program_does_not_have():
    odd = cluster(1, 1, network="10.77.0.0/20", node="2.1-rust", base_port=32500, p2p_base_port=25000)
    with pytest.raises(BadInput, match="an address of the tunnel network"):
        set_announced_host(odd, "b", "10.77.0.9")
    with pytest.raises(BadInput, match="has its port 8340 on IPv4 alone"):
        set_announced_host(odd, "a", "2001:db8::7")
    assert set_announced_host(odd, "b", "2001:db8::7").machine("b").announce == "2001:db8::7"
    go = msgspec.structs.replace(odd, node="2.1")
    assert set_announced_host(go, "a", "2001:db8::7").machine("a").announce == "2001:db8::7"
    named = set_announced_host(odd, "b", "node.example.org")
    assert set_announced_host(named, "b", None).machine("b").announce is None
