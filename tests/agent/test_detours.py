"""What sends packets for members elsewhere, as machines really have it, by real routing and the commands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from qmesh.agent.daemon import detour_log
from qmesh.agent.daemon.detour_log import DetourLog
from qmesh.agent.detours import find_detours, find_overlaps, refuse_collisions
from qmesh.agent.local import Local
from qmesh.errors import BadInput, KernelRefused
from qmesh.host.network import routes
from qmesh.host.network.kernel_routes import tables
from qmesh.host.state.documents import Settings
from qmesh.mesh.routes.detours import Detour, TunnelPlace
from qmesh.mesh.routes.tables import TableRoute
from tests.support import factories
from tests.support.network import ip, veth
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.usefixtures("own_machine")]

MACHINES = tuple(factories.machine("abcdefgh"[number], number + 1) for number in range(8))
NODE_USER = 1500
TABLE_52 = "rule add lookup 52 priority 5270"


@pytest.fixture(autouse=True)
def _no_resolvers(monkeypatch):
    monkeypatch.setattr(routes, "RESOLVER_FILES", (Path("/run/resolv.conf"),))


def here(name: str, *, is_ipv6: bool = False) -> Local:
    mesh = factories.mesh(*MACHINES)
    if is_ipv6:
        machines = tuple(
            msgspec.structs.replace(each, address=f"fd77::{number + 1}")
            for number, each in enumerate(MACHINES)
        )
        mesh = factories.mesh(*machines, network="fd77::/64")
    settings = Settings(
        mesh=mesh.mesh,
        name=name,
        control=name == "a",
        interface="qmesh0",
        listen_port=51820,
        verification_key=bytes(32),
        config_directory="/run/node",
        config_owner=NODE_USER,
    )
    return Local(settings, mesh, {})


def route_batch(text: str, *options: str) -> None:
    """Commands of ip(8), by commas."""
    lines = text.replace(", ", "\n")
    subprocess.run(
        ["ip", *options, "-batch", "-"], input=lines, text=True, check=True, stdout=subprocess.DEVNULL
    )


SITUATIONS = {
    "a VPN's table has a wider network": (
        f"route add 10.64.0.0/10 dev eth0 table 52, {TABLE_52}",
        "rule 5270 (`from all lookup 52`) and the route `10.64.0.0/10 dev eth0`",
        "rule del priority 5270, rule del priority 5269, route flush table 52",
    ),
    "a full VPN that does not look at the main table first": (
        "route add default dev eth0 table 51820, rule add not fwmark 51820 lookup 51820 priority 90",
        "rule 90 (`not from all fwmark 0xca6c lookup 51820`) and the route `default dev eth0`",
        "rule del priority 90, rule del priority 89, route flush table 51820",
    ),
    "a rule for what this machine's tunnel address sends": (
        "route add default via 192.168.7.1 table 200, rule add from 10.77.0.1 lookup 200 priority 1000",
        "rule 1000 (`from 10.77.0.1/32 lookup 200`)",
        "rule del priority 1000, rule del priority 999, route flush table 200",
    ),
    "a rule for the node's user": (
        f"route add default dev eth0 table 7, rule add uidrange {NODE_USER}-{NODE_USER} lookup 7 priority 50",
        "rule 50 (`from all uidrange 1500-1500 lookup 7`)",
        "rule del priority 50, rule del priority 49, route flush table 7",
    ),
    "a rule for the workers' ports": (
        "route add default dev eth0 table 7, rule add ipproto tcp dport 40000-50000 lookup 7 priority 50",
        "rule 50 (`from all dport 40000-50000 ipproto 6 lookup 7`)",
        "rule del priority 50, rule del priority 49, route flush table 7",
    ),
    "a rule that prohibits": (
        "rule add to 10.0.0.0/8 prohibit priority 300",
        "they are not sent: permission denied, by rule 300 (`from all to 10.0.0.0/8 prohibit`)",
        "rule del priority 300, rule del priority 299",
    ),
    "a rule that jumps over the main table": (
        (
            "rule add priority 40000 lookup 7, rule add priority 60 goto 40000,"
            " route add default dev eth0 table 7"
        ),
        "rule 40000 (`from all lookup 7`)",
        "rule del priority 60, rule del priority 59, rule del priority 40000, route flush table 7",
    ),
    "no rule for the main table": (
        "rule del priority 32766",
        "no rule leads to a route for them",
        "rule list",
    ),
    "a main table of whose routes all are suppressed": (
        "rule del priority 32766, rule add lookup main suppress_prefixlength 24 priority 32766",
        "no rule leads to a route for them",
        "rule flush, rule add lookup main priority 32766",
    ),
    "a nearer route of a LAN": (
        "route add 10.77.0.4/30 via 192.168.7.1",
        "by the route `10.77.0.4/30 via 192.168.7.1 dev eth0` of table main",
        "route list",
    ),
    "a host route": (
        "route add 10.77.0.5 dev eth0 metric 30",
        "by the route `10.77.0.5/32 dev eth0 metric 30` of table main",
        "route list",
    ),
    "a black hole": (
        "route add blackhole 10.77.0.0/28",
        "they are not sent: invalid argument, by the route `blackhole 10.77.0.0/28` of table main",
        "route list",
    ),
    "a black hole by a nexthop": (
        "nexthop add id 7 blackhole, route add 10.77.0.5 nhid 7 metric 3",
        "by the route `10.77.0.5/32 nhid 7 metric 3` of table main",
        "nexthop del id 7",
    ),
    "another interface by a nexthop": (
        "nexthop add id 7 dev eth0, route add 10.77.0.5 nhid 7",
        "by the route `10.77.0.5/32 nhid 7` of table main",
        "nexthop del id 7",
    ),
    "an unreachable route": (
        "route add unreachable 10.77.0.7 metric 4",
        "by the route `unreachable 10.77.0.7/32 metric 4` of table main",
        "route list",
    ),
    "a member's address on a container's bridge": (
        "address add 10.77.0.6/32 dev eth0",
        "as if the address were its own, by the route `local 10.77.0.6/32 dev eth0` of table local",
        "route list",
    ),
    "a LAN of a part of the network": (
        "address add 10.77.0.9/28 dev eth0",
        "by the route `10.77.0.0/28 dev eth0` of table main",
        "route list",
    ),
    "all of a network routed to this machine": (
        "route add local 10.77.0.4/30 dev lo table local",
        "by the route `local 10.77.0.4/30 dev lo` of table local",
        "route list",
    ),
}


def test_what_sends_packets_elsewhere_is_named_and_the_command_ends_it():
    veth("qmesh0", "10.77.0.1/20")
    veth("eth0", "192.168.7.5/24")
    control = here("a")
    assert find_detours(control) == ()
    for name, (spoil, reason, undo) in SITUATIONS.items():
        route_batch(spoil)
        found = find_detours(control)
        assert any(reason in each.reason for each in found), (name, found)
        for detour in found:
            subprocess.run(["sh", "-c", detour.cure], check=True)
        assert find_detours(control) == (), name
        route_batch(undo)
        assert find_detours(control) == (), name


def test_a_worker_machine_asks_for_the_control_node_only():
    veth("qmesh0", "10.77.0.3/20")
    veth("eth0", "192.168.7.5/24")
    route_batch("route add 10.77.0.5 dev eth0")
    assert find_detours(here("c")) == ()
    route_batch("route add 10.77.0.1 dev eth0")
    (found,) = find_detours(here("c"))
    assert found == Detour(
        ("a",),
        "10.77.0.1",
        "they leave by eth0, by the route `10.77.0.1/32 dev eth0` of table main",
        "ip route delete 10.77.0.1/32 dev eth0",
        TableRoute(network="10.77.0.1/32", interface="eth0"),
    )


SITUATIONS_6 = {
    "a VPN's table": (
        f"route add fd00::/8 dev eth0 table 52, {TABLE_52}",
        "rule 5270 (`from all lookup 52`) and the route `fd00::/8 dev eth0 metric 1024`",
        "ip -6 rule add to fd77::/64 lookup main priority 5269",
    ),
    "a host route": (
        "route add fd77::5 dev eth0",
        "by the route `fd77::5/128 dev eth0 metric 1024` of table main",
        "ip -6 route delete fd77::5/128 dev eth0 metric 1024",
    ),
    "a black hole": (
        "route add blackhole fd77::4/126",
        "they are not sent: invalid argument, by the route `blackhole fd77::4/126 dev lo metric 1024`",
        "ip -6 route delete blackhole fd77::4/126 dev lo metric 1024",
    ),
    "a member's address": (
        "address add fd77::6/128 dev eth0 nodad",
        "as if the address were its own, by the route `local fd77::6/128 dev eth0` of table local",
        "ip -6 address delete fd77::6/128 dev eth0",
    ),
}


def test_so_it_is_with_a_tunnel_of_ipv6():
    veth("qmesh0", "fd77::1/64")
    veth("eth0", "2001:db8:7::5/64")
    control = here("a", is_ipv6=True)
    route_batch("route add fd00::/8 via 2001:db8:7::1, address add fd77:0:0:1::1/64 dev eth0 nodad", "-6")
    assert find_detours(control) == ()
    assert find_overlaps(control) == ()
    for name, (spoil, reason, cure) in SITUATIONS_6.items():
        route_batch(spoil, "-6")
        # An address is this machine's own a moment after it is there.
        wait_until(lambda: any(reason in each.reason for each in find_detours(control)), 5)  # noqa: B023
        (found,) = find_detours(control)
        assert found.cure == cure
        subprocess.run(["sh", "-c", cure], check=True)
        assert find_detours(control) == (), name


CORRECT = {
    "Tailscale": (
        "route add 100.101.102.103 dev vpn0 table 52, route add 100.100.100.100 dev vpn0 table 52,"
        " route add throw 127.0.0.0/8 table 52, rule add fwmark 0x80000/0xff0000 lookup main priority 5210,"
        " rule add fwmark 0x80000/0xff0000 lookup default priority 5230,"
        f" rule add fwmark 0x80000/0xff0000 unreachable priority 5250, {TABLE_52}"
    ),
    "wg-quick with all traffic": (
        "route add default dev vpn0 table 51820, rule add not fwmark 51820 lookup 51820 priority 32765,"
        " rule add lookup main suppress_prefixlength 0 priority 32764"
    ),
    "a cloud's network, by its router": "route add 10.0.0.0/8 via 192.168.7.1",
    "pods and services of Kubernetes": (
        "route add 10.42.0.0/24 dev vpn0, route add 10.43.0.0/16 dev vpn0, route add blackhole 10.42.1.0/24"
    ),
    "containers": "address add 172.17.0.1/16 dev vpn0, address add 172.18.0.1/16 dev vpn0",
    "a second provider by its address": (
        "address add 192.0.2.9/24 dev vpn0, route add default via 192.0.2.1 table 100,"
        " rule add from 192.0.2.9 lookup 100 priority 1000"
    ),
    "another user's VPN": (
        "route add default dev vpn0 table 99, rule add uidrange 7000-7999 lookup 99 priority 900"
    ),
    "what is forwarded": "rule add iif vpn0 blackhole priority 901, rule add oif vpn0 lookup 99 priority 902",
    "rules in other places": (
        "rule add lookup main priority 20, rule add lookup local priority 10, rule del priority 0"
    ),
    "an end after all": (
        "route add unreachable default metric 4278198272, route add blackhole 10.0.0.0/8 metric 9"
    ),
}


def test_on_a_machine_that_is_correct_nothing_is_found():
    """All of it at once, which no machine has."""
    veth("qmesh0", "10.77.0.1/20")
    veth("eth0", "192.168.7.5/24")
    veth("vpn0", "100.64.9.9/32")
    control = here("a")
    for name, setup in CORRECT.items():
        route_batch(setup)
        assert find_detours(control) == (), name
        assert find_overlaps(control) == (), name
        tunnel = TunnelPlace("qmesh0", "10.77.0.0/20", "10.77.0.1")
        refuse_collisions(tunnel, {"b": "10.77.0.2"}, hint="")


def test_what_else_is_in_the_network_is_told_and_refused_only_where_it_is_in_the_way():
    veth("qmesh0", "10.77.0.1/20")
    veth("eth0", "10.77.12.1/24")
    control, tunnel = here("a"), TunnelPlace("qmesh0", "10.77.0.0/20", "10.77.0.1")
    (found,) = find_overlaps(control)
    assert not found.is_harmful
    assert find_detours(control) == ()
    refuse_collisions(tunnel, {"b": "10.77.0.2"}, hint="or not")

    Path("/run/resolv.conf").write_text("nameserver 10.77.0.3\nnameserver 10.77.0.53\n")
    (found, _) = find_overlaps(control)  # a member may serve names
    assert (found.is_harmful, "10.77.0.53" in found.reason) == (True, True)
    with pytest.raises(BadInput, match=r"DNS server 10\.77\.0\.53") as refused:
        refuse_collisions(tunnel, {"c": "10.77.0.3"}, hint="or not")
    assert refused.value.hint.endswith("; or not")

    Path("/run/resolv.conf").unlink()
    ip("address", "add", "10.77.1.1/20", "dev", "eth0")
    assert find_detours(control) == ()  # the tunnel's is the first, while it is up
    assert [each.is_harmful for each in find_overlaps(control)] == [True, False]
    with pytest.raises(BadInput, match=r"by the route `10\.77\.0\.0/20 dev eth0` of table main") as refused:
        refuse_collisions(tunnel, {"b": "10.77.0.2"}, hint="or not")
    assert refused.value.hint == "run `ip address delete 10.77.1.1/20 dev eth0`; or not"


def test_among_more_routes_than_are_looked_through_the_kernels_word_is_told(monkeypatch):
    monkeypatch.setattr(tables, "MOST_ROUTES", 20)
    veth("qmesh0", "10.77.0.3/20")
    veth("eth0", "192.168.7.5/24")
    route_batch(", ".join(f"route add 192.0.2.{last} dev eth0" for last in range(1, 30)))
    member = here("c")
    assert find_detours(member) == ()
    assert find_overlaps(member) == ()
    route_batch("route add 10.77.0.1 dev eth0")
    (found,) = find_detours(member)
    assert found.reason == "the kernel says: they leave by eth0"
    assert "ip route get 10.77.0.1" in found.cure
    assert find_overlaps(member) == ()
    refuse_collisions(TunnelPlace("qmesh0", "10.77.0.0/20", "10.77.0.3"), {"a": "10.77.0.1"}, hint="")
    assert "10.77.0.0/20" not in {each.network for each in routes.list_occupied_networks("qmesh0")}


def test_the_agent_says_what_is_news_and_when_it_has_ended(caplog):
    caplog.set_level("INFO", "qmesh")
    veth("qmesh0", "10.77.0.1/20")
    veth("eth0", "192.168.7.5/24")
    asked: list[int] = []

    def wait_none(machines: int) -> float:
        asked.append(machines)
        return 0.0

    control, watch = here("a"), DetourLog(wait_none)
    watch.ask_kernel(control)
    assert (asked, caplog.messages) == ([8], [])

    route_batch("route add 10.77.0.4/30 dev eth0")
    for _ in range(2):
        watch.ask_kernel(control)
    (said,) = caplog.messages
    assert said == (
        "packets for d, e, f and 1 more (10.77.0.4) do not go into the tunnel: they leave by eth0,"
        " by the route `10.77.0.4/30 dev eth0` of table main; to fix it: "
        "ip route delete 10.77.0.4/30 dev eth0"
    )
    route_batch("route del 10.77.0.4/30")
    watch.ask_kernel(control)
    assert caplog.messages[1:] == ["packets for all members go into the tunnel again"]

    down = msgspec.structs.replace(control, settings=msgspec.structs.replace(control.settings, up=False))
    watch.ask_kernel(down)
    assert len(asked) == 4
    seldom = DetourLog(lambda machines: wait_none(machines) + 3600.0)
    for _ in range(2):
        seldom.ask_kernel(control)
    assert len(asked) == 5
    watch.close()
    seldom.close()


CHANGES = {
    "a route": "route add 192.0.2.0/24 dev eth0",
    "a rule": "rule add to 192.0.2.0/24 lookup main",
    "an address": "address add 192.168.7.6/24 dev eth0",
    "a link that goes, and its routes with it": "link set eth0 down",
    "a next hop": "nexthop add id 7 dev eth0",
    "a route of IPv6": "-6 route add 2001:db8::/64 dev eth0",
    "a rule of IPv6": "-6 rule add to 2001:db8::/64 lookup main",
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_kernel_is_asked_where_something_has_changed(change, monkeypatch):
    veth("qmesh0", "10.77.0.1/20")
    veth("eth0", "192.168.7.5/24")
    asked: list[str] = []

    def note(local: Local) -> tuple[Detour, ...]:
        asked.append(local.settings.name)
        return ()

    monkeypatch.setattr(detour_log, "find_detours", note)
    control, watch = here("a"), DetourLog(lambda _: 0.0)

    for _ in range(3):
        watch.ask_kernel(control)
    assert len(asked) == 1
    ip(*CHANGES[change].split())
    for _ in range(3):
        watch.ask_kernel(control)
    assert len(asked) == 2
    watch.close()


def test_it_is_asked_for_other_machines_after_a_refusal_and_now_and_then(monkeypatch):
    veth("qmesh0", "10.77.0.1/20")
    asked: list[int] = []

    def refuse_first(local: Local) -> tuple[Detour, ...]:
        asked.append(len(local.inventory.machines))
        if len(asked) == 1:
            raise KernelRefused("no", hint="")
        return ()

    monkeypatch.setattr(detour_log, "find_detours", refuse_first)
    control, watch = here("a"), DetourLog(lambda _: 0.0)
    for _ in range(3):
        watch.ask_kernel(control)
    assert len(asked) == 2  # again after the refusal
    fewer = msgspec.structs.replace(control.inventory, machines=control.inventory.machines[:-1])
    for _ in range(detour_log.ANYWAY + 2):
        watch.ask_kernel(msgspec.structs.replace(control, inventory=fewer))
    assert asked[2:] == [len(fewer.machines)] * 2
    watch.close()


def test_what_comes_for_this_machine_has_to_stay_here():
    """The local table may be asked later than first, but not after one that leads elsewhere."""
    veth("qmesh0", "10.77.0.1/20")
    control = here("a")
    route_batch("rule add lookup local priority 100, rule delete priority 0")
    assert find_detours(control) == ()
    route_batch("rule add lookup local priority 32800, rule delete priority 100")
    (found,) = find_detours(control)
    assert (found.machines, found.address) == (("a",), "10.77.0.1")
    assert found.reason.endswith("rule 32766 (`from all lookup main`) comes before it")
    subprocess.run(["sh", "-c", found.cure], check=True)
    assert find_detours(control) == ()
