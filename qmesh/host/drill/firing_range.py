"""Fire shots at the copy of a machine, and see what the kernel does with each.

Which packets came past all rules to the machine itself, a raw socket is told, to which the kernel gives each
packet where it gives it to TCP or UDP; which it sent, or passed on, is seen where they come out. Nothing is
waited for that may not come: this process stays on one processor, whose queue of packets has an order, and
sends one by a way without rules behind the others. Source: raw(7), packet(7), linux/net/core/dev.c.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Self

from qmesh.errors import KernelRefused
from qmesh.host.drill.namespaces import Namespaces
from qmesh.host.drill.network_copy import Way
from qmesh.host.lean.nftables_messages import NETFILTER
from qmesh.host.network.netlink import open_socket
from qmesh.host.network.netlink_messages import ACK, build_request, send_request
from qmesh.mesh.drill.frames import IPV4, IPV6, answer_question, read_frame, render_frame
from qmesh.mesh.drill.shots import FIRST_NUMBER, Fate, Shot, Trace, read_packet_trace, read_trace, render_shot

_ALL_PROTOCOLS: Final = 0x0003  # ETH_P_ALL
_PACKETS, _IGNORE_OUTGOING = 263, 23  # SOL_PACKET, PACKET_IGNORE_OUTGOING
_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_BUFFER: Final = 64 << 20
_IPV6_OWN_HEADER, _IPV4_OWN_HEADER = 36, 3  # IPV6_HDRINCL, IP_HDRINCL
_FREEBIND: Final = 15  # IP_FREEBIND
_DELETE_CONNECTIONS: Final = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_BATCH: Final = 512
_MOST_CONNECTIONS: Final = 8192
"""Shots after which the kernel's table of connections is emptied, where the shots need none from before."""
_TUNNEL_WAIT_S: Final = 2.0
_TAP_TO_END_S: Final = 0.005
"""From where WireGuard's packets are seen to where the kernel is done with them, on another processor."""
_LAST_NUMBER: Final = FIRST_NUMBER - 1
(_LAST,) = render_shot(
    Shot(way=None, source="192.0.2.1", target="192.0.2.2", protocol="udp", source_port=9, target_port=9),
    _LAST_NUMBER,
)
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Seen:
    """Of one shot, while it is under way."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.left: list[str] = []
        self.out_ports: list[int] = []
        self.is_answered = False


class FiringRange:
    """The copy with its ways, to be closed. Raises OSError."""

    def __init__(self, namespaces: Namespaces, ways: Sequence[Way]) -> None:
        namespaces.verify_copy()
        self._namespaces = namespaces
        self._ways = {each.name: each for each in ways}
        self._stack = contextlib.ExitStack()
        self._listeners: dict[int, socket.socket] = {}
        self._stack.callback(self._close_listeners)
        self._local: dict[tuple[int, int, str], socket.socket] = {}
        self._seen: defaultdict[int, _Seen] = defaultdict(_Seen)
        self._next, self._fired = FIRST_NUMBER, 0
        self._last: dict[tuple[str, tuple[str, int], tuple[str, int]], int] = {}
        with self._stack:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            self._families = (socket.AF_INET, socket.AF_INET6) if has_ipv6() else (socket.AF_INET,)
            self._receivers = [
                (protocol, family, self._open_receiver(family, protocol))
                for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
                for family in self._families
            ]
            with namespaces.enter_outside():
                self._outside = self._open_tap()
                self._marker = self._open_marker()
            self._far = {each.far: each for each in reversed(ways) if each.far}
            self._tunnels = {each.name: self._open_tap(each.name) for each in ways if each.is_wireguard}
            self._is_drained = False
            for name in self._tunnels:  # the first packet has the two ends shake hands
                self._drain_tunnel(name)
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open_receiver(self, family: int, protocol: int) -> socket.socket:
        made = self._stack.enter_context(
            socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        )
        made.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
        return made

    def _open_tap(self, interface: str = "") -> socket.socket:
        """All packets of that interface, or of all in the namespace that this process is in."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        made = self._stack.enter_context(socket.socket(socket.AF_PACKET, kind, socket.htons(_ALL_PROTOCOLS)))
        made.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
        made.setsockopt(_PACKETS, _IGNORE_OUTGOING, 1)
        if interface:
            made.bind((interface, _ALL_PROTOCOLS))
        return made

    def _open_marker(self) -> socket.socket:
        """Sends to itself where there are no rules."""
        made = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind(("127.0.0.1", 0))
        made.connect(made.getsockname())
        return made

    def listen(self, ports: Iterable[int]) -> None:
        """Have programs of the machine accept TCP connections at these ports, on all addresses."""
        for port in set(ports).difference(self._listeners):
            made = socket.socket(self._families[-1], socket.SOCK_STREAM)
            self._listeners[port] = made
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if made.family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            made.bind(("", port))
            made.listen(4096)

    def begin_anew(self) -> None:
        """Have programs and kernel know of no connection from before."""
        self._last.clear()
        ports = tuple(self._listeners)
        self._close_listeners()
        self.listen(ports)
        self.forget_connections()

    def _close_listeners(self) -> None:
        for each in self._listeners.values():
            each.close()
        self._listeners.clear()

    def forget_connections(self) -> None:
        """Empty the kernel's table of connections. Source: nfnetlink_conntrack.h."""
        self._namespaces.verify_copy()
        with open_socket(NETFILTER) as netlink, contextlib.suppress(OSError):
            send_request(netlink, build_request(_DELETE_CONNECTIONS, ACK, struct.pack("!BBH", 0, 0, 0)))

    def fire(self, shots: Sequence[Shot], *, keep_connections: bool = False) -> list[Fate]:
        """Each shot's fate. keep_connections: do not empty the table of connections in between.

        Raises KernelRefused where a way is not there.
        """
        fates: list[Fate] = []
        for start in range(0, len(shots), _BATCH):
            batch = shots[start : start + _BATCH]
            if not keep_connections and self._fired + len(batch) > _MOST_CONNECTIONS:
                self.forget_connections()
                self._fired = 0
            self._fired += len(batch)
            numbers = [self._next + place for place in range(len(batch))]
            self._next += len(batch)
            in_tunnel = 0
            for shot, number in zip(batch, numbers, strict=True):
                in_tunnel += self._send(shot, number)
            self._settle(in_tunnel)
            fates += [self._take_fate(number) for number in numbers]
            self._seen.clear()
        return fates

    def _take_fate(self, number: int) -> Fate:
        found = self._seen.get(number)
        if found is None:
            return Fate()
        return Fate(
            ports=tuple(found.ports),
            left=tuple(dict.fromkeys(found.left)),
            out_ports=tuple(dict.fromkeys(found.out_ports)),
            is_answered=found.is_answered,
        )

    def _send(self, shot: Shot, number: int) -> int:
        """How many packets went into a WireGuard tunnel."""
        here, there = (shot.source, shot.source_port), (shot.target, shot.target_port)
        self._last[shot.protocol, here, there] = number
        packets = render_shot(shot, number, self._last.get((shot.protocol, there, here), 0))
        if shot.way is None and shot.version == 6 and socket.AF_INET6 not in self._families:
            return 0
        if shot.way is None:
            sender = self._get_local_sender(shot)
            for packet in packets:
                with contextlib.suppress(OSError):  # a rule or a route refuses it
                    sender.sendto(packet, (shot.target, 0))
            return 0
        way = self._ways.get(shot.way)
        if way is None:
            raise KernelRefused(f"the copy has no way in by {shot.way}", hint="please report it")
        for packet in packets:
            framed = render_frame(packet, way.link_address) if way.link_address else packet
            if way.tun >= 0:
                with contextlib.suppress(OSError):
                    os.write(way.tun, framed)
            else:
                protocol = IPV4 if shot.version == 4 else IPV6
                self._outside.sendto(framed, (way.far, protocol))
        return len(packets) if way.is_wireguard else 0

    def _get_local_sender(self, shot: Shot) -> socket.socket:
        key = shot.version, shot.user, shot.device
        if key not in self._local:
            family = socket.AF_INET if shot.version == 4 else socket.AF_INET6
            with _opening_as(shot.user):
                made = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
            self._stack.enter_context(made)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, _IPV6_OWN_HEADER, 1)
            else:
                made.setsockopt(socket.IPPROTO_IP, _IPV4_OWN_HEADER, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if shot.device:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, shot.device.encode())
            self._local[key] = made
        return self._local[key]

    def _settle(self, in_tunnel: int) -> None:
        """Until all that was sent has come wherever it comes."""
        if in_tunnel:
            self._await_tunnel(in_tunnel)
        while True:
            self._marker.send(b"x")
            self._marker.recv(1)
            if not any([*map(self._drain_tunnel, self._tunnels), self._look()]):
                return

    def _await_tunnel(self, count: int) -> None:
        """WireGuard decrypts on any processor, in its order: the last one is past the tap and soon done."""
        until = time.monotonic() + _TUNNEL_WAIT_S
        while count > 0 and time.monotonic() < until:
            for tap in select.select(self._tunnels.values(), [], [], 0.05)[0]:
                count -= sum(1 for _ in _receive_all(tap))
        select.select([], [], [], _TAP_TO_END_S)

    def _drain_tunnel(self, name: str) -> bool:
        """Have all come out that WireGuard sends, which keeps the order: one more is sent past all rules.

        Whether a neighbour was asked for meanwhile.
        """
        self._is_drained, is_asked = False, False
        self._tunnels[name].sendto(_LAST, (name, IPV4))
        until = time.monotonic() + _TUNNEL_WAIT_S
        while not self._is_drained and time.monotonic() < until:
            select.select([self._outside], [], [], 0.05)
            is_asked |= self._look()
        return is_asked

    def _look(self) -> bool:
        """Note what came; whether a neighbour was asked for, so that more will come."""
        for protocol, family, receiver in self._receivers:
            for octets, _ in _receive_all(receiver):
                content = octets[(octets[0] & 0xF) << 2 :] if family == socket.AF_INET else octets
                self._note(read_trace(protocol, content))
        is_asked = False
        for frame, address in _receive_all(self._outside):
            way = self._far.get(address[0])
            if way is not None:
                is_asked |= self._see(way, frame)
        for way in self._ways.values():
            if way.tun >= 0:
                for frame in _read_all(way.tun):
                    is_asked |= self._see(way, frame)
        return is_asked

    def _see(self, way: Way, frame: bytes) -> bool:
        """What came out; whether it asked for a neighbour, who was answered for."""
        if not way.link_address:
            self._note(read_packet_trace(frame), left=way.name)
            return False
        answer = answer_question(frame)
        if answer is None:
            self._note(read_packet_trace(read_frame(frame)), left=way.name)
            return False
        if way.tun >= 0:
            os.write(way.tun, answer)
        else:
            self._outside.sendto(answer, (way.far, 0))
        return True

    def _note(self, trace: Trace | None, *, left: str = "") -> None:
        if trace is not None and trace.number == _LAST_NUMBER:
            self._is_drained = True
        if trace is None or not 0 <= trace.number - FIRST_NUMBER < self._next - FIRST_NUMBER:
            return
        seen = self._seen[trace.number]
        if trace.is_answer:
            seen.is_answered = True
        elif left:
            seen.left.append(left)
            seen.out_ports.append(trace.port)
        else:
            seen.ports.append(trace.port)


def has_ipv6() -> bool:
    """Whether the kernel has it: it may be switched off when the machine boots."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def _receive_all(receiver: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    while True:
        try:
            yield receiver.recvfrom(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENETDOWN:  # an interface that went
                raise


def _read_all(tun: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield os.read(tun, 1 << 16)


@contextlib.contextmanager
def _opening_as(user: int) -> Iterator[None]:
    """What this thread opens meanwhile is that user's. Source: setfsuid(2)."""
    _libc.setfsuid(user)
    try:
        yield
    finally:
        _libc.setfsuid(os.geteuid())
