"""Probes: packets sent from any machine's network to any other's, and word of which arrived.

    with Listeners() as listeners:
        listeners.listen(there, [22, 40000])
        reach(listeners, [Probe("LAN", here, "tcp", "192.168.0.201", 22)])

The sockets are this process's own, made inside the machines' network namespaces: the kernel
treats them as the machines' sockets. So hundreds of probes run at once, a connection can be held
open while rules change, and the listening side itself says what it received.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeAlias

from tests.support.lab.machines import Machine
from tests.support.lab.programs.attacker import checksum
from tests.support.waiting import Deadline, comes_true, pause

QUIET_SECONDS = 0.35
"""How long a probe that must not arrive is given to do so; a dropped one never answers."""
PATIENCE_SECONDS = 5.0
RESEND_SECONDS = 0.15

IP_TRANSPARENT: Final = (socket.SOL_IP, 19, 1)
"""Lets a socket send from an address that is not its machine's. Source: ip(7)."""
IPV6_TRANSPARENT: Final = (socket.IPPROTO_IPV6, 75, 1)
BROADCAST: Final = (socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
DESTINATION_OPTIONS: Final = (socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b"\0\0\1\4\0\0\0\0")
"""An extension header between IPv6's and TCP's, of padding only. Source: RFC 8200, 4.6."""

Protocol: TypeAlias = Literal["tcp", "udp"]
Option: TypeAlias = tuple[int, int, int | bytes]

_NEW_NETWORK = 0x40000000
_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_libc = ctypes.CDLL(None, use_errno=True)
_words = itertools.count(1)


class Place:
    """The network of a machine, or one that a machine made with `ip netns add`."""

    def __init__(self, machine: Machine, netns: str = "") -> None:
        self.name = netns or machine.name
        inner = f"root/run/netns/{netns}" if netns else "ns/net"
        self._namespace = os.open(f"/proc/{machine.pid}/{inner}", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread's network is the place's meanwhile."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self._namespace)
            yield
        finally:
            _enter(own)
            os.close(own)

    def socket(self, protocol: Protocol, family: int, user: int = 0, number: int = 0) -> socket.socket:
        """A socket of this place that never blocks, and of a user: the kernel asks who opened it.

        number: of another protocol of the kind.
        """
        with self.inside(), _opening_as(user):
            made = socket.socket(family, _TYPES[protocol], number)
        made.setblocking(False)
        return made

    def ping(
        self, target: str, *, source: str = "", device: str = "", seconds: float = PATIENCE_SECONDS
    ) -> bool:
        """Whether an echo request is answered in time; one is sent every 0.2 s."""
        is_ipv6 = ":" in target
        family, protocol = (
            (socket.AF_INET6, socket.IPPROTO_ICMPV6) if is_ipv6 else (socket.AF_INET, socket.IPPROTO_ICMP)
        )
        with self.inside(), socket.socket(family, socket.SOCK_RAW, protocol) as raw:
            if device:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            if source:
                raw.bind((source, 0))
            raw.connect(self.whereto(target, 0))
            raw.settimeout(0.2)
            word = struct.pack("!HH", next(_words) & 0xFFFF, 1)
            request = struct.pack("!BBH", 128 if is_ipv6 else 8, 0, 0) + word
            answer = struct.pack("!B", 129 if is_ipv6 else 0)
            if not is_ipv6:  # for IPv6 the kernel adds it
                request = request[:2] + struct.pack("!H", checksum(request)) + word
            deadline = Deadline(seconds)
            while not deadline.is_over():
                with contextlib.suppress(OSError):
                    raw.send(request)
                    while deadline.left():
                        packet = raw.recv(65536)[0 if is_ipv6 else 20 :]
                        if packet.startswith(answer) and packet[4:8] == word:
                            return True
        return False

    def whereto(self, target: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """A socket's address, with the number that the scope has here."""
        host, _, scope = target.partition("%")
        if not scope:
            return host, port
        with self.inside():
            return host, port, 0, socket.if_nametoindex(scope)

    def close(self) -> None:
        """Let go of the network."""
        os.close(self._namespace)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _NEW_NETWORK):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


class Listeners:
    """Careless servers: they listen on every address, note each line they receive, and echo it.

    seen: from each line that arrived to where it did, and from which source port.
    """

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, int]] = {}
        self._connections: dict[str, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="listeners")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            _socket(key).close()
        self._selector.close()

    def listen(self, place: Place, ports: Iterable[int], *, user: int = 0) -> None:
        """Serve TCP and UDP at ports of a place, over IPv4 and IPv6, as a user."""
        for port, protocol in itertools.product(ports, ("tcp", "udp")):
            server = place.socket("tcp" if protocol == "tcp" else "udp", socket.AF_INET6, user)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("::", port))
            if protocol == "tcp":
                server.listen(1024)
            self._selector.register(server, selectors.EVENT_READ, (protocol, place.name))

    def say(self, line: str, answer: str) -> None:
        """Send `answer` on the TCP connection by which `line` came."""
        self._connections[line].send(f"{answer}\n".encode())

    def came(self, line: str, to: str = "") -> bool:
        """Whether a line arrived, at that place or at any."""
        return to in self.seen.get(line, {}) if to else line in self.seen

    def _serve(self) -> None:
        while not self._ended.is_set():
            for key, _ in self._selector.select(0.02):
                with contextlib.suppress(OSError):
                    self._attend(_socket(key), *key.data)

    def _attend(self, server: socket.socket, does: str, place: str) -> None:
        if does == "tcp":
            connection, _ = server.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, ("connection", place))
        elif does == "udp":
            octets, peer = server.recvfrom(65536)
            self._note(octets.split()[0].decode(), place, peer[1])
            server.sendto(octets, peer)
        else:
            self._converse(server, place)

    def _note(self, line: str, place: str, source_port: int) -> None:
        self.seen[line] = {**self.seen.get(line, {}), place: source_port}

    def _converse(self, connection: socket.socket, place: str) -> None:
        try:
            octets = connection.recv(65536)
        except OSError:
            octets = b""
        if not octets:
            self._selector.unregister(connection)
            connection.close()
            return
        for line in octets.decode().split():
            self._note(line, place, connection.getpeername()[1])
            self._connections[line] = connection
        connection.send(octets)


def _socket(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj


@contextlib.contextmanager
def _opening_as(user: int) -> Iterator[None]:
    """What this thread opens meanwhile is that user's. Source: setfsuid(2)."""
    _libc.setfsuid(user)
    try:
        yield
    finally:
        _libc.setfsuid(os.geteuid())


@dataclass(frozen=True)
class Probe:
    """One try to reach a port.

    Attributes:
        way: in words, for the test's report.
        place: where it comes from.
        protocol: tcp or udp.
        target: address, a link-local one with its scope.
        port: the port asked for.
        source: address it comes from, or "" for the place's own.
        source_port: port it comes from, or 0 for any.
        options: of the socket, as setsockopt(2) takes them.
        size: octets of the line at least, to be sent in fragments.
        listener: the place at which it is meant to arrive, where there may be several, or "".
        user: the number of the user whose socket it is.
    """

    way: str
    place: Place
    protocol: Protocol
    target: str
    port: int
    source: str = ""
    source_port: int = 0
    options: tuple[Option, ...] = ()
    size: int = 0
    listener: str = ""
    user: int = 0

    def __str__(self) -> str:
        return f"{self.way}: {self.place.name} by {self.protocol} to {self.target} port {self.port}"


class Attempt:
    """A probe under way; a TCP one is the connection, as long as it is not closed."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.line = f"line-{next(_words)}"
        self.met: int | None = None
        family = socket.AF_INET6 if ":" in probe.target else socket.AF_INET
        self._socket = probe.place.socket(probe.protocol, family, probe.user)
        try:
            for option in probe.options:
                self._socket.setsockopt(*option)
            if probe.source or probe.source_port:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._socket.bind((probe.source or ("::" if ":" in probe.target else ""), probe.source_port))
            met = self._socket.connect_ex(probe.place.whereto(probe.target, probe.port))
        except BaseException:
            self.close()
            raise
        self._connected = probe.protocol == "udp" and not met
        self._note(met)
        self._sent = 0.0

    def push(self) -> None:
        """Go on as far as it goes without waiting."""
        if self.met is None and not self._connected:
            self._note(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            with contextlib.suppress(OSError):
                self._socket.getpeername()
                self._connected = True
        again = self.probe.protocol == "udp" and time.monotonic() > self._sent + RESEND_SECONDS
        if self._connected and self.met is None and (again or not self._sent):
            self._sent = time.monotonic()
            self.send(self.line)

    def send(self, line: str) -> None:
        """Send a line."""
        try:
            self._socket.send(f"{line}\n".encode().ljust(self.probe.size))
        except OSError as error:
            self._note(error.errno)

    def received(self) -> str:
        """What came back since it was last asked."""
        with contextlib.suppress(BlockingIOError):
            return self._socket.recv(65536).decode()
        return ""

    def path_mtu(self) -> int:
        """Octets that the kernel believes to fit the path. Source: ip(7), ipv6(7)."""
        option = (socket.IPPROTO_IPV6, 24) if ":" in self.probe.target else (socket.SOL_IP, 14)
        return self._socket.getsockopt(*option)

    def too_big(self, place: Place, octets: int) -> None:
        """Let a place on the way say that the attempt's packets must be of so many octets at most.

        Source: RFC 1191, RFC 4443 3.2.
        """
        own, own_port = self._socket.getsockname()[:2]
        begin = struct.pack("!HHHH", own_port, self.probe.port, 8, 0)
        if self._socket.family == socket.AF_INET6:
            ends = socket.inet_pton(socket.AF_INET6, own) + socket.inet_pton(
                socket.AF_INET6, self.probe.target
            )
            quoted = struct.pack("!IHBB", 6 << 28, 8, socket.IPPROTO_UDP, 64) + ends + begin
            packet = struct.pack("!BBHI", 2, 0, 0, octets) + quoted  # the kernel adds the checksum
        else:
            ends = socket.inet_aton(own) + socket.inet_aton(self.probe.target)
            quoted = (
                struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0x4000, 64, socket.IPPROTO_UDP, 0) + ends + begin
            )
            check = checksum(struct.pack("!BBHHH", 3, 4, 0, 0, octets) + quoted)
            packet = struct.pack("!BBHHH", 3, 4, check, 0, octets) + quoted
        is_ipv6 = self._socket.family == socket.AF_INET6
        protocol = socket.IPPROTO_ICMPV6 if is_ipv6 else socket.IPPROTO_ICMP
        with place.inside(), socket.socket(self._socket.family, socket.SOCK_RAW, protocol) as raw:
            raw.sendto(packet, (own, 0))

    @property
    def touched(self) -> bool:
        """Somebody there answered: a connection came about, or was refused."""
        return self.met == errno.ECONNREFUSED or (self.probe.protocol == "tcp" and self._connected)

    def arrived(self, listeners: Listeners) -> bool:
        """Its line came to where it was meant to come."""
        return listeners.came(self.line, self.probe.listener)

    def close(self) -> None:
        """Give it up."""
        self._socket.close()

    def _note(self, number: int | None) -> None:
        if number and number != errno.EINPROGRESS:
            self.met = number


@contextlib.contextmanager
def attempts(probes: Iterable[Probe]) -> Iterator[list[Attempt]]:
    """Attempts at all probes, closed in the end."""
    with contextlib.ExitStack() as stack:
        made = []
        for probe in probes:
            made.append(Attempt(probe))
            stack.callback(made[-1].close)
        yield made


def reach(listeners: Listeners, probes: Sequence[Probe], *, wanted: Iterable[Probe] = ()) -> set[Probe]:
    """Make all probes at once, and return those that arrived.

    Waits for the wanted ones with patience, and for QUIET_SECONDS in any case.
    """
    wanted = set(wanted)
    with attempts(probes) as made:
        hostile = [attempt for attempt in made if attempt.probe not in wanted]
        began, deadline = time.monotonic(), Deadline(PATIENCE_SECONDS)
        while not deadline.is_over():
            for attempt in made:
                attempt.push()
            quiet = not hostile or time.monotonic() > began + QUIET_SECONDS
            if quiet and all(a.arrived(listeners) for a in made if a.probe in wanted):
                break
            pause()
        return {a.probe for a in made if a.arrived(listeners) or a.touched}


def eventually(condition: Any, seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether a condition comes true in that time."""
    return comes_true(condition, seconds)
