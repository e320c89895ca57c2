"""Packets that are fired at a copy of this machine, as octets, and how one is known again.

Each has a number of its own, which survives address translation: in TCP the sequence number, in UDP the
content. Source: RFC 791, 768, 8200, 9293.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final, Literal, TypeAlias

import msgspec

FIN, SYN, RST, PUSH, ACK, URGENT = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
Shape: TypeAlias = Literal["whole", "fragments", "tiny fragments", "options"]
"""`tiny fragments`: the first ends before TCP's flags. `options`: in IPv6 destination options come before TCP
or UDP, in IPv4 the header has three octets of nothing and the end of a list."""
_TCP, _UDP = 6, 17
_FRAGMENT, _OPTIONS = 44, 60  # IPv6's next header
_MORE_FRAGMENTS: Final = 1
_WINDOW: Final = 0x5144
"""Of every TCP packet: beside the number, by which no packet of the kernel's own is taken for one."""
_CONTENT: Final = struct.Struct("!4sI4x")
_MAGIC: Final = b"qmdr"
FIRST_NUMBER: Final = 0x20000000


class Shot(msgspec.Struct, frozen=True, kw_only=True):
    """One packet.

    way: the interface by which it comes in; None for one that a program of the machine sends.
    flags: of TCP.
    user: whose program sends it, where `way` is None.
    device: the interface that this program binds itself to, or "".
    """

    way: str | None
    source: str
    target: str
    protocol: Literal["tcp", "udp"]
    source_port: int
    target_port: int
    flags: int = 0
    shape: Shape = "whole"
    user: int = 0
    device: str = ""

    @property
    def version(self) -> Literal[4, 6]:
        """Of IP."""
        return 6 if ":" in self.target else 4


class Fate(msgspec.Struct, frozen=True):
    """What became of a shot.

    ports: at which it was given to the machine's own TCP or UDP.
    left: the interfaces by which it came out; out_ports: to which ports, as address translation made them.
    is_answered: whether its connection was accepted, and that came out, or came to the machine itself.
    """

    ports: tuple[int, ...] = ()
    left: tuple[str, ...] = ()
    out_ports: tuple[int, ...] = ()
    is_answered: bool = False


def render_shot(shot: Shot, number: int, answered: int = 0) -> tuple[bytes, ...]:
    """The IP packets that it consists of. number: from FIRST_NUMBER on.

    answered: the number of the last shot that came the other way of its connection, or 0.
    """
    source, target = _pack_address(shot.source), _pack_address(shot.target)
    protocol = _TCP if shot.protocol == "tcp" else _UDP
    is_tcp = protocol == _TCP
    content = _render_tcp(shot, number, answered) if is_tcp else _render_udp(shot, number)
    pseudo = source + target + struct.pack("!II", len(content), protocol)
    place = 16 if protocol == _TCP else 6
    # Of UDP 0 would mean that there is none.
    check = compute_checksum(pseudo + content) or 0xFFFF
    content = content[:place] + struct.pack("!H", check) + content[place + 2 :]
    render = _render_ipv4 if shot.version == 4 else _render_ipv6
    return tuple(render(shot, number, source + target, protocol, content))


@functools.lru_cache(maxsize=1024)
def _pack_address(text: str) -> bytes:
    return ip_address(text).packed


def _render_tcp(shot: Shot, number: int, answered: int) -> bytes:
    acknowledged = answered + 1 if shot.flags & ACK else 0
    return struct.pack(
        "!HHIIBBHHH",
        shot.source_port,
        shot.target_port,
        number,
        acknowledged,
        0x50,
        shot.flags,
        _WINDOW,
        0,
        0,
    ) + (b"" if shot.shape == "whole" else bytes(24))


def _render_udp(shot: Shot, number: int) -> bytes:
    content = _CONTENT.pack(_MAGIC, number) + (b"" if shot.shape == "whole" else bytes(24))
    return struct.pack("!HHHH", shot.source_port, shot.target_port, 8 + len(content), 0) + content


def _render_ipv4(shot: Shot, number: int, ends: bytes, protocol: int, content: bytes) -> Iterator[bytes]:
    options = b"\x01\x01\x01\x00" if shot.shape == "options" else b""
    for start, part, has_more in _split(shot, content):
        fragment = start >> 3 | (0x2000 if has_more else 0)
        size = 20 + len(options)
        head = struct.pack(
            "!BBHHHBBH",
            0x40 | size >> 2,
            0,
            size + len(part),
            number & 0xFFFF,
            fragment,
            64,
            protocol,
            0,
        )
        whole = head + ends + options
        yield whole[:10] + struct.pack("!H", compute_checksum(whole)) + whole[12:] + part


def _render_ipv6(shot: Shot, number: int, ends: bytes, protocol: int, content: bytes) -> Iterator[bytes]:
    for start, part, has_more in _split(shot, content):
        following, before = protocol, b""
        if shot.shape == "options":
            following, before = _OPTIONS, struct.pack("!BBBB4x", protocol, 0, 1, 4)
        elif shot.shape != "whole":
            following = _FRAGMENT
            before = struct.pack("!BBHI", protocol, 0, start | (_MORE_FRAGMENTS if has_more else 0), number)
        yield struct.pack("!IHBB", 6 << 28, len(before + part), following, 64) + ends + before + part


def _split(shot: Shot, content: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Each part with where it begins, and whether more follow."""
    size = {"fragments": 24, "tiny fragments": 8}.get(shot.shape, len(content))
    for start in range(0, len(content), size):
        yield start, content[start : start + size], start + size < len(content)


def compute_checksum(octets: bytes) -> int:
    """The internet checksum. Source: RFC 1071."""
    octets += bytes(len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


class Trace(msgspec.Struct, frozen=True):
    """What a packet that was seen has to do with a shot.

    port: to which it goes. is_answer: whether it accepts the shot's connection.
    """

    number: int
    port: int
    is_answer: bool = False


def read_packet_trace(packet: bytes) -> Trace | None:
    """Of which shot this IP packet is, wherever it was translated to; None for any other."""
    if not packet:
        return None
    version = packet[0] >> 4
    if version == 4 and len(packet) >= 20:
        if packet[6] & 0x1F or packet[7]:  # a later fragment
            return None
        return read_trace(packet[9], packet[(packet[0] & 0xF) << 2 :])
    if version == 6 and len(packet) >= 40:
        protocol, rest = packet[6], packet[40:]
        while protocol in {_FRAGMENT, _OPTIONS} and len(rest) >= 8:
            if protocol == _FRAGMENT and (rest[2] or rest[3] & 0xF8):
                return None
            protocol, rest = rest[0], rest[8 if protocol == _FRAGMENT else (rest[1] + 1) << 3 :]
        return read_trace(protocol, rest)
    return None


def read_trace(protocol: int, content: bytes) -> Trace | None:
    """The same of what TCP or UDP is given."""
    if protocol == _UDP and len(content) >= 8 + _CONTENT.size:
        magic, number = _CONTENT.unpack_from(content, 8)
        return Trace(number, _read_port(content)) if magic == _MAGIC else None
    if protocol == _TCP and len(content) >= 16:
        number, acknowledged = struct.unpack_from("!II", content, 4)
        (window,) = struct.unpack_from("!H", content, 14)
        if window == _WINDOW:
            return Trace(number, _read_port(content))
        if content[13] & (SYN | ACK) == SYN | ACK:
            return Trace(acknowledged - 1, _read_port(content), is_answer=True)
    return None


def _read_port(content: bytes) -> int:
    return int.from_bytes(content[2:4], "big")
