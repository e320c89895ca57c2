from __future__ import annotations

import socket
from ipaddress import ip_network
from pathlib import Path

import pytest

from qmesh.errors import KernelRefused
from qmesh.host.network import routes
from qmesh.host.network.kernel_routes.tables import read_routing_tables
from qmesh.mesh.foreign.other_hooks.source_checks import Arrival
from qmesh.mesh.routes.discards import find_discard
from tests.support.network import ip, veth

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.usefixtures("own_machine")]


@pytest.fixture(autouse=True)
def _no_resolvers(monkeypatch):
    monkeypatch.setattr(routes, "RESOLVER_FILES", (Path("/run/resolv.conf"),))


def occupied(except_interface: str) -> tuple[str, ...]:
    return tuple(each.network for each in routes.list_occupied_networks(except_interface))


def test_nothing_is_occupied_on_a_machine_without_networks():
    assert occupied("qmesh0") == ()


def test_occupied_networks_are_those_of_addresses_routes_and_resolvers():
    veth("eth0", "192.168.7.5/24", "2001:db8:7::5/64")
    veth("docker0", "172.17.0.1/16", up=False)
    ip("route", "add", "default", "via", "192.168.7.1")
    ip("-6", "route", "add", "default", "via", "2001:db8:7::1")
    ip("route", "add", "10.20.0.0/16", "via", "192.168.7.1")
    ip("route", "add", "blackhole", "10.99.0.0/16")
    ip("-6", "route", "add", "fd55::/48", "via", "2001:db8:7::1")
    Path("/run/resolv.conf").write_text(
        "# nameserver 9.9.9.9\nsearch example.org\nnameserver 10.0.0.53\nnameserver 192.168.7.1\n"
        "nameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\nnameserver\nnameserver x\n"
    )

    assert occupied("qmesh0") == (
        "10.0.0.53/32",
        "10.20.0.0/16",
        "10.99.0.0/16",
        "172.17.0.0/16",
        "192.168.7.0/24",
        "2001:db8::53/128",
        "2001:db8:7::/64",
        "fd55::/48",
    )


def test_our_own_tunnel_occupies_nothing():
    veth("qmesh0", "10.77.0.2/20", "fd00:77::2/64")
    ip("route", "add", "10.55.0.0/16", "dev", "qmesh0")

    assert occupied("qmesh0") == ()
    assert occupied("other") == ("10.55.0.0/16", "10.77.0.0/20", "fd00:77::/64")


def test_whose_link_layer_address_has_to_be_discovered_for_ipv6():
    veth("eth0", "192.168.7.5/24", "2001:db8:7::5/64")
    strangers = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}

    def inbound() -> dict[str, str | None]:
        return {each.source: each.neighbour for each in routes.list_inbound_routes("qmesh0", strangers, 1)}

    assert inbound() == {"192.168.7.5": None, "2001:db8:7::5": "2001:db8:7::1"}  # any of its network
    ip("-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
    assert inbound() == {"192.168.7.5": None, "2001:db8:7::5": "fe80::1"}
    found = {name: routes.find_route(name, 1) for name in ("192.168.7.9", "2001:db8:7::9", "2001:db8:9::9")}
    assert [each and each.neighbour for each in found.values()] == [None, "2001:db8:7::9", "fe80::1"]
    ip("link", "set", "eth0", "arp", "off")
    assert inbound() == {"192.168.7.5": None, "2001:db8:7::5": None}


def test_what_of_this_machine_discards_packets_is_found():
    veth("eth0", "192.168.7.5/24", "2001:db8:7::5/64")

    def find(address: str) -> str | None:
        tables = read_routing_tables(str(ip_network(address)), except_interface="")
        found = tables and find_discard(address, tables)
        return found.cure if found else None

    assert find("192.168.7.9") is None
    assert find("203.0.113.9") is None
    assert find("2001:db8:9::9") is None
    ip("route", "add", "unreachable", "192.168.7.9")
    ip("rule", "add", "to", "203.0.113.9", "prohibit", "priority", "70")
    ip("-6", "route", "add", "blackhole", "2001:db8:9::/48")
    for address in ("192.168.7.9", "2001:db8:9::9"):
        cure = find(address)
        assert cure is not None
        ip(*cure.split()[1:])
        assert find(address) is None
    assert find("203.0.113.9") == "ip rule add to 203.0.113.9 lookup main priority 69"


def test_a_default_route_in_parts_occupies_nothing():
    veth("eth0", "192.168.7.5/24")
    for part in ("0.0.0.0/1", "128.0.0.0/1"):
        ip("route", "add", part, "via", "192.168.7.1")
    ip("-6", "route", "add", "2000::/3", "dev", "eth0")

    assert occupied("qmesh0") == ("192.168.7.0/24",)


def test_another_table_occupies_what_a_rule_leads_to():
    veth("eth0", "192.168.7.5/24")
    ip("route", "add", "10.20.0.0/16", "via", "192.168.7.1", "table", "100")
    assert occupied("qmesh0") == ("192.168.7.0/24",)

    ip("rule", "add", "from", "all", "lookup", "100", "priority", "5270")
    ip("rule", "add", "to", "10.30.0.0/16", "prohibit", "priority", "7")
    found = {each.network: each.by for each in routes.list_occupied_networks("qmesh0")}
    assert found["10.20.0.0/16"] == "the route `10.20.0.0/16 via 192.168.7.1 dev eth0` of table 100"
    assert found["10.30.0.0/16"] == "rule 7 (`from all to 10.30.0.0/16 prohibit`)"
    assert found.keys() == {"10.20.0.0/16", "10.30.0.0/16", "192.168.7.0/24"}


def test_an_unreadable_resolver_file_is_not_an_absent_one(monkeypatch):
    monkeypatch.setattr(routes, "RESOLVER_FILES", (Path("/run"),))

    with pytest.raises(KernelRefused, match="could not read /run"):
        occupied("qmesh0")


def test_global_addresses_begin_at_the_default_route():
    veth("eth0", "192.168.7.5/24", "2001:db8:7::5/64")
    veth("eth1", "203.0.113.5/24", "203.0.113.6/24", "2001:db8:8::5/64")
    veth("eth2", "192.168.9.5/24", "2001:db8:9::5/64")
    ip("route", "add", "default", "via", "192.168.7.1", "metric", "200")
    ip("route", "add", "default", "via", "203.0.113.1", "metric", "100")
    ip("-6", "route", "add", "default", "via", "2001:db8:8::1")

    assert routes.list_global_addresses("qmesh0") == (
        "203.0.113.5",
        "203.0.113.6",
        "2001:db8:8::5",
        "192.168.7.5",
        "192.168.9.5",
        "2001:db8:7::5",
        "2001:db8:9::5",
    )


def test_a_default_route_of_two_hops_begins_at_the_first():
    veth("eth0", "192.168.7.5/24")
    veth("eth1", "192.168.8.5/24")
    ip("route", "add", "default", "nexthop", "via", "192.168.8.1", "nexthop", "via", "192.168.7.1")

    assert routes.list_global_addresses("qmesh0") == ("192.168.8.5", "192.168.7.5")


def test_addresses_that_nobody_reaches_are_no_global_ones():
    veth("eth0", "169.254.3.3/16")
    veth("eth1", "198.51.100.9/24", up=False)
    for bridge in ("docker0", "br-0a1b", "virbr0", "cni0", "podman1"):
        veth(bridge, "172.17.0.1/16")
    veth("qmesh0", "10.77.0.2/20")
    ip("address", "add", "198.51.100.7/32", "dev", "lo")
    ip("address", "add", "10.5.5.5/24", "dev", "eth0", "scope", "link")
    ip("address", "add", "2001:db8::7/64", "dev", "eth0", "nodad", "preferred_lft", "0")

    assert routes.list_global_addresses("qmesh0") == ()


def test_packets_that_come_by_another_way_than_answers_leave_are_refused_where_sources_are_checked():
    """As on a machine with two uplinks. The kernel is asked, and what it says is what it does."""
    veth("eth0", "198.51.100.5/24")
    veth("uplink", "203.0.113.7/24")
    ip("route", "add", "default", "via", "198.51.100.1")
    settings = Path("/proc/sys/net/ipv4/conf")
    (settings / "all/rp_filter").write_text("0")
    setting = settings / "uplink/rp_filter"
    targets = ("198.51.100.5", "203.0.113.7", "192.0.2.99")  # the last is another machine's
    for strictness, refused_for in (("1", "eth0"), ("2", None), ("0", None)):
        setting.write_text(strictness)
        assert routes.find_arrivals(("192.0.2.1", "203.0.113.9", "203.0.113.7"), targets) == (
            Arrival("192.0.2.1", "198.51.100.5", "eth0"),
            Arrival("192.0.2.1", "203.0.113.7", "uplink", refused_for),
            Arrival("203.0.113.9", "198.51.100.5", "eth0"),
            Arrival("203.0.113.9", "203.0.113.7", "uplink"),
        )
    setting.write_text("1")
    ip("route", "add", "blackhole", "192.0.2.0/24")  # refused for another reason
    assert {each.refused_for for each in routes.find_arrivals(("192.0.2.1",), targets)} == {None}
    ip("route", "delete", "blackhole", "192.0.2.0/24")
    ip("route", "delete", "default")
    assert routes.find_arrivals(("192.0.2.1",), targets[1:]) == (
        Arrival("192.0.2.1", "203.0.113.7", "uplink"),
    )
    assert routes.find_arrivals(("192.0.2.1",), ()) == ()
