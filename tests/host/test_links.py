from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qmesh.errors import KernelRefused
from qmesh.host import links

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def veth(name: str, *addresses: str, up: bool = True) -> None:
    """An interface with its other end beside it, which is up, so that this one has a carrier."""
    ip("link", "add", name, "type", "veth", "peer", "name", f"p-{name}")
    ip("link", "set", f"p-{name}", "addrgenmode", "none", "up")
    for address in addresses:
        ip("address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
    if up:
        ip("link", "set", name, "up")


@pytest.fixture(autouse=True)
def _no_resolvers(monkeypatch):
    monkeypatch.setattr(links, "RESOLVER_FILES", (Path("/run/resolv.conf"),))


def test_what_is_not_there_reads_as_none():
    assert links.read("qmesh0") is None


def test_an_interface_reads_as_ip_link_shows_it():
    veth("qmesh0", up=False)
    ip("link", "set", "qmesh0", "mtu", "1400")

    link = links.read("qmesh0")

    assert link == links.Link(
        name="qmesh0",
        index=int(ip("-o", "link", "show", "qmesh0").split(":")[0]),
        kind="veth",
        mtu=1400,
        up=False,
        addresses=(),
    )


def test_another_name_of_an_interface_is_not_it():
    veth("eth0")
    ip("link", "property", "add", "dev", "eth0", "altname", "qmesh0")

    with pytest.raises(KernelRefused, match="another name of eth0"):
        links.delete("qmesh0")

    assert links.read("eth0") is not None


def test_up_and_down():
    veth("eth0", up=False)
    links.set_up("eth0", up=True)
    up = links.read("eth0")
    links.set_up("eth0", up=False)
    down = links.read("eth0")

    assert up is not None
    assert down is not None
    assert (up.up, down.up) == (True, False)


def test_mtu():
    veth("eth0")
    links.set_mtu("eth0", 1420)
    link = links.read("eth0")

    assert link is not None
    assert link.mtu == 1420


def test_a_refused_mtu_says_which():
    veth("eth0")

    with pytest.raises(KernelRefused, match="set the MTU of eth0 to 99999999"):
        links.set_mtu("eth0", 99_999_999)


def test_addresses_are_added_once_and_sorted_and_without_link_local():
    veth("eth0")
    for address in ("fd00:77::2/64", "10.77.0.2/20", "10.77.0.2/20", "fd00:77::2/64"):
        links.add_address("eth0", address)
    link = links.read("eth0")

    assert "fe80::" in ip("-6", "address", "show", "eth0")
    assert link is not None
    assert link.addresses == ("10.77.0.2/20", "fd00:77::2/64")


def test_an_ipv6_address_can_be_used_at_once():
    veth("eth0")
    links.add_address("eth0", "fd00:77::2/64")

    assert "tentative" not in ip("-6", "address", "show", "scope", "global")
    assert "nodad" in ip("-6", "address", "show", "scope", "global")


def test_an_ipv6_address_with_another_prefix_length_is_no_success():
    veth("eth0", "fd00:77::2/48")

    with pytest.raises(KernelRefused, match="add fd00:77::2/64 to eth0"):
        links.add_address("eth0", "fd00:77::2/64")


def test_ipv6_switched_off_is_told():
    veth("eth0")
    Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").write_text("1")

    with pytest.raises(KernelRefused) as refused:
        links.add_address("eth0", "fd00:77::2/64")

    assert "disable_ipv6" in refused.value.hint


def test_addresses_are_removed_and_those_that_are_gone_are_fine():
    veth("eth0", "10.77.0.2/20", "fd00:77::2/64")
    for address in ("10.77.0.2/20", "10.77.0.2/20", "fd00:77::2/64", "fd00:77::2/64"):
        links.remove_address("eth0", address)
    links.remove_address("no-such", "10.77.0.2/20")
    link = links.read("eth0")

    assert link is not None
    assert link.addresses == ()


def test_a_point_to_point_address_is_our_own_side():
    veth("eth0")
    ip("address", "add", "10.1.1.1", "peer", "10.1.1.2/32", "dev", "eth0")
    link = links.read("eth0")

    assert link is not None
    assert link.addresses == ("10.1.1.1/32",)


def test_delete_and_what_is_gone_is_fine():
    veth("eth0")
    links.delete("eth0")
    links.delete("eth0")

    assert links.read("eth0") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda: links.set_up("qmesh0", up=True),
        lambda: links.set_mtu("qmesh0", 1420),
        lambda: links.add_address("qmesh0", "10.77.0.2/20"),
    ],
    ids=["up", "mtu", "address"],
)
def test_changing_what_is_not_there_is_refused(change):
    with pytest.raises(KernelRefused, match="No such device") as refused:
        change()

    assert refused.value.hint


def test_nothing_is_occupied_on_a_machine_without_networks():
    assert links.occupied_networks("qmesh0") == ()


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

    assert links.occupied_networks("qmesh0") == (
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

    assert links.occupied_networks("qmesh0") == ()
    assert links.occupied_networks("other") == ("10.55.0.0/16", "10.77.0.0/20", "fd00:77::/64")


def test_a_default_route_in_parts_occupies_nothing():
    veth("eth0", "192.168.7.5/24")
    for part in ("0.0.0.0/1", "128.0.0.0/1"):
        ip("route", "add", part, "via", "192.168.7.1")
    ip("-6", "route", "add", "2000::/3", "dev", "eth0")

    assert links.occupied_networks("qmesh0") == ("192.168.7.0/24",)


def test_other_tables_occupy_nothing():
    veth("eth0", "192.168.7.5/24")
    ip("route", "add", "10.20.0.0/16", "via", "192.168.7.1", "table", "100")

    assert links.occupied_networks("qmesh0") == ("192.168.7.0/24",)


def test_an_unreadable_resolver_file_is_not_an_absent_one(monkeypatch):
    monkeypatch.setattr(links, "RESOLVER_FILES", (Path("/run"),))

    with pytest.raises(KernelRefused, match="could not read /run"):
        links.occupied_networks("qmesh0")


def test_global_addresses_begin_at_the_default_route():
    veth("eth0", "192.168.7.5/24", "2001:db8:7::5/64")
    veth("eth1", "203.0.113.5/24", "203.0.113.6/24", "2001:db8:8::5/64")
    veth("eth2", "192.168.9.5/24", "2001:db8:9::5/64")
    ip("route", "add", "default", "via", "192.168.7.1", "metric", "200")
    ip("route", "add", "default", "via", "203.0.113.1", "metric", "100")
    ip("-6", "route", "add", "default", "via", "2001:db8:8::1")

    assert links.global_addresses("qmesh0") == (
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

    assert links.global_addresses("qmesh0") == ("192.168.8.5", "192.168.7.5")


def test_addresses_that_nobody_reaches_are_no_global_ones():
    veth("eth0", "169.254.3.3/16")
    veth("eth1", "198.51.100.9/24", up=False)
    for bridge in ("docker0", "br-0a1b", "virbr0", "cni0", "podman1"):
        veth(bridge, "172.17.0.1/16")
    veth("qmesh0", "10.77.0.2/20")
    ip("address", "add", "198.51.100.7/32", "dev", "lo")
    ip("address", "add", "10.5.5.5/24", "dev", "eth0", "scope", "link")
    ip("address", "add", "2001:db8::7/64", "dev", "eth0", "nodad", "preferred_lft", "0")

    assert links.global_addresses("qmesh0") == ()


def test_without_the_right_to_change_links_root_is_asked_for():
    code = "from qmesh.host import links; links.set_mtu('lo', 1400)"
    # Without the network administrator's capability, root is told no as well.
    ended = subprocess.run(
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
    )

    assert "NeedsRoot: could not set the MTU of lo to 1400" in ended.stderr
