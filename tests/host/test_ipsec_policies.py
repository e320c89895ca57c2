"""IPsec policies, and filters of interfaces, as ip(8) and tc(8) set them in a namespace."""

from __future__ import annotations

import subprocess

import pytest

from qmesh.host.firewall.ipsec_policies import read_ipsec_policies
from qmesh.host.firewall.packet_programs import find_packet_programs
from qmesh.mesh.foreign.other_hooks.ipsec_policies import IpsecPolicy
from qmesh.mesh.foreign.other_hooks.packet_programs import PacketProgram

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]


def run(line: str) -> None:
    subprocess.run(line.split(), check=True, capture_output=True)


def test_policies_are_read_as_they_were_set():
    assert read_ipsec_policies() == ()
    run("ip link add eth0 type veth peer name far")
    run(
        "ip xfrm policy add src 10.77.0.0/20 dst 10.0.0.0/8 proto tcp sport 22 dport 40003 dev eth0 dir out"
        " priority 7 tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel"
    )
    run("ip xfrm policy add src fd77::/64 dst ::/0 dir in action block")
    run("ip xfrm policy add src 10.77.0.0/20 dst 10.0.0.0/8 dir fwd action block")
    run("ip xfrm policy add src 10.77.0.0/20 dst 10.1.0.0/16 dir out mark 7 action block")
    run("ip xfrm policy add src 10.77.0.0/20 dst 10.2.0.0/16 dir out if_id 9 action block")
    assert sorted(read_ipsec_policies(), key=lambda each: each.direction) == [
        IpsecPolicy(direction="in", source="fd77::/64", target="::/0", discards=True),
        IpsecPolicy(
            direction="out", source="10.77.0.0/20", target="10.0.0.0/8", protocol=6,
            source_port=(22, 0xFFFF), target_port=(40003, 0xFFFF), interface="eth0", priority=7,
            transforms=True,
        ),
    ]  # fmt: skip


def test_filters_of_an_interface_are_found():
    run("ip link add eth0 type veth peer name far")
    assert find_packet_programs(["eth0", "eth9"]) == ()
    run("tc qdisc add dev eth0 clsact")
    assert find_packet_programs(["eth0"]) == ()
    add = ["tc", "filter", "add", "dev", "eth0", "egress", "bpf", "classid", "1:1", "bytecode"]
    subprocess.run([*add, "1,6 0 0 4294967295"], check=True)
    assert find_packet_programs(["eth0"]) == (PacketProgram("eth0", "egress", ("bpf",)),)
