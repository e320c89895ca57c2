"""The copy of a machine's network: interfaces of the same names, numbers and kinds, as far as that can be.

What another kind has to stand in for is said. Source: rtnetlink(7), linux/if_link.h, if_tun.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from binascii import b2a_base64
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import msgspec

from qmesh.errors import KernelRefused
from qmesh.host.drill.live_network import ADDRESS, LINK, ROUTE, SYSCTLS, LiveLink, LiveNetwork
from qmesh.host.drill.namespaces import Namespaces
from qmesh.host.drill.netlink_session import CREATE, CopySession
from qmesh.host.network.kernel_routes.tunnel import wait_for_local_routes
from qmesh.host.network.netlink import open_socket, suppress_errnos
from qmesh.host.network.netlink_messages import ACK, HEADER, build_attribute, build_request, send_request
from qmesh.host.wireguard.kernel import KernelWireGuard
from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.state import Peer
from qmesh.mesh.values import Endpoint, Secret

_ROUTE_PROTOCOL: Final = 0  # NETLINK_ROUTE
_NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE, _NEW_RULE = 16, 20, 24, 32  # RTM_*
_UP: Final = 1
_LINK_ADDRESS, _NAME, _MTU, _MASTER, _LINKINFO, _GROUP, _NAMESPACE = 1, 3, 4, 10, 18, 27, 28  # IFLA_*
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_LOOPBACK: Final = 1  # LOOPBACK_IFINDEX
_BRIDGE: Final = build_attribute(1, struct.pack("=I", 0)) + build_attribute(23, b"\0")
"""A bridge passes on at once, and to all: IFLA_BR_FORWARD_DELAY, IFLA_BR_MCAST_SNOOPING."""
_MASTERS: Final = frozenset({"bridge", "vrf"})
_TAKES_PACKETS: Final = frozenset({"bridge"})
"""The kinds that are made as they are, and those whose parts have no packets of their own."""
_SET_INTERFACE, _SET_INDEX, _TUN, _TAP, _NO_HEADER = 0x400454CA, 0x400454DA, 1, 2, 0x1000  # TUNSET*, IFF_*
_NO_DETECTION: Final = 0x02  # IFA_F_NODAD
_OF_ADDRESS: Final = frozenset({1, 2, 4})  # IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST
_OF_ROUTE: Final = frozenset({1, 2, 4, 5, 6, 7, 8, 9, 11, 15, 18, 20})  # all but cached values and objects
_ON_LINK, _CLONED, _LOCAL_TABLE, _BY_KERNEL = 0x4, 0x200, 255, 2  # RTNH_F_ONLINK, RTM_F_CLONED, RT_TABLE_*
_NOT_OF_RULE: Final = frozenset({18})  # FRA_PAD
_PORT: Final = 51820
_QUIET: Final = {
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/addr_gen_mode": "1",
    "ipv6/conf/default/router_solicitations": "0",
    "ipv6/conf/default/accept_ra": "0",
}


class Way(msgspec.Struct, frozen=True):
    """How packets come in by an interface of the copy, and where they come out.

    far: the interface outside, or "" for a TUN interface, whose file is `tun`. link_address: whom frames are
    for, empty where packets have none.
    """

    name: str
    far: str = ""
    tun: int = -1
    link_address: bytes = b""
    is_wireguard: bool = False


class NetworkCopy(msgspec.Struct, frozen=True):
    """What was made. stand_ins: of which kinds others stand in; failures: what could not be made, and why."""

    ways: tuple[Way, ...]
    stand_ins: tuple[str, ...]
    failures: tuple[str, ...]


def copy_network(namespaces: Namespaces, live: LiveNetwork) -> NetworkCopy:
    """Make the copy. Raises KernelRefused where this process is not in it."""
    return _Maker(namespaces, live).make()


class _Maker:
    """What is made, bit by bit."""

    def __init__(self, namespaces: Namespaces, live: LiveNetwork) -> None:
        self._namespaces, self._live = namespaces, live
        self._by_index = {each.index: each for each in live.links}
        self._ways: dict[str, Way] = {}
        self._stand_ins: list[str] = []
        self._failures: list[str] = list(live.left_out)
        self._made = 0

    def make(self) -> NetworkCopy:
        """All of it, interfaces first."""
        with self._namespaces.enter_outside(), open_socket(_ROUTE_PROTOCOL) as netlink:
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                (SYSCTLS / "ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")
            send_request(netlink, _build_link(index=_LOOPBACK, up=True))
        with CopySession(self._namespaces, _ROUTE_PROTOCOL) as session:
            self._write_settings(_QUIET)
            session.send(_NEW_LINK, _link_payload(index=_LOOPBACK, up=True), 0)
            links = [each for each in self._live.links if not each.is_loopback]
            for link in sorted(links, key=lambda each: each.kind not in _MASTERS):
                with self._note_failure(f"the interface {link.name}"):
                    self._make_link(session, link)
            self._write_settings(self._live.settings)
            for link in links:
                with self._note_failure(f"the interface {link.name}"):
                    self._finish_link(session, link)
            for link in links:
                if link.kind == "bridge" and link.is_up and link.name not in self._ways:
                    with self._note_failure(f"a port of {link.name}"):
                        self._add_port(session, link)
            for message in self._live.addresses:
                self._copy_address(session, message)
            self._copy_rules(session)
            self._copy_routes(session)
        for link in links:
            if link.name in self._ways and self._get_master_kind(link) != "vrf":  # whose routes are elsewhere
                with self._note_failure(f"the routes to addresses of {link.name}"):
                    wait_for_local_routes(link.name)
        inner = {each.name for each in links if self._get_master_kind(each) in _TAKES_PACKETS}
        ways = tuple(each for name, each in self._ways.items() if name not in inner)
        return NetworkCopy(ways, tuple(self._stand_ins), tuple(dict.fromkeys(self._failures)))

    @contextlib.contextmanager
    def _note_failure(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, KernelRefused) as error:
            reason = error.message if isinstance(error, KernelRefused) else error.strerror
            self._failures.append(f"{what}: {reason}")

    def _get_master_kind(self, link: LiveLink) -> str | None:
        master = self._by_index.get(link.master or 0)
        return None if master is None else master.kind

    def _make_link(self, session: CopySession, link: LiveLink) -> None:
        if link.kind == "tun":
            self._make_tun(link)
        elif link.kind == "wireguard":
            self._make_wireguard(link)
        elif link.kind in _MASTERS:
            data = link.data if link.kind == "vrf" else _BRIDGE
            session.send(_NEW_LINK, _link_payload(link, kind=link.kind, data=data))
        else:
            self._make_pair(session, link.name, link)
            if link.kind != "veth":
                self._stand_ins.append(f"{link.name} ({link.kind or 'hardware'})")

    def _make_pair(self, session: CopySession, name: str, link: LiveLink | None = None) -> Way:
        far = self._name_far()
        peer = LINK.pack(0, 0, 0, 0, 0) + build_attribute(_NAME, far.encode() + b"\0")
        peer += build_attribute(_NAMESPACE, struct.pack("=i", self._namespaces.get_file("outside")))
        data = build_attribute(_VETH_PEER, peer)
        session.send(_NEW_LINK, _link_payload(link, kind="veth", data=data, name=name))
        with self._namespaces.enter_outside(), open_socket(_ROUTE_PROTOCOL) as netlink:
            send_request(netlink, _build_link(index=socket.if_nametoindex(far), up=True))
        way = self._ways[name] = Way(name, far=far, link_address=_read_link_address(name))
        return way

    def _name_far(self) -> str:
        """For the other end of one more interface."""
        self._made += 1
        return f"far{self._made}"

    def _make_tun(self, link: LiveLink) -> None:
        """The file is this process's: the interface ends with it."""
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._namespaces.verify_copy()
        fcntl.ioctl(tun, _SET_INDEX, struct.pack("=I", link.index))
        mode = _TAP if link.is_ethernet else _TUN
        fcntl.ioctl(tun, _SET_INTERFACE, struct.pack("16sH22x", link.name.encode(), mode | _NO_HEADER))
        link_address = _read_link_address(link.name) if link.is_ethernet else b""
        self._ways[link.name] = Way(link.name, tun=tun, link_address=link_address)

    def _make_wireguard(self, link: LiveLink) -> None:
        """Made outside, where its UDP socket stays: what it carries meets no rule of the copy on its way."""
        far, backend = self._name_far(), KernelWireGuard()
        keys = [Secret(b2a_base64(os.urandom(32), newline=False).decode()) for _ in range(2)]
        with self._namespaces.enter_outside():
            with open_socket(_ROUTE_PROTOCOL) as netlink:
                for name, index in ((link.name, link.index), (far, 0)):
                    made = _link_payload(kind="wireguard", name=name, index=index)
                    send_request(netlink, build_request(_NEW_LINK, ACK | CREATE, made))
            for number, name in enumerate((link.name, far)):
                backend.set_key(name, keys[number])
                port = _PORT + 2 * self._made
                backend.set_listen_port(name, port + number)
                peer = Peer(
                    public_key=derive_public_key(keys[1 - number]),
                    allowed_ips=("0.0.0.0/0", "::/0"),
                    endpoint=Endpoint("127.0.0.1", port + 1 - number),
                )
                backend.set_peers(name, [peer])
            with open_socket(_ROUTE_PROTOCOL) as netlink:
                moved = build_attribute(_NAMESPACE, struct.pack("=i", self._namespaces.get_file("copy")))
                send_request(netlink, build_request(_NEW_LINK, ACK, _link_payload(index=link.index) + moved))
                send_request(netlink, _build_link(index=socket.if_nametoindex(far), up=True))
        self._ways[link.name] = Way(link.name, far=far, is_wireguard=True)

    def _finish_link(self, session: CopySession, link: LiveLink) -> None:
        """What it belongs to, its size, and that it is up where it was."""
        wanted = build_attribute(_GROUP, struct.pack("=I", link.group))
        if self._get_master_kind(link) in _MASTERS:
            wanted += build_attribute(_MASTER, struct.pack("=I", link.master))
        session.send(_NEW_LINK, _link_payload(index=link.index, up=link.is_up) + wanted, 0)
        size = build_attribute(_MTU, struct.pack("=I", link.mtu))
        with contextlib.suppress(OSError):  # hardware takes some that a stand-in does not
            session.send(_NEW_LINK, _link_payload(index=link.index) + size, 0)
        if not link.is_up:
            self._ways.pop(link.name, None)
        elif self._get_master_kind(link) == "bridge" and link.name in self._ways:
            bridge = self._by_index[link.master or 0]
            port = self._ways[link.name]
            if bridge.is_up and bridge.name not in self._ways:
                self._ways[bridge.name] = _lead_to(bridge, port)

    def _add_port(self, session: CopySession, bridge: LiveLink) -> None:
        """A machine behind a bridge that has no port of its own."""
        name = f"qmdr{self._made}"
        port = self._make_pair(session, name)
        del self._ways[name]
        master = build_attribute(_MASTER, struct.pack("=I", bridge.index))
        index = socket.if_nametoindex(name)
        session.send(_NEW_LINK, _link_payload(index=index, up=True) + master, 0)
        self._ways[bridge.name] = _lead_to(bridge, port)

    def _write_settings(self, settings: Mapping[str, str]) -> None:
        """Forwarding first: it sets others. What this kernel does not have, or does not take, is left."""
        self._namespaces.verify_copy()
        for path in sorted(settings, key=lambda each: not each.endswith("/forwarding")):
            with contextlib.suppress(OSError):
                (SYSCTLS / path).write_text(settings[path], encoding="ascii")

    def _copy_address(self, session: CopySession, message: bytes) -> None:
        family, length, _, scope, index = ADDRESS.unpack_from(message, HEADER.size)
        link = self._by_index.get(index)
        if family not in {socket.AF_INET, socket.AF_INET6} or link is None:
            return
        found = dict(parse_attributes(message[HEADER.size + ADDRESS.size :]))
        flags = _NO_DETECTION if family == socket.AF_INET6 else 0
        payload = ADDRESS.pack(family, length, flags, scope, index) + _keep(found, _OF_ADDRESS)
        with self._note_failure(f"an address of {link.name}"), suppress_errnos(errno.EEXIST):
            session.send(_NEW_ADDRESS, payload)

    def _copy_rules(self, session: CopySession) -> None:
        for message in self._live.rules:
            head = message[HEADER.size : HEADER.size + ROUTE.size]
            found = dict(parse_attributes(message[HEADER.size + ROUTE.size :]))
            with self._note_failure("a policy rule"), suppress_errnos(errno.EEXIST):
                session.send(_NEW_RULE, head + _keep(found, found.keys() - _NOT_OF_RULE))

    def _copy_routes(self, session: CopySession) -> None:
        """Again and again, as one may need another; those that are left after that are counted."""
        waiting = [each for each in map(_render_route, self._live.routes) if each]
        failures: list[bytes] = []
        while waiting:
            failures = []
            for payload in waiting:
                try:
                    with suppress_errnos(errno.EEXIST):
                        session.send(_NEW_ROUTE, payload)
                except OSError:
                    failures.append(payload)
            if len(failures) == len(waiting):
                break
            waiting = failures
        if failures:
            self._failures.append(f"{len(failures)} routes")


def _lead_to(bridge: LiveLink, port: Way) -> Way:
    return Way(bridge.name, far=port.far, tun=port.tun, link_address=_read_link_address(bridge.name))


def _link_payload(
    link: LiveLink | None = None,
    *,
    kind: str = "",
    data: bytes = b"",
    name: str = "",
    index: int = 0,
    up: bool | None = None,
) -> bytes:
    """Of a new interface, or a change of one. link: whose number and address it has."""
    number = index if link is None else link.index
    payload = LINK.pack(0, 0, number, _UP if up else 0, 0 if up is None else _UP)
    if kind:
        payload += build_attribute(_NAME, (name or ("" if link is None else link.name)).encode() + b"\0")
        info = build_attribute(_INFO_KIND, kind.encode()) + build_attribute(_INFO_DATA, data)
        payload += build_attribute(_LINKINFO, info)
    if link is not None and len(link.link_address) == 6:
        payload += build_attribute(_LINK_ADDRESS, link.link_address)
    return payload


def _build_link(*, index: int, up: bool) -> bytes:
    return build_request(_NEW_LINK, ACK, _link_payload(index=index, up=up))


def _read_link_address(name: str) -> bytes:
    """Of an Ethernet interface in this namespace. Source: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        found: bytes = fcntl.ioctl(asked, 0x8927, struct.pack("16s24x", name.encode()))  # SIOCGIFHWADDR
    return found[18:24]


def _keep(found: Mapping[int, bytes], kept: Collection[int]) -> bytes:
    return b"".join(build_attribute(kind, value) for kind, value in found.items() if kind in kept)


def _render_route(message: bytes) -> bytes:
    """As it is made; empty for what the kernel makes by itself."""
    *lengths, table, protocol, scope, kind, flags = ROUTE.unpack_from(message, HEADER.size)
    if flags & _CLONED or (protocol == _BY_KERNEL and table == _LOCAL_TABLE):
        return b""
    found = dict(parse_attributes(message[HEADER.size + ROUTE.size :]))
    return ROUTE.pack(*lengths, table, protocol, scope, kind, flags & _ON_LINK) + _keep(found, _OF_ROUTE)
