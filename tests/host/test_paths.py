"""Paths over a real router, which tells of its narrow link or swallows what does not fit."""

from __future__ import annotations

import subprocess

import pytest

from qmesh.host.paths import echo_time, largest_echoed, mtus
from qmesh.mesh.model import Endpoint
from tests.lab.waiting import patience, within

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

FAR, FAR6 = Endpoint("10.2.0.2", 51820), Endpoint("fd02::2", 51820)
SILENT = (
    "add table inet silent; add chain inet silent out { type filter hook output priority 0; };"
    "add rule inet silent out icmp type destination-unreachable drop;"
    "add rule inet silent out icmpv6 type packet-too-big drop"
)


def make_network(*, mtu: int) -> None:
    """This machine, a router, and beyond a link of that MTU another machine; nobody listens there."""
    script = f"""
        set -e
        for name in router far; do ip netns add $name; ip -n $name link set lo up; done
        ip link add near type veth peer name near netns router
        ip -n router link add far mtu {mtu} type veth peer name far mtu {mtu} netns far
        ip addr add 10.1.0.2/24 dev near; ip addr add fd01::2/64 dev near nodad; ip link set near up
        for at in 'near 10.1.0.1/24 fd01::1/64' 'far 10.2.0.1/24 fd02::1/64'; do
            set -- $at
            ip -n router addr add $2 dev $1; ip -n router addr add $3 dev $1 nodad
            ip -n router link set $1 up
        done
        ip -n far addr add 10.2.0.2/24 dev far; ip -n far addr add fd02::2/64 dev far nodad
        ip -n far link set far up
        ip netns exec router sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip route add default via 10.1.0.1; ip route add default via fd01::1
        ip -n far route add default via 10.2.0.1; ip -n far route add default via fd02::1
    """
    subprocess.run(["sh", "-c", script], check=True)


def await_ipv6() -> None:
    """Neighbours find each other by IPv6 only after a second."""
    assert echo_time(FAR6.host, 100, wait_s=5) is not None


def be_silent() -> None:
    """Have the router keep to itself that something does not fit."""
    subprocess.run(["ip", "netns", "exec", "router", "nft", SILENT], check=True)


def test_a_router_tells_how_much_its_next_link_carries():
    make_network(mtu=1400)
    await_ipv6()
    assert mtus([FAR, FAR6], probe=False) == {FAR: 1500, FAR6: 1500}
    assert mtus([FAR, FAR6], probe=True) == {FAR: 1400, FAR6: 1400}
    assert mtus([FAR, FAR6], probe=False) == {FAR: 1400, FAR6: 1400}


def test_a_neighbour_is_not_probed_and_another_is_once_a_minute():
    make_network(mtu=1500)
    assert mtus([FAR], probe=True) == {FAR: 1500}
    neighbour = Endpoint("10.1.0.1", 51820)
    with within(0.25):
        assert mtus([FAR, neighbour, Endpoint("name.example", 1)], probe=True) == {
            FAR: 1500,
            neighbour: 1500,
        }
    assert echo_time("10.2.0.99", 100, wait_s=0.2) is None
    assert echo_time("10.2.0.2", 2000, wait_s=0.2) is None
    assert echo_time("127.0.0.1", 100, wait_s=patience(1)) is not None
    subprocess.run(["ip", "route", "del", "default"], check=True)
    assert mtus([FAR], probe=True) == {}


@pytest.mark.parametrize("address", ["10.2.0.2", "fd02::2"])
def test_a_black_hole_shows_by_what_is_not_echoed(address):
    make_network(mtu=1400)
    await_ipv6()
    be_silent()
    assert mtus([FAR, FAR6], probe=True) == {FAR: 1500, FAR6: 1500}
    assert echo_time(address, 1400, wait_s=1) is not None
    assert echo_time(address, 1401, wait_s=0.2) is None
    assert largest_echoed(address, fails=1500, least=1280, wait_s=0.2) in range(1396, 1401)
    assert largest_echoed(address, fails=1500, least=1404, wait_s=0.2) is None
