"""Paths over a real router, which tells of its narrow link or swallows what does not fit."""

from __future__ import annotations

import select
import socket
import subprocess
import sys

import pytest

from qmesh.host.network import path_mtu
from qmesh.host.network.path_mtu import find_path_mtus, measure_echo_time
from qmesh.mesh.values import Endpoint
from tests.support.waiting import patience, wait_until, within

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
    assert measure_echo_time(FAR6.host, 100, wait_s=5) is not None


def be_silent() -> None:
    """Have the router keep to itself that something does not fit."""
    subprocess.run(["ip", "netns", "exec", "router", "nft", SILENT], check=True)


def test_a_router_tells_how_much_its_next_link_carries():
    make_network(mtu=1400)
    await_ipv6()
    assert find_path_mtus([FAR, FAR6], probe=False) == {FAR: 1500, FAR6: 1500}
    assert find_path_mtus([FAR, FAR6], probe=True) == {FAR: 1400, FAR6: 1400}
    assert find_path_mtus([FAR, FAR6], probe=False) == {FAR: 1400, FAR6: 1400}


FORGED = """
import socket, struct, sys
def checksum(octets):
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16: total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
here, there, mtu, port = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
ends = socket.inet_aton(here) + socket.inet_aton(there)
def packet(protocol): return struct.pack("!BBHHHBBH", 0x45, 0, 1500, 7, 0x4000, 64, protocol, 0) + ends
reply = packet(1) + struct.pack("!BBHHH", 0, 0, 0, 1, 1)
udp = packet(17) + struct.pack("!HHHH", port, 51820, 1480, 0)
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for quoted in (reply, udp + bytes(64)):
    head = struct.pack("!BBHHH", 3, 4, 0, 0, mtu)
    out.sendto(head[:2] + struct.pack("!H", checksum(head + quoted)) + head[4:] + quoted, (here, 0))
"""


def forge(mtu: int, port: int = 51820) -> None:
    """Have somebody on the way's edge, who sees nothing of it, say that this was too large for a link."""
    words = [sys.executable, "-c", FORGED, "10.1.0.2", FAR.host, str(mtu), str(port)]
    subprocess.run(["ip", "netns", "exec", "router", *words], check=True)


def learnt() -> str:
    """What the kernel makes of the way."""
    return subprocess.run(["ip", "route", "get", FAR.host], check=True, capture_output=True, text=True).stdout


def make_anew(monkeypatch) -> None:
    """Have a minute pass, and what was said before be old."""
    monkeypatch.setattr(path_mtu, "PROBE_S", 0.0)
    monkeypatch.setattr(path_mtu, "_told", {})


@pytest.mark.parametrize("probe", [True, False])
def test_one_forged_icmp_lowers_no_mtu(probe):
    make_network(mtu=1500)
    assert find_path_mtus([FAR], probe=probe) == {FAR: 1500}
    forge(1300)
    wait_until(lambda: "mtu 1300" in learnt())  # the kernel believes it
    assert find_path_mtus([FAR], probe=probe) == {FAR: 1500}
    assert find_path_mtus([FAR], probe=False) == {FAR: 1500}


def test_a_forged_icmp_neither_lowers_what_a_router_said_nor_keeps_it(monkeypatch):
    make_network(mtu=1400)
    assert find_path_mtus([FAR], probe=True) == {FAR: 1400}
    forge(1300)
    wait_until(lambda: "mtu 1300" in learnt())
    assert find_path_mtus([FAR], probe=True) == {FAR: 1400}
    for name, device in (("router", "far"), ("far", "far")):
        subprocess.run(["ip", "-n", name, "link", "set", device, "mtu", "1500"], check=True)
    make_anew(monkeypatch)
    forge(1290)
    wait_until(lambda: "mtu 1290" in learnt())
    assert find_path_mtus([FAR], probe=True) == {FAR: 1500}
    subprocess.run(["ip", "-n", "router", "link", "set", "far", "mtu", "1380"], check=True)
    assert find_path_mtus([FAR], probe=False) == {FAR: 1380}  # and a reason to look is one, whoever gave it


def test_forged_icmps_that_come_while_a_router_is_asked_are_not_taken_for_its_word():
    make_network(mtu=1400)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as path:
        path.setsockopt(socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
        path.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        path.connect((FAR.host, FAR.port))
        forge(1290, path.getsockname()[1])  # even by who knows the port
        wait_until(lambda: "mtu 1290" in learnt())
        poll = select.poll()
        poll.register(path, 0)
        assert poll.poll(5000)
        assert path_mtu.probe_mtu(path, 1500) == 1400
        forge(1290, path.getsockname()[1])
        assert poll.poll(5000)
        assert path_mtu.probe_mtu(path, 1400) is None


def test_what_a_router_said_is_known_to_all_commands_for_a_while(tmp_path, monkeypatch):
    make_network(mtu=1400)
    assert find_path_mtus([FAR], probe=True, directory=tmp_path) == {FAR: 1400}
    be_silent()
    monkeypatch.setattr(path_mtu, "_told", {})  # as another process
    make_anew(monkeypatch)
    assert find_path_mtus([FAR], probe=True, directory=tmp_path) == {FAR: 1400}
    for damaged in ("", "{", '{"boot": "x", "told": {"10.2.0.2:51820": [1300, 1e9]}}', '{"told": 3}'):
        (tmp_path / "paths.json").write_text(damaged)
        monkeypatch.setattr(path_mtu, "_told", {})
        assert find_path_mtus([FAR], probe=True, directory=tmp_path) == {FAR: 1500}


def test_what_an_administrator_said_of_a_route_counts():
    make_network(mtu=1500)
    subprocess.run(["ip", "route", "replace", "default", "via", "10.1.0.1", "mtu", "1350"], check=True)
    assert find_path_mtus([FAR], probe=True) == {FAR: 1350}


def test_a_neighbour_is_not_probed_and_another_is_once_a_minute():
    make_network(mtu=1500)
    assert find_path_mtus([FAR], probe=True) == {FAR: 1500}
    neighbour = Endpoint("10.1.0.1", 51820)
    with within(0.25):
        assert find_path_mtus([FAR, neighbour, Endpoint("name.example", 1)], probe=True) == {
            FAR: 1500,
            neighbour: 1500,
        }
    assert measure_echo_time("10.2.0.99", 100, wait_s=0.2) is None
    assert measure_echo_time("10.2.0.2", 2000, wait_s=0.2) is None
    assert measure_echo_time("127.0.0.1", 100, wait_s=patience(1)) is not None
    subprocess.run(["ip", "route", "del", "default"], check=True)
    assert find_path_mtus([FAR], probe=True) == {}
