"""Routes of interfaces, and the kernel's answers, by real routing in namespaces."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from random import Random

import pytest

from qmesh.host.network import links
from qmesh.host.network.kernel_routes import tunnel as tunnel_routes
from qmesh.host.network.kernel_routes.questions import ask_kernel
from qmesh.host.network.kernel_routes.route_notices import RouteNotices
from qmesh.host.network.kernel_routes.tables import read_routing_tables
from qmesh.host.network.kernel_routes.tunnel import (
    add_tunnel_route,
    list_tunnel_routes,
    remove_tunnel_route,
    wait_for_local_routes,
)
from qmesh.mesh.routes.lookup import RouteLookup, SentPacket
from qmesh.mesh.state import TunnelRoute
from tests.support.network import ip, veth

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.usefixtures("own_machine")]

OWN = (TunnelRoute("10.77.0.0/20", "10.77.0.2"), TunnelRoute("10.77.0.2/32", "10.77.0.2", is_local=True))


OWN_6 = (TunnelRoute("fd77::/64", "fd77::2"), TunnelRoute("fd77::2/128", "fd77::2", is_local=True))
ADD_LOCAL = ("-6", "route", "add", "local", "fd77::2", "dev", "qmesh0", "table", "local")


def tunnel() -> links.Link:
    found = links.read("qmesh0")
    assert found is not None
    return found


def test_routes_of_the_interface_are_told_as_they_are():
    veth("qmesh0", "10.77.0.2/20", up=False)
    assert list_tunnel_routes(tunnel()) == ()
    ip("link", "set", "qmesh0", "up")
    assert list_tunnel_routes(tunnel()) == OWN

    for words in (
        ["blackhole", "10.77.0.7"],  # not the interface's
        ["10.77.0.0/20", "dev", "qmesh0", "metric", "9"],  # the same once more
        ["10.77.0.9", "dev", "qmesh0", "table", "52"],
        ["224.0.0.0/4", "dev", "qmesh0"],
    ):
        ip("route", "add", *words)
    assert list_tunnel_routes(tunnel()) == OWN

    ip("address", "add", "192.0.2.9/32", "dev", "lo")
    for words in (
        ["10.77.0.5", "via", "10.77.0.9", "src", "192.0.2.9"],
        ["10.88.0.0/16", "nexthop", "via", "10.77.0.9", "nexthop", "via", "10.77.0.8"],
    ):
        ip("route", "add", *words)
    others = (
        TunnelRoute("10.77.0.5/32", "192.0.2.9", gateway="10.77.0.9"),
        TunnelRoute("10.88.0.0/16", "10.77.0.2", gateway="10.77.0.9"),
    )
    assert list_tunnel_routes(tunnel()) == tuple(sorted((*OWN, *others)))

    for route in others:
        remove_tunnel_route(tunnel(), route)
        remove_tunnel_route(tunnel(), route)  # one that is not there is fine
    assert list_tunnel_routes(tunnel()) == OWN
    add_tunnel_route("qmesh0", OWN[0])
    assert list_tunnel_routes(tunnel()) == OWN


def test_a_route_by_a_router_of_ipv6_is_removed():
    veth("qmesh0", "10.77.0.2/20", "fd77::2/64")
    ip("route", "add", "10.77.0.5", "via", "inet6", "fd77::9", "dev", "qmesh0")
    (odd,) = set(list_tunnel_routes(tunnel())) - {
        *OWN,
        TunnelRoute("fd77::/64", "fd77::2"),
        TunnelRoute("fd77::2/128", "fd77::2", is_local=True),
    }
    assert odd == TunnelRoute("10.77.0.5/32", "10.77.0.2", gateway="fd77::9")
    remove_tunnel_route(tunnel(), odd)
    assert odd not in list_tunnel_routes(tunnel())


def test_what_the_kernel_makes_later_is_there_once_it_was_waited_for():
    """Without the wait, every second look finds no local route, on a busy machine nearly every one."""
    veth("qmesh0", up=False)
    for _ in range(20):
        links.add_address("qmesh0", "fd77::2/64")
        wait_for_local_routes("qmesh0")  # of one that is down there is nothing to wait for
        links.set_link_state("qmesh0", up=True)
        wait_for_local_routes("qmesh0")
        assert list_tunnel_routes(tunnel()) == OWN_6
        links.set_link_state("qmesh0", up=False)
        assert tunnel().addresses == ()


def test_a_route_that_comes_late_ends_the_wait_and_another_one_does_not(monkeypatch):
    veth("qmesh0", "fd77::2/64")
    wait_for_local_routes("qmesh0")
    ip("-6", "route", "delete", "local", "fd77::2", "dev", "qmesh0", "table", "local")
    late = [("-6", "route", "add", "2001:db8::/32", "dev", "qmesh0"), ADD_LOCAL]
    wait = RouteNotices.wait

    def wait_for_one(notices: RouteNotices, seconds: float) -> bool:
        ip(*late.pop(0))
        return wait(notices, seconds)

    monkeypatch.setattr(RouteNotices, "wait", wait_for_one)
    wait_for_local_routes("qmesh0")
    assert late == []
    assert list_tunnel_routes(tunnel()) == tuple(sorted((TunnelRoute("2001:db8::/32", "fd77::2"), *OWN_6)))


def test_a_route_that_never_comes_is_waited_for_no_longer_than_it_may(monkeypatch):
    veth("qmesh0", "fd77::2/64")
    wait_for_local_routes("qmesh0")
    ip("-6", "route", "delete", "local", "fd77::2", "dev", "qmesh0", "table", "local")
    monkeypatch.setattr(tunnel_routes, "KERNEL_PATIENCE_S", 0.0)
    wait_for_local_routes("qmesh0")
    assert list_tunnel_routes(tunnel()) == OWN_6[:1]


def test_of_ipv4_and_of_no_interface_nothing_is_waited_for(monkeypatch):
    veth("qmesh0", "10.77.0.2/20")
    monkeypatch.setattr(tunnel_routes, "RouteNotices", None)
    wait_for_local_routes("qmesh0")
    wait_for_local_routes("no-such")


def test_an_interface_is_taken_out_of_another_one():
    veth("qmesh0", "10.77.0.2/20")
    assert tunnel().master is None
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "qmesh0", "master", "br0")
    assert tunnel().master == "br0"
    links.release_from_master("qmesh0")
    assert tunnel().master is None


RULES = (
    "from all lookup {table}",
    "to 10.77.0.0/20 lookup {table}",
    "to 10.77.0.4/30 lookup {table}",
    "to 10.77.0.9/28 lookup {table}",
    "not from all fwmark 0xca6c lookup {table}",
    "fwmark 0x1 lookup {table}",
    "from all lookup main suppress_prefixlength 0",
    "from all lookup {table} suppress_prefixlength 24",
    "from 10.77.0.2 lookup {table}",
    "not to 10.77.0.0/24 lookup {table}",
    "uidrange 0-0 lookup {table}",
    "uidrange 1000-2000 lookup {table}",
    "iif lo lookup {table}",
    "iif eth0 lookup {table}",
    "oif eth0 lookup {table}",
    "ipproto tcp dport 40000-41000 lookup {table}",
    "ipproto udp lookup {table}",
    "to 10.77.0.8/29 unreachable",
    "to 10.77.0.16/29 prohibit",
    "to 10.77.0.24/29 blackhole",
    "from all goto 5000",
    "to 10.77.0.6 nop",
)
ROUTES = (
    "10.77.0.0/16 dev eth0",
    "10.77.0.5/32 dev eth0",
    "10.77.0.0/28 via 192.168.7.1",
    "default via 192.168.7.1",
    "0.0.0.0/1 dev eth0",
    "blackhole 10.77.0.6",
    "unreachable 10.77.0.8/30",
    "prohibit 10.77.0.12",
    "throw 10.77.0.16/28",
    "throw default",
    "10.77.0.0/20 dev eth0 metric 7",
    "blackhole default metric 4000",
)


@pytest.mark.emulated
def test_a_tunnel_in_a_vrf_has_no_routes_until_it_is_taken_out():
    made = subprocess.run(["ip", "link", "add", "blue", "type", "vrf", "table", "10"], check=False)
    if made.returncode:
        pytest.skip("this machine cannot: its kernel has no VRFs")
    veth("qmesh0", "10.77.0.2/20")
    ip("link", "set", "blue", "up")
    ip("link", "set", "qmesh0", "master", "blue")
    assert (tunnel().master, list_tunnel_routes(tunnel())) == ("blue", ())
    links.release_from_master("qmesh0")
    assert (tunnel().master, list_tunnel_routes(tunnel())) == (None, OWN)


LENGTHS = {"16": "48", "20": "64", "24": "120", "28": "124", "29": "125", "30": "126", "32": "128"}


def as_ipv6(text: str) -> str:
    """The same of networks of IPv6 that lie in one another alike."""
    text = (
        text.replace("192.168.7.", "2001:db8:7::").replace("10.77.0.", "fd77::").replace("0.0.0.0/1", "::/1")
    )
    text = re.sub(r"(fd77::\d+)/(\d+)", lambda found: f"{found[1]}/{LENGTHS[found[2]]}", text)
    return re.sub(r"prefixlength 24", "prefixlength 120", text)


def as_it_is(text: str) -> str:
    return text


@pytest.mark.parametrize(("option", "write"), [("-4", as_it_is), ("-6", as_ipv6)])
def test_our_walk_through_rules_and_tables_is_the_kernels(option, write):
    """By random rules and routes, for packets of several kinds; the kernel's word is the right one."""
    veth("qmesh0", write("10.77.0.2/20"))
    veth("eth0", "192.168.7.5/24", "2001:db8:7::5/64")
    drawn = Random(18)  # noqa: S311 - to be the same again
    kinds: Counter[str | None] = Counter()
    for _ in range(40):
        at = drawn.choice((1, 32766))
        lines = ["rule flush", "rule add lookup local priority 0", f"rule add lookup main priority {at}"]
        lines += [f"route flush table {table}" for table in (52, 100)]
        lines += ["rule add lookup 100 priority 5000"]
        for rule in drawn.sample(RULES, 4):
            table = drawn.choice((52, 100, 7777))
            lines.append(f"rule add {rule.format(table=table)} priority {drawn.randrange(2, 9000)}")
        lines += ["route flush table main proto static", "route flush table main proto boot"]
        for route in drawn.sample(ROUTES, 6):
            lines.append(f"route add {route} table {drawn.choice((52, 52, 100, 254))}")
        subprocess.run(
            ["ip", option, "-force", "-batch", "-"],
            input=write("\n".join(lines)),
            text=True,
            check=False,
            stderr=subprocess.DEVNULL,
        )
        tables = read_routing_tables(write("10.77.0.0/20"), except_interface="qmesh0")
        assert tables is not None
        lookup = RouteLookup(tables.rules, tables.routes)
        packets = [
            SentPacket(write(f"10.77.0.{last}"), source and write(source), user, port)
            for last in (3, 5, 6, 9, 12, 17, 25)
            for source, user, port in ((None, 0, None), ("10.77.0.2", 0, 40000), (None, 1500, 22))
        ]
        for packet, answer in zip(packets, ask_kernel(packets), strict=True):
            verdict = lookup.find_verdict(packet)
            ours = verdict.route.interface if verdict.route is not None and verdict.is_sent else None
            kinds[answer.error or answer.interface] += 1
            assert ours == answer.interface, (
                packet,
                answer,
                verdict,
                ip(option, "rule"),
                ip(option, "route", "show", "table", "all"),
            )
    assert set(kinds) >= {"qmesh0", "eth0", "no route to host", "invalid argument", "permission denied"}


@pytest.mark.parametrize(("option", "write"), [("-4", as_it_is), ("-6", as_ipv6)])
@pytest.mark.parametrize(
    ("rule", "chosen", "another"),
    [
        ("to 10.77.0.3", SentPacket("10.77.0.3"), SentPacket("10.77.0.4")),
        ("from 10.77.0.2", SentPacket("10.77.0.3", "10.77.0.2"), SentPacket("10.77.0.3")),
        ("uidrange 1500-1500", SentPacket("10.77.0.3", user=1500), SentPacket("10.77.0.3", user=1501)),
        ("ipproto tcp", SentPacket("10.77.0.3", port=40000), SentPacket("10.77.0.3")),
        ("dport 40000", SentPacket("10.77.0.3", port=40000), SentPacket("10.77.0.3", port=40001)),
    ],
)
def test_a_rule_chooses_by_each_thing_that_a_question_names(option, write, rule, chosen, another):
    veth("qmesh0", write("10.77.0.2/20"))
    ip(option, "rule", "add", *write(rule).split(), "priority", "9", "unreachable")
    asked = (
        SentPacket(write(each.destination), each.source and write(each.source), each.user, each.port)
        for each in (chosen, another)
    )
    assert [each.error for each in ask_kernel(tuple(asked))] == ["network is unreachable", None]


def test_packets_of_ipv6_are_asked_for_as_those_of_ipv4():
    veth("qmesh0", "10.77.0.2/20", "fd77::2/64")
    packets = [
        *(SentPacket("fd77::3", source, 0, port) for source in (None, "fd77::2") for port in (None, 40000)),
        SentPacket("10.77.0.3", "10.77.0.2", 0, 40000),
    ]
    answers = ask_kernel(packets)
    assert [(each.error, each.interface, each.table) for each in answers] == [(None, "qmesh0", 254)] * 5
    assert ask_kernel([SentPacket("fd77::2", None, 0, None)])[0].is_local
