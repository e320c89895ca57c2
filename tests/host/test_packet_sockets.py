"""What comes from the address of a retired key, no program gets; its notice passes all the same."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.host.network.packet_sockets import PacketReceiver, find_address_conflict, send_packet
from qmesh.mesh.links.address_conflicts import AddressConflict
from qmesh.mesh.links.retirement import compute_retired_address
from tests.support.factories import key
from tests.support.network import ip, veth
from tests.support.waiting import comes_true, wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.usefixtures("own_machine"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="this machine has no /dev/net/tun"),
]

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
PORT = 5555


@contextlib.contextmanager
def tunnel() -> Iterator[int]:
    """A tunnel interface with this machine's address; what is written there comes in by it."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", b"qmesh0", IFF_TUN | IFF_NO_PI))
        for words in (
            "link set lo up",
            "link set qmesh0 up",
            "addr add 10.77.0.1/20 dev qmesh0",
            "addr add fd00::1/64 dev qmesh0 nodad",
            "route add default dev qmesh0",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        for name in ("all", "qmesh0"):  # nothing else keeps it out
            Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
        wait_until(is_own_by_routes)  # which the kernel does for IPv6 some time after it has the address
        yield end
    finally:
        os.close(end)


def test_a_machine_that_answers_for_an_own_address_is_found():
    veth("eth0", "192.168.7.5/24")  # the kernel answers at its other end, as another machine would
    (told,) = json.loads(ip("-j", "link", "show", "p-eth0"))
    found = find_address_conflict("eth0", "192.168.7.5", wait_s=5)
    assert found == AddressConflict("192.168.7.5", told["address"])
    Path("/proc/sys/net/ipv4/conf/p-eth0/arp_ignore").write_text("8")
    assert find_address_conflict("eth0", "192.168.7.5", wait_s=0.1) is None
    with pytest.raises(OSError, match="No such device"):
        find_address_conflict("eth9", "192.168.7.5", wait_s=0.1)


def is_own_by_routes() -> bool:
    words = ["ip", "-6", "route", "show", "table", "local", "fd00::1"]
    return "qmesh0" in subprocess.run(words, check=True, capture_output=True, text=True).stdout


def udp(source: str, destination: str, text: bytes) -> bytes:
    """A whole packet. Source: RFC 768."""
    there, here = (ipaddress.ip_address(each).packed for each in (destination, source))
    length = 8 + len(text)
    header = struct.pack("!HHHH", 9, PORT, length, 0)
    pseudo = here + there + struct.pack("!IHBB", length, 0, 0, 17) + header + text
    body = header[:6] + struct.pack("!H", checksum(pseudo)) + text
    if len(here) == 16:
        return struct.pack("!IHBB", 6 << 28, length, 17, 64) + here + there + body
    first = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 0, 0, 64, 17)
    return first + struct.pack("!H", checksum(first + b"\0\0" + here + there)) + here + there + body


def checksum(octets: bytes) -> int:
    padded = octets + bytes(len(octets) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


@pytest.mark.parametrize(("own", "other"), [("10.77.0.1", "10.77.0.9"), ("fd00::1", "fd00::9")])
def test_what_comes_from_such_an_address_is_taken_by_no_program_and_seen_by_who_listens(own, other):
    is_ipv6 = ":" in own
    retired = compute_retired_address(key(1), is_ipv6=is_ipv6)
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    with (
        tunnel() as end,
        socket.socket(family, socket.SOCK_DGRAM) as program,
        PacketReceiver("qmesh0", is_ipv6=is_ipv6) as listener,
    ):
        program.bind((own, PORT))
        program.settimeout(10)
        assert list(listener.receive_packets()) == []
        packets = [udp(retired, own, b"retired"), udp(own, retired, b"to it"), udp(other, own, b"a member")]
        for packet in packets:
            os.write(end, packet)
        text, sender = program.recvfrom(100)
        assert (text, sender[0]) == (b"a member", other)  # the third: the first would have come before it
        assert list(listener.receive_packets()) == packets

        # And what is sent to such an address leaves, though no route leads there.
        send_packet("qmesh0", packets[1])
        assert comes_true(lambda: packets[1] in read_all(end), 10)
    with pytest.raises(OSError, match="No such device"):
        send_packet("qmesh0", packets[1])


def read_all(end: int) -> list[bytes]:
    """What has gone out, the kernel's own included."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(os.read(end, 4096))
    return found


def test_an_interface_that_is_none_is_said():
    with pytest.raises(OSError, match="No such device"):
        PacketReceiver("qmesh0", is_ipv6=False)
