"""The tunnel network: one that is free, and its addresses."""

from __future__ import annotations

import ipaddress
from itertools import combinations
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.networks import (
    CANDIDATE_NETWORKS,
    CLOUD_NETWORKS,
    OccupiedNetwork,
    choose_network,
    find_lowest_free_address,
    find_overlap,
    refuse_collision,
    refuse_endpoint_inside,
    refuse_small_network,
)
from qmesh.mesh.values import Endpoint
from tests.support.errors import assert_refused
from tests.support.factories import machine, mesh

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def in_use(*networks: str) -> list[OccupiedNetwork]:
    return [OccupiedNetwork(network, "a test") for network in networks]


FREE = [
    ("10.77.0.0/20", (), "10.77.0.1"),
    ("10.77.0.0/20", ("10.77.0.1", "10.77.0.3"), "10.77.0.2"),
    ("10.77.0.0/24", tuple(f"10.77.0.{last}" for last in range(1, 254)), "10.77.0.254"),
    ("10.77.0.0/30", (), "10.77.0.1"),
    ("10.77.0.0/30", ("10.77.0.1",), "10.77.0.2"),
    ("fd00::/64", ("fd00::1",), "fd00::2"),
    ("fd00::/126", ("fd00::1", "fd00::2"), "fd00::3"),
    ("fd00::/127", (), "fd00::1"),
]


@pytest.mark.parametrize(("network", "taken", "address"), FREE)
def test_the_lowest_free_address_is_given(network: str, taken: tuple[str, ...], address: str) -> None:
    assert find_lowest_free_address(network, taken) == address


@pytest.mark.parametrize(
    ("network", "taken"),
    [
        ("10.77.0.0/30", {"10.77.0.1", "10.77.0.2"}),
        ("10.77.0.0/31", set[str]()),
        ("10.77.0.0/32", set[str]()),
        ("fd00::/126", {"fd00::1", "fd00::2", "fd00::3"}),
        ("fd00::/127", {"fd00::1"}),
        ("fd00::/128", set[str]()),
    ],
)
def test_a_full_network_has_no_free_address(network: str, taken: set[str]) -> None:
    assert_refused(
        f"every address of the tunnel network {network} is taken", find_lowest_free_address, network, taken
    )


@given(
    st.sampled_from(["10.77.0.0/28", "10.77.0.0/30", "fd00::/124", "fd00::/127"]), st.sets(st.integers(0, 15))
)
def test_e5_a_free_address_is_a_host_never_a_taken_one_and_none_lower_is_free(
    network: str, numbers: set[int]
) -> None:
    inside = ipaddress.ip_network(network)
    hosts = [str(address) for address in inside][1 : None if inside.version == 6 else -1]
    taken = {str(inside.network_address + number) for number in numbers}
    free = [address for address in hosts if address not in taken]
    if free:
        assert find_lowest_free_address(network, taken) == free[0]
    else:
        assert_refused("is taken", find_lowest_free_address, network, taken)


@pytest.mark.parametrize("network", ["10.77.0.0/31", "10.77.0.0/32", "fd00::/127", "fd00::/128"])
def test_a_network_without_room_for_two_is_refused(network: str) -> None:
    assert_refused(f"the tunnel network {network} has no room for two", refuse_small_network, network)


@pytest.mark.parametrize("network", ["10.77.0.0/30", "10.77.0.0/20", "fd00::/126"])
def test_a_network_with_room_for_two_is_taken(network: str) -> None:
    refuse_small_network(network)
    first = find_lowest_free_address(network, ())
    assert find_lowest_free_address(network, {first}) != first


def test_the_candidate_networks_are_private_large_and_apart() -> None:
    candidates = [ipaddress.IPv4Network(text) for text in CANDIDATE_NETWORKS]
    private = [ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
    assert candidates[0] == ipaddress.IPv4Network("10.77.0.0/20")
    assert len(candidates) == 179 + 13
    taken = ("172.17.0.0/16", "172.18.0.0/16", "172.31.0.0/16", "10.42.0.0/15", "192.168.0.0/16")
    for others in map(ipaddress.ip_network, taken):
        assert not any(network.overlaps(others) for network in candidates)
    assert all(any(network.subnet_of(outer) for outer in private) for network in candidates)
    assert all(network.prefixlen == 20 for network in candidates)
    assert not any(one.overlaps(other) for one, other in combinations(candidates, 2))


@pytest.mark.parametrize(
    ("occupied", "chosen"),
    [
        ((), "10.77.0.0/20"),
        (("0.0.0.0/0", "::/0", "fd00::/8"), "10.77.0.0/20"),
        (("192.168.0.0/24", "172.17.0.0/16", "172.31.0.0/20"), "10.77.0.0/20"),
        # A machine that is in a part of 10.0.0.0/8 is in a network that may route all of it.
        (("10.0.5.0/24",), "172.30.16.0/20"),
        (("10.0.0.0/8",), "172.30.16.0/20"),
        (("10.244.1.0/24", "172.30.0.0/16", "172.29.16.7/32"), "172.28.16.0/20"),
        (("10.0.0.53/32", *(f"172.{octet}.0.0/16" for octet in range(17, 32))), "172.16.16.0/20"),
    ],
)
def test_the_first_network_that_is_not_in_the_way_is_chosen(occupied: tuple[str, ...], chosen: str) -> None:
    assert choose_network(in_use(*occupied)) == chosen


def test_a_dns_server_is_in_nobodys_network() -> None:
    server = OccupiedNetwork("10.77.0.53/32", "a DNS server", is_routed=False)
    assert choose_network([server]) == "10.78.0.0/20"


def test_there_may_be_no_network_left() -> None:
    error = assert_refused("are in use", choose_network, in_use("10.0.0.0/8", "172.16.0.0/12"))
    assert "--network" in error.hint


def inside(first: str) -> st.SearchStrategy[str]:
    """Networks that share addresses with a private one, given by its first address and prefix length."""
    outer = ipaddress.IPv4Network(first)
    return st.builds(
        lambda number, length: str(
            ipaddress.ip_network((outer.network_address + number, length), strict=False)
        ),
        st.integers(0, outer.num_addresses - 1),
        st.integers(outer.prefixlen + 1, 32),
    )


@given(st.lists(st.one_of(*map(inside, ["10.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"])), max_size=30))
def test_a_chosen_network_overlaps_with_nothing_that_is_occupied(occupied: list[str]) -> None:
    try:
        chosen = ipaddress.ip_network(choose_network(in_use(*occupied)))
    except BadInput:
        chosen = None
    others = [ipaddress.ip_network(text) for text in occupied]
    others += [cloud for cloud in CLOUD_NETWORKS if any(each.overlaps(cloud) for each in others)]
    for candidate in map(ipaddress.ip_network, CANDIDATE_NETWORKS):
        in_the_way = any(
            candidate[0] <= other[-1] and other[0] <= candidate[-1]  # type: ignore[operator]
            for other in others
        )
        if candidate == chosen:
            assert not in_the_way
            return
        assert in_the_way
    assert chosen is None


@pytest.mark.parametrize(
    ("occupied", "found"),
    [
        (["10.78.0.0/16", "10.77.3.0/24", "10.77.4.0/24"], "10.77.3.0/24"),
        (["10.0.0.0/8"], "10.0.0.0/8"),
        (["0.0.0.0/1"], "0.0.0.0/1"),
        (["0.0.0.0/0", "10.77.16.0/20", "fd00::/8"], None),
        ([], None),
    ],
)
def test_the_first_network_in_the_way_is_found(occupied: list[str], found: str | None) -> None:
    other = find_overlap("10.77.0.0/20", in_use(*occupied))
    assert (None if other is None else other.network) == found


def test_networks_of_different_versions_are_never_in_the_way() -> None:
    assert find_overlap("fd00::/64", in_use("10.0.0.0/8")) is None
    assert find_overlap("fd00::/64", in_use("fd00::/8")) == OccupiedNetwork("fd00::/8", "a test")


def test_a_collision_names_both_networks() -> None:
    error = assert_refused(
        "the tunnel network 10.77.0.0/20 collides with 10.77.1.0/24 of this machine: a test",
        *(refuse_collision, "10.77.0.0/20", in_use("192.168.0.0/16", "10.77.1.0/24")),
        hint="what to do",
    )
    assert error.hint == "what to do"


@pytest.mark.parametrize("host", ["10.77.0.1", "10.77.15.255", "10.77.0.0"])
def test_an_endpoint_inside_the_tunnel_network_is_refused(host: str) -> None:
    assert_refused(
        f"endpoint {host} is an address of the tunnel network", refuse_endpoint_inside, "10.77.0.0/20", host
    )


@pytest.mark.parametrize("host", ["10.77.16.0", "203.0.113.5", "node.example.org", "fd00::1", "::a4d:1"])
def test_an_endpoint_outside_the_tunnel_network_is_taken(host: str) -> None:
    assert mesh(machine("a", 1, endpoints=(Endpoint(host, 5),))).control_node.endpoints[0].host == host


def test_nothing_in_the_way_is_no_collision() -> None:
    occupied = in_use("0.0.0.0/0", "192.168.7.0/24")
    refuse_collision("10.77.0.0/20", occupied, hint="what to do")
    assert choose_network(occupied) == "10.77.0.0/20"
