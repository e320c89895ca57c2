"""Which packets pass, over a real router that swallows large ones, limits echoes, or answers nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from qmesh.host.api.packet_probe import (
    CONNECT_S,
    LostPackets,
    ServiceUnreachable,
    find_lost_packets,
    measure_exchange,
)
from tests.support.api import PORT
from tests.support.checkout import CHECKOUT
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

NEAR, FAR = "10.1.0.2", "10.2.0.2"
NEAR6, FAR6 = "fd01::2", "fd02::2"
NETWORK = """
    set -e
    for name in router far; do ip netns add $name; ip -n $name link set lo up; done
    ip link add near type veth peer name near netns router
    ip -n router link add far type veth peer name far netns far
    ip addr add 10.1.0.2/24 dev near; ip addr add fd01::2/64 dev near nodad
    ip -n far addr add 10.2.0.2/24 dev far; ip -n far addr add fd02::2/64 dev far nodad
    ip link set near up; ip -n far link set far up
    for at in 'near 10.1.0.1/24 fd01::1/64' 'far 10.2.0.1/24 fd02::1/64'; do
        set -- $at
        ip -n router addr add $2 dev $1; ip -n router addr add $3 dev $1 nodad; ip -n router link set $1 up
    done
    ip netns exec router sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    ip route add default via 10.1.0.1; ip route add default via fd01::1
    ip -n far route add default via 10.2.0.1; ip -n far route add default via fd02::1
"""
SERVER = """
import sys
from qmesh.host.api.server import Service
from tests.support.api import PORT, Agent, told_by
services = [Service(Agent(), address=at, port=PORT, interface="far", told=told_by()) for at in sys.argv[1:]]
for each in services:
    each.start()
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def far_service() -> Iterator[None]:
    """Beyond a router, a membership service at both addresses of another machine."""
    subprocess.run(["sh", "-c", NETWORK], check=True)
    words = ["ip", "netns", "exec", "far", sys.executable, "-c", SERVER, FAR, FAR6]
    with subprocess.Popen(
        words, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


def have_router(*rules: str) -> None:
    """Have the router forward by these rules, and by no others. It tells nobody of what it drops."""
    lines = "".join(f"add rule inet way forward {rule}\n" for rule in rules)
    text = f"""
        table inet way
        delete table inet way
        table inet way {{
            chain out {{
                type filter hook output priority 0
                icmp type destination-unreachable drop
                icmpv6 type packet-too-big drop
            }}
            chain forward {{ type filter hook forward priority 0; }}
        }}
        {lines}
    """
    subprocess.run(["ip", "netns", "exec", "router", "nft", "-f", "-"], input=text, text=True, check=True)


# Segments of TCP that are sent in a row cross these links as one long packet, which the router does not drop:
# as where a tunnel hands several to the kernel as one, and only a full one alone is lost.


def find_lost(address: str = FAR, *, least: int = 1200) -> LostPackets | None:
    return find_lost_packets(address, PORT, most=1500, least=least)


def test_limits_of_icmp_are_no_black_hole_and_one_is_found_without_any_icmp():
    with far_service():
        for limits in (
            (),
            ("icmp type echo-request limit rate over 1/second burst 1 packets drop",),
            ("icmp type { echo-request, echo-reply } meta length > 1000 drop",),
            ("meta l4proto { icmp, ipv6-icmp } drop",),
        ):
            have_router(*limits)
            with within(1.0):
                assert find_lost() is None, limits
        # The same router, which answers nothing and echoes nothing, now swallows large packets as well.
        have_router("meta l4proto icmp drop", "meta length 1403-1500 drop")
        assert find_lost() == LostPackets(1400, "both")
        have_router("icmpv6 type echo-request drop", "meta length 1403-1500 drop")
        assert find_lost(FAR6, least=1404) == LostPackets(None, "both")


def test_large_packets_that_are_lost_one_way_only_are_found_with_the_direction():
    with far_service():
        have_router(f"ip saddr {NEAR} meta length 1301-1500 drop")
        assert find_lost() == LostPackets(1300, "to")
        have_router(f"ip saddr {FAR} meta length 1241-1500 drop")
        assert find_lost() == LostPackets(1240, "from")


def test_what_is_lost_by_chance_or_with_the_service_is_no_question_of_sizes():
    with far_service():
        have_router("tcp flags ack meta length > 1000 numgen random mod 10 == 0 drop")  # every tenth
        assert find_lost() is None
        have_router(f"tcp dport {PORT} drop")
        with pytest.raises(ServiceUnreachable):
            measure_exchange((FAR, PORT), None, wait_s=0.2)
        with within(2 * CONNECT_S):
            assert find_lost() is None
