"""Routes of interfaces, and the kernel's answers, by real routing in namespaces."""

from __future__ import annotations

import pytest

from qmesh.host.network import links
from qmesh.host.network.kernel_routes.tunnel import add_tunnel_route, list_tunnel_routes, remove_tunnel_route
from qmesh.mesh.state import TunnelRoute
from tests.support.network import ip, veth

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.usefixtures("own_machine")]

OWN = (TunnelRoute("10.77.0.0/20", "10.77.0.2"), TunnelRoute("10.77.0.2/32", "10.77.0.2", is_local=True))


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


def test_an_interface_is_taken_out_of_another_one():
    veth("qmesh0", "10.77.0.2/20")
    assert tunnel().master is None
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "qmesh0", "master", "br0")
    assert tunnel().master == "br0"
    links.release_from_master("qmesh0")
    assert tunnel().master is None
