"""What becomes of the mesh's packets under a ruleset, by the kernel's word: real ones, in a namespace.

The tunnel is a TUN device whose far end is this program; the machine beside it is another namespace.
Nothing but the packets of one flow is under way at a time, so the kernel's own counters say whether one was
delivered.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from msgspec.structs import replace

from qmesh.host.network import links
from qmesh.host.network.kernel_routes.tunnel import wait_for_local_routes
from qmesh.mesh.foreign.packets import (
    EPHEMERAL,
    PROTOCOL_NUMBERS,
    SOLICITATION,
    Packet,
    UnderlayRoute,
    list_required_packets,
)
from qmesh.mesh.state import Guard
from tests.support import factories
from tests.support.waiting import patience

Verdict: TypeAlias = Literal["passes", "drops"]

Version: TypeAlias = Literal[4, 6]

NEAR, FAR = "192.0.2.2", "192.0.2.1"
NEAR_IPV6, FAR_IPV6 = "2001:db8:7::2", "2001:db8:7::1"
CONTROL, MEMBER = "10.77.0.1", "10.77.0.2"
CONTROL_IPV6, MEMBER_IPV6 = "fd77::1", "fd77::2"
WORKER_PORT: Final = 40003
TUNNEL: Final = "qmesh0"
ABSENCE_S: Final = 0.06
"""Seconds after which a packet that is expected to be dropped has not come."""
_SYN, _ACK = 0x02, 0x10
_PREFIX: Final = {4: 20, 6: 64}
_FAMILY: Final = {"ip": socket.AF_INET, "ip6": socket.AF_INET6}
_FAR_LINK: Final = "02:00:00:00:00:01"
_libc = ctypes.CDLL(None, use_errno=True)


def build_guard(role: Literal["control", "worker"], version: Version = 4) -> Guard:
    """The guard of this machine, as the product renders it."""
    control = CONTROL if version == 4 else CONTROL_IPV6
    return factories.guard(role=role, kind="tun", ports=(WORKER_PORT,), control_address=control)


def list_packets(role: Literal["control", "worker"], number: int, version: Version = 4) -> list[Packet]:
    """The packets that a machine needs. number: of the round, so that no connection is used twice.

    version: of IP, of the endpoints and within the tunnel.
    """
    control, member = (CONTROL, MEMBER) if version == 4 else (CONTROL_IPV6, MEMBER_IPV6)
    own = control if role == "control" else member
    tunnel = factories.tunnel(kind="tun", public_key=None, addresses=(f"{own}/{_PREFIX[version]}",))
    way = UnderlayRoute("eth0", NEAR, FAR, 51820)
    if version == 6:
        way = UnderlayRoute("eth0", NEAR_IPV6, FAR_IPV6, 51820, neighbour=FAR_IPV6)
    members = ((member, WORKER_PORT + 1),) if role == "control" else ()
    port = EPHEMERAL + number

    def renumber(packet: Packet) -> Packet:
        ends = {side: port for side in ("source_port", "target_port") if getattr(packet, side) == EPHEMERAL}
        return replace(packet, **ends)

    guard = build_guard(role, version)
    return [renumber(each) for each in list_required_packets(guard, tunnel, members, (way,))]


class Wire:
    """A machine with a tunnel, and what is at the other ends; to be closed."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        _run("ip netns add far")
        for place in ("", "ip netns exec far "):  # or the kernels would speak besides
            for name in ("accept_dad", "router_solicitations", "autoconf"):
                _run(f"{place}sysctl -qw net.ipv6.conf.default.{name}=0")
        _run(
            "ip link add eth0 address 02:00:00:00:00:02 type veth"
            " peer name far0 address 02:00:00:00:00:01 netns far",
            f"ip addr add {NEAR}/24 dev eth0",
            "ip link set eth0 up",
            f"ip neigh replace {FAR} lladdr 02:00:00:00:00:01 dev eth0 nud permanent",
            f"ip -n far addr add {FAR}/24 dev far0",
            "ip -n far link set far0 up",
            f"ip -n far neigh replace {NEAR} lladdr 02:00:00:00:00:02 dev far0 nud permanent",
            f"ip addr add {NEAR_IPV6}/64 dev eth0 nodad",
            f"ip neigh replace {FAR_IPV6} lladdr {_FAR_LINK} dev eth0 nud permanent",
            f"ip -n far addr add {FAR_IPV6}/64 dev far0 nodad",
            f"ip -n far neigh replace {NEAR_IPV6} lladdr 02:00:00:00:00:02 dev far0 nud permanent",
        )
        self._tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._stack.callback(os.close, self._tun)
        fcntl.ioctl(self._tun, 0x400454CA, struct.pack("16sH22x", TUNNEL.encode(), 0x1001))  # TUNSETIFF
        _run(f"ip link set {TUNNEL} up mtu 1420")
        wait_for_local_routes("eth0")
        self._far_ends: dict[tuple[str, str], socket.socket] = {}
        self._sockets: dict[tuple[str, str, int], socket.socket] = {}
        self._number = 0
        self._sequence = 0
        self._own = ""
        self._wait_s = ABSENCE_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_sockets()
        self._stack.close()

    def begin_round(self, role: Literal["control", "worker"], version: Version = 4) -> list[Packet]:
        """Become a machine of this kind, without connections from before; the packets that it needs."""
        self._number += 1
        control, member = (CONTROL, MEMBER) if version == 4 else (CONTROL_IPV6, MEMBER_IPV6)
        own = f"{control if role == 'control' else member}/{_PREFIX[version]}"
        if own != self._own:
            if self._own:
                links.remove_address(TUNNEL, self._own)
            links.add_address(TUNNEL, own)
            wait_for_local_routes(TUNNEL)
            self._own = own
        self._close_sockets()
        _flush_connections()
        packets = list_packets(role, self._number, version)
        self._get_far_end(packets[0])  # before anything is sent there
        self._drain(_FAMILY[packets[0].family])
        return packets

    def send_all(self, packets: Iterable[tuple[Packet, str]]) -> Iterator[tuple[Packet, Verdict | None]]:
        """Each packet's verdict; None where it could not be sent, as an earlier one of its flow was dropped.

        packets: each with what is expected of it, which decides only how long is waited.
        """
        is_broken: dict[frozenset[object], bool] = {}
        is_mute = False  # nothing that needs to know a neighbour goes out
        for packet, expected in packets:
            flow = frozenset(
                {
                    (packet.protocol, packet.icmp_type),
                    (packet.source, packet.source_port),
                    (packet.target, packet.target_port),
                }
            )
            if is_broken.get(flow) or (packet.icmp_type == SOLICITATION and packet.oif and is_mute):
                yield packet, None
                continue
            self._wait_s = patience(5) if expected == "passes" else ABSENCE_S
            came = self._send_in(packet) if packet.iif and packet.iif != "lo" else self._send_out(packet)
            is_broken[flow] = not came
            is_mute |= packet.traffic == "wireguard out" and not came
            yield packet, "passes" if came else "drops"

    def _send_in(self, packet: Packet) -> bool:
        """Send it from the other end; whether it came past all rules."""
        if packet.opens and packet.protocol != "icmpv6":
            self._open_socket(packet, packet.target_port)
        before = _count_delivered()
        if packet.iif == TUNNEL:
            os.write(self._tun, _build_packet(packet, self._sequence))
        elif packet.protocol == "icmpv6":
            self._get_far_end(packet).sendto(_build_discovery(packet.icmp_type), (packet.target, 0))
        else:
            self._get_far_end(packet).sendto(b"x" * 148, (packet.target, packet.target_port))
        return self._wait_until(lambda: _count_delivered() > before)

    def _send_out(self, packet: Packet) -> bool:
        """Have a program of this machine send it; whether it came out at the other end."""
        if packet.protocol == "icmpv6":
            return self._send_discovery_out(packet)
        if packet.protocol == "udp" or packet.opens:  # TCP has answered already
            self._drain(_FAMILY[packet.family])
        before = _count_delivered()
        if packet.protocol == "udp":
            sender = self._open_socket(packet, packet.source_port)
            if packet.oif == "lo" or packet.iif == "lo":
                self._open_socket(packet, packet.target_port)
            with contextlib.suppress(PermissionError):
                sender.sendto(b"x" * 148, (packet.target, packet.target_port))
        elif packet.opens:
            if packet.interface == "lo":
                self._open_socket(packet, packet.target_port)
            self._connect(packet)
        if packet.interface == "lo":
            return self._wait_until(lambda: _count_delivered() > before)
        if packet.oif == TUNNEL:
            return self._wait_until(lambda: self._has_come(packet))
        far_end = self._get_far_end(packet)
        return bool(select.select([far_end], [], [], self._wait_s)[0]) and bool(far_end.recv(2000))

    def _send_discovery_out(self, packet: Packet) -> bool:
        """Have the kernel itself send it: it asks for what it has forgotten, and answers what it is asked."""
        far_end = self._get_far_end(packet)
        _drain(far_end)
        if packet.icmp_type == SOLICITATION:
            _run(f"ip neigh del {FAR_IPV6} dev eth0")
            with contextlib.suppress(PermissionError):
                self._open_socket(replace(packet, protocol="udp"), 51820).sendto(b"x", (FAR_IPV6, 51820))
        else:
            far_end.sendto(_build_discovery(SOLICITATION), (packet.source, 0))
        came = self._wait_until(lambda: _has_discovery_come(far_end, packet.icmp_type))
        _run(f"ip neigh replace {FAR_IPV6} lladdr {_FAR_LINK} dev eth0 nud permanent")
        return came

    def _connect(self, packet: Packet) -> None:
        key = ("connected", packet.family, packet.source_port)
        if key in self._sockets:
            self._sockets.pop(key).close()
        made = socket.socket(_FAMILY[packet.family], socket.SOCK_STREAM)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.bind((packet.source, packet.source_port))
        self._sockets[key] = made
        with contextlib.suppress(BlockingIOError, PermissionError):
            made.connect((packet.target, packet.target_port))

    def _open_socket(self, packet: Packet, port: int) -> socket.socket:
        """A program of this machine at a port, of the packet's protocols."""
        key = (packet.protocol, packet.family, port)
        if key not in self._sockets:
            kind = socket.SOCK_STREAM if packet.protocol == "tcp" else socket.SOCK_DGRAM
            made = socket.socket(_FAMILY[packet.family], kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if packet.family == "ip6":
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(("", port))
            if packet.protocol == "tcp":
                made.listen()
            self._sockets[key] = made
        return self._sockets[key]

    def _has_come(self, packet: Packet) -> bool:
        """Whether this packet came out of the tunnel."""
        with contextlib.suppress(BlockingIOError):
            while True:
                found = os.read(self._tun, 2000)
                version, size, protocol = (4, 20, 9) if packet.family == "ip" else (6, 40, 6)
                if found[0] >> 4 != version or found[protocol] != PROTOCOL_NUMBERS[packet.protocol]:
                    continue
                if struct.unpack_from("!HH", found, size) != (packet.source_port, packet.target_port):
                    continue
                if packet.protocol == "udp" or found[size + 13] & 0x17 == packet.tcp_flags:
                    if packet.protocol == "tcp":
                        self._sequence = struct.unpack_from("!I", found, size + 4)[0]
                    return True
        return False

    def _wait_until(self, has_happened: object) -> bool:
        assert callable(has_happened)
        until = time.monotonic() + self._wait_s
        while not has_happened():
            if time.monotonic() > until:
                return False
            select.select([], [], [], 0.001)
        return True

    def _drain(self, family: socket.AddressFamily) -> None:
        for each in self._far_ends.values():
            if each.family == family:
                _drain(each)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._tun, 2000):
                pass

    def _get_far_end(self, packet: Packet) -> socket.socket:
        key = (packet.family, packet.protocol)
        if key not in self._far_ends:
            opened = open_far_socket(_FAMILY[packet.family], is_raw=packet.protocol == "icmpv6")
            self._far_ends[key] = self._stack.enter_context(opened)
        return self._far_ends[key]

    def _close_sockets(self) -> None:
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()


def _build_packet(packet: Packet, seen: int) -> bytes:
    """Its bytes. seen: the sequence number of TCP that came last from the machine; our own begin at 1000."""
    if packet.protocol == "udp":
        content = struct.pack("!HHHH", packet.source_port, packet.target_port, 8 + 4, 0) + b"test"
    else:
        flags = packet.tcp_flags
        acknowledged = seen + 1 if flags != _SYN else 0
        size = struct.pack("!BBH", 2, 4, 1380) if flags & _SYN else b""  # the option MSS
        content = struct.pack(
            "!HHIIBBHHH", packet.source_port, packet.target_port, 1000 + (flags == _ACK), acknowledged,
            0x50 + (len(size) << 2), flags, 64240, 0, 0,
        ) + size  # fmt: skip
    number, place = PROTOCOL_NUMBERS[packet.protocol], 16 if packet.protocol == "tcp" else 6
    pseudo = packet.packed_source + packet.packed_target + struct.pack("!HH", number, len(content))
    content = content[:place] + struct.pack("!H", _checksum(pseudo + content)) + content[place + 2 :]
    if packet.family == "ip6":
        header = struct.pack("!IHBB", 6 << 28, len(content), number, 64)
        return header + packet.packed_source + packet.packed_target + content
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(content), 1, 0x4000, 64, number, 0,
        packet.packed_source, packet.packed_target,
    )  # fmt: skip
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + content


def _build_discovery(kind: int) -> bytes:
    """A message of the machine beside this one. Source: RFC 4861, 4.3 and 4.4."""
    asks = kind == SOLICITATION
    flags, subject = (0, NEAR_IPV6) if asks else (0x60000000, FAR_IPV6)
    link = bytes([1 if asks else 2, 1]) + bytes.fromhex(_FAR_LINK.replace(":", ""))
    body = struct.pack("!I", flags) + socket.inet_pton(socket.AF_INET6, subject) + link
    return struct.pack("!BBH", kind, 0, 0) + body  # the kernel adds the checksum


def _has_discovery_come(far_end: socket.socket, kind: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        while True:
            if far_end.recv(2000)[0] == kind:
                return True
    return False


def _drain(far_end: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            far_end.recv(2000)


def _checksum(octets: bytes) -> int:
    octets += bytes(len(octets) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(total) ^ 0xFFFF


def _count_delivered() -> int:
    """Packets that came past all rules to this machine's own protocols."""
    names, values, *_ = Path("/proc/net/snmp").read_text(encoding="ascii").splitlines()
    lines = dict(map(str.split, Path("/proc/net/snmp6").read_text(encoding="ascii").splitlines()))
    return int(values.split()[names.split().index("InDelivers")]) + int(lines["Ip6InDelivers"])


@contextlib.contextmanager
def open_far_socket(
    family: socket.AddressFamily = socket.AF_INET, *, is_raw: bool = False
) -> Iterator[socket.socket]:
    """A socket of the machine beside this one, which a `Wire` made, at WireGuard's port, or for ICMPv6."""
    own, far = (os.open(path, os.O_RDONLY) for path in ("/proc/self/ns/net", "/run/netns/far"))
    try:
        assert _libc.setns(far, 0x40000000) == 0
        made = (
            socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            if is_raw
            else socket.socket(family, socket.SOCK_DGRAM)
        )
        assert _libc.setns(own, 0x40000000) == 0
    finally:
        os.close(far)
        os.close(own)
    with made:
        made.bind((FAR if family == socket.AF_INET else FAR_IPV6, 0 if is_raw else 51820))
        if is_raw:
            for option in (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS):
                made.setsockopt(socket.IPPROTO_IPV6, option, 255)
        made.setblocking(False)
        yield made


def _flush_connections() -> None:
    """The kernel's table of connections. Source: nfnetlink_conntrack.h, IPCTNL_MSG_CT_DELETE."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.sendto(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 0x5, 1, 0, 0, 0, 0), (0, 0))
        (code,) = struct.unpack_from("=i", netlink.recv(4096), 16)
        assert code in {0, -errno.EOPNOTSUPP}


def _run(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True)
