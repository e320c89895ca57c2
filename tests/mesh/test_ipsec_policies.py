"""Which packets of the mesh IPsec policies take, what is printed for them; programs that can't be read."""

from __future__ import annotations

import functools

import pytest
from msgspec.structs import replace

from qmesh.mesh.foreign.other_hooks.ipsec_policies import IpsecPolicy, find_ipsec_obstacles
from qmesh.mesh.foreign.other_hooks.packet_programs import (
    PacketProgram,
    build_loopback_obstacle,
    build_mark_suspect,
    list_program_suspects,
)
from qmesh.mesh.foreign.packets import Packet, UnderlayRoute, list_required_packets
from tests.support import factories

NETWORK = "10.77.0.0/20"
WAY = UnderlayRoute("eth0", "192.0.2.2", "192.0.2.1", 51820)
policy = functools.partial(
    IpsecPolicy, direction="out", source="0.0.0.0/0", target="10.0.0.0/8", priority=100, transforms=True
)
TAKES = "ip xfrm policy add src 10.77.0.0/20 dst 10.77.0.0/20 dir out priority 99 action allow"


def packets() -> tuple[Packet, ...]:
    guard = factories.guard(kind="tun", ports=(40003,))
    tunnel = factories.tunnel(kind="tun", public_key=None, addresses=("10.77.0.2/20",))
    return tuple(list_required_packets(guard, tunnel, (), (WAY,)))


def cures(*policies: IpsecPolicy) -> list[str]:
    return [each.cure for each in find_ipsec_obstacles(policies, packets(), NETWORK)]


def test_a_policy_is_held_against_neighbour_discovery_too() -> None:
    """Without which no packet of IPv6 leaves the machine."""
    way = UnderlayRoute("eth0", "2001:db8::2", "2001:db8::1", 51820, "2001:db8::1")
    tunnel = factories.tunnel(kind="tun", public_key=None, addresses=("10.77.0.2/20",))
    needed = tuple(list_required_packets(factories.guard(kind="tun", ports=(40003,)), tunnel, (), (way,)))
    blocks = policy(source="::/0", target="ff00::/8", protocol=58, discards=True, transforms=False)
    (found,) = find_ipsec_obstacles([blocks], needed, NETWORK)
    assert "ICMPv6 type 135" in found.wanted
    udp_alone = policy(source="::/0", target="ff00::/8", protocol=17, discards=True, transforms=False)
    assert find_ipsec_obstacles([udp_alone], needed, NETWORK) == ()


def test_a_policy_of_ipsec_takes_what_the_tunnel_should_carry() -> None:
    (found,) = find_ipsec_obstacles([policy()], packets(), NETWORK)
    assert found.place == "IPsec policy out"
    assert found.seen == (
        "src 0.0.0.0/0 dst 10.0.0.0/8 priority 100 takes them for another tunnel, that of IPsec"
    )
    assert found.wanted == "the mesh's packets go out via qmesh0: TCP port 40003, 51821, UDP port 40003"
    assert (found.cure, found.is_certain) == (TAKES, True)


@pytest.mark.parametrize(
    "harmless",
    [
        policy(transforms=False),
        policy(target="10.99.0.0/16"),
        policy(source="10.77.0.9/32"),
        policy(target="2001:db8::/32", source="::/0"),
        policy(protocol=50),
        policy(interface="eth0"),
        policy(source_port=(22, 0xFFFF)),
        policy(target_port=(22, 0xFFFF)),
        policy(target="192.0.2.1/32"),  # WireGuard's own packets may well go through IPsec
    ],
)
def test_what_others_have_of_ipsec_is_no_obstacle(harmless: IpsecPolicy) -> None:
    assert cures(harmless) == []


def test_the_policy_that_is_printed_ends_it() -> None:
    passes = policy(source=NETWORK, target=NETWORK, priority=99, transforms=False)
    assert cures(policy(), passes) == []
    assert cures(passes, replace(passes, priority=100), policy()) == []
    assert cures(policy(), replace(passes, priority=100)) == [TAKES]  # of equals the first counts


def test_what_is_dropped_is_named_in_either_direction_and_for_wireguard_too() -> None:
    drops = policy(direction="in", source="10.0.0.0/8", discards=True, transforms=False)
    assert cures(drops) == [TAKES.replace("dir out", "dir in")]
    outer = policy(target="192.0.2.0/24", discards=True, protocol=17, target_port=(51820, 0xFFFF))
    assert cures(outer) == ["ip xfrm policy add src 192.0.2.2 dst 192.0.2.1 dir out priority 99 action allow"]


def test_before_the_first_priority_there_is_none() -> None:
    assert cures(policy(priority=0)) == ["ip xfrm policy delete src 0.0.0.0/0 dst 10.0.0.0/8 dir out"]


def test_a_control_nodes_packets_to_itself_meet_no_policy() -> None:
    guard = factories.guard(kind="tun", ports=(40001,), role="control")
    tunnel = factories.tunnel(kind="tun", public_key=None, addresses=("10.77.0.1/20",))
    own = list_required_packets(guard, tunnel, (), ())
    assert find_ipsec_obstacles([policy(discards=True)], own, NETWORK) == ()


def test_a_program_that_cannot_be_read_is_a_suspect_with_the_commands_that_show_and_remove_it() -> None:
    xdp, ingress, queue = list_program_suspects(
        [
            PacketProgram("eth0", "xdp"),
            PacketProgram("qmesh0", "ingress", ("bpf", "u32")),
            PacketProgram("eth0", "queue", ("netem",)),
        ]
    )
    assert not any(each.is_certain for each in (xdp, ingress, queue))
    assert (xdp.place, ingress.place) == ("XDP program, eth0", "tc filter, qmesh0 ingress")
    assert "`ip link set dev eth0 xdp off`" in xdp.cure
    assert "bpf, u32" in ingress.seen
    assert "`tc -s filter show dev qmesh0 ingress`" in ingress.cure
    assert "`tc qdisc delete dev eth0 root`" in queue.cure
    (waits,) = list_program_suspects([PacketProgram("7", "packet queue", ("4711",))])
    assert (waits.place, waits.is_certain) == ("packet queue 7", False)
    assert "process 4711 decides" in waits.seen
    assert "`ps -p 4711`" in waits.cure
    (table,) = list_program_suspects([PacketProgram("arp mine", "table", ("in", "out"))])
    assert (table.place, table.is_certain) == ("table arp mine", False)
    assert "chain in, out" in table.seen
    assert "`nft list table arp mine`" in table.cure
    marked = build_mark_suspect("wg7", 0xCA6C)
    assert (marked.place, marked.is_certain) == ("mark of wg7", False)
    assert "0xca6c" in marked.seen
    assert "`wg set wg7 fwmark 0`" in marked.cure


def test_what_attached_a_program_of_ebpf_has_to_take_it_away() -> None:
    tcx, group, lookup = list_program_suspects(
        [
            PacketProgram("eth0", "tcx", ("ingress: mine (id 7)",)),
            PacketProgram(
                "/sys/fs/cgroup/a b.slice", "control group", ("connect4: x (id 8)", "egress: y (id 9)")
            ),
            PacketProgram("all", "lookup", ("sk_lookup: z (id 3)",)),
        ]
    )
    assert [each.place for each in (tcx, group, lookup)] == [
        "tcx, eth0",
        "control group /sys/fs/cgroup/a b.slice",
        "lookup of sockets",
    ]
    assert "`bpftool net show dev eth0`" in tcx.cure
    assert "`bpftool cgroup show '/sys/fs/cgroup/a b.slice' effective`" in group.cure
    assert "connect4: x (id 8), egress: y (id 9)" in group.seen
    assert "`bpftool link show`" in lookup.cure
    assert not any(each.is_certain for each in (tcx, group, lookup))


def test_a_loopback_interface_that_is_down_is_no_suspect_but_certain() -> None:
    down = build_loopback_obstacle()
    assert (down.place, down.cure, down.is_certain) == ("interface lo", "ip link set lo up", True)
