"""Whether an address is this machine's, by the real kernel."""

from __future__ import annotations

import subprocess

import pytest

from qmesh.host.network.kernel_routes.tunnel import wait_for_local_routes
from qmesh.host.network.local_addresses import can_be_bound, find_direct_network
from tests.support.network import ip

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]


def make_link(*addresses: str) -> None:
    ip("link", "add", "tun9", "type", "veth", "peer", "name", "tun8")
    for name in ("tun8", "tun9"):
        ip("link", "set", name, "up")
    for address in addresses:
        ip("address", "add", address, "dev", "tun9", *(["nodad"] if ":" in address else []))
    wait_for_local_routes("tun9")


@pytest.mark.parametrize("address", ["10.77.0.2", "fd00:77::2"])
def test_an_address_can_be_bound_as_long_as_an_interface_has_it(address):
    assert not can_be_bound(address)
    make_link(f"{address}/32" if "." in address else f"{address}/128")
    assert can_be_bound(address)
    ip("link", "delete", "tun9")
    assert not can_be_bound(address)


def test_an_ipv6_address_that_may_be_anothers_cannot_be_bound_yet():
    make_link()
    ip("address", "add", "fd00:77::2/64", "dev", "tun9")
    assert not can_be_bound("fd00:77::2")


def test_without_ipv6_none_of_its_addresses_can_be_bound():
    subprocess.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], check=True)
    assert not can_be_bound("::1")
    assert find_direct_network("fd00:77::3") is None


def test_a_neighbours_network_is_named_and_one_behind_a_router_is_not():
    make_link("10.77.0.2/20", "fd00:77::2/64")
    ip("route", "add", "10.99.0.0/16", "via", "10.77.0.1")
    ip("route", "add", "default", "via", "10.77.0.1")
    ip("route", "add", "fd00:99::/64", "via", "fd00:77::1")
    ip("route", "add", "unreachable", "fd00:98::/64")
    ip("-6", "route", "add", "default", "via", "fd00:77::1")

    assert find_direct_network("10.77.15.9") == "10.77.0.0/20 of tun9"
    assert find_direct_network("fd00:77::9") == "fd00:77::/64 of tun9"
    for elsewhere in ("10.77.16.1", "10.99.0.1", "8.8.8.8", "fd00:99::1", "fd00:98::1", "2001:db8::1"):
        assert find_direct_network(elsewhere) is None


def test_a_machine_without_networks_has_none_around():
    assert find_direct_network("10.77.0.2") is None
    assert find_direct_network("fd00:77::2") is None
