"""What is fired in a drill, as octets, and how it is known again wherever it comes out."""

from __future__ import annotations

import struct
from itertools import product

import msgspec
import pytest

from qmesh.mesh.drill.frames import NEIGHBOUR, answer_question, read_frame, render_frame
from qmesh.mesh.drill.shots import (
    ACK,
    FIRST_NUMBER,
    SYN,
    Shot,
    Trace,
    compute_checksum,
    read_packet_trace,
    read_trace,
    render_shot,
)

NUMBER = FIRST_NUMBER + 7
IPV4 = Shot(
    way="eth0",
    source="192.0.2.9",
    target="192.0.2.2",
    protocol="tcp",
    source_port=1025,
    target_port=40000,
    flags=SYN | ACK,
)
IPV6 = msgspec.structs.replace(IPV4, source="2001:db8::9", target="2001:db8::2")
LINK = bytes.fromhex("020000000002")


def fragments_of(shot: Shot) -> list[bytes]:
    """What TCP or UDP is given, part by part, each checked for its place and whether more follow."""
    packets = render_shot(shot, NUMBER)
    parts, size = [], 0
    for packet in packets:
        if shot.version == 4:
            head = (packet[0] & 0xF) << 2
            (field,) = struct.unpack_from("!H", packet, 6)
            offset, has_more = (field & 0x1FFF) << 3, bool(field & 0x2000)
            assert compute_checksum(packet[:head]) == 0
        else:
            head = 40 if len(packets) == 1 and shot.shape == "whole" else 48
            (field,) = struct.unpack_from("!H", packet, 42)
            offset, has_more = (field & 0xFFF8, bool(field & 1)) if len(packets) > 1 else (0, False)
        assert offset == size
        assert has_more == (packet is not packets[-1])
        parts.append(packet[head:])
        size += len(parts[-1])
    return parts


@pytest.mark.parametrize("shape", ["whole", "fragments", "tiny fragments", "options"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("base", [IPV4, IPV6], ids=["IPv4", "IPv6"])
def test_a_shot_is_whole_however_it_is_cut_and_known_by_its_number(base, protocol, shape):
    shot = msgspec.structs.replace(base, protocol=protocol, shape=shape)
    parts = fragments_of(shot)
    assert (len(parts) > 1) == (shape in {"fragments", "tiny fragments"})
    content = b"".join(parts)
    number = 6 if protocol == "tcp" else 17
    ends = b"".join(
        each for packet in render_shot(shot, NUMBER)[:1] for each in (packet[12:20], packet[8:40])
    )
    ends = ends[:8] if shot.version == 4 else ends[8:]
    assert compute_checksum(ends + struct.pack("!II", len(content), number) + content) == 0
    assert struct.unpack_from("!HH", content) == (1025, 40000)
    assert read_trace(number, content) == Trace(NUMBER, 40000)


def test_what_comes_back_acknowledges_the_shot_before_it_so_that_the_kernel_knows_its_connection():
    back = msgspec.structs.replace(IPV4, protocol="tcp", flags=SYN | ACK)
    (answer,), (alone,) = render_shot(back, NUMBER + 1, NUMBER), render_shot(back, NUMBER + 1)
    assert struct.unpack_from("!II", answer, 24) == (NUMBER + 1, NUMBER + 1)
    assert struct.unpack_from("!II", alone, 24) == (NUMBER + 1, 1)
    assert read_packet_trace(answer) == Trace(NUMBER + 1, 40000)


@pytest.mark.parametrize("base", [IPV4, IPV6], ids=["IPv4", "IPv6"])
def test_a_packet_that_came_out_is_known_by_its_first_part_alone(base):
    for protocol, shape in product(("tcp", "udp"), ("whole", "options", "fragments")):
        shot = msgspec.structs.replace(base, protocol=protocol, shape=shape)
        first, *others = render_shot(shot, NUMBER)
        assert read_packet_trace(first) == Trace(NUMBER, 40000)
        assert [read_packet_trace(each) for each in others] == [None] * len(others)


def test_an_accepted_connection_is_known_by_what_it_acknowledges():
    answer = struct.pack("!HHIIBBHHH", 40000, 1025, 99, NUMBER + 1, 0x60, SYN | ACK, 64240, 0, 0)
    assert read_trace(6, answer) == Trace(NUMBER, 1025, is_answer=True)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        b"\x60",
        b"\x50" * 40,
        render_shot(IPV4, NUMBER)[0][:30],
        bytes([0x45, *[0] * 8, 1, *[0] * 30]),
        b"\x60" + bytes(5) + b"\x2c" + bytes(34),
    ],
)
def test_what_is_no_shot_is_none(packet):
    assert read_packet_trace(packet) is None


def test_other_tcp_and_udp_are_no_shots():
    assert read_trace(6, struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, ACK, 64240, 0, 0)) is None
    assert read_trace(17, bytes(30)) is None
    assert read_trace(17, bytes(9)) is None


@pytest.mark.parametrize(
    ("target", "link"),
    [
        ("192.0.2.2", LINK),
        ("255.255.255.255", b"\xff" * 6),
        ("224.0.0.251", bytes.fromhex("01005e0000fb")),
        ("2001:db8::2", LINK),
        ("ff02::1", bytes.fromhex("333300000001")),
    ],
)
def test_a_frame_is_for_the_machine_or_for_the_group(target, link):
    base = IPV6 if ":" in target else IPV4
    (packet,) = render_shot(msgspec.structs.replace(base, target=target), NUMBER)
    frame = render_frame(packet, LINK)
    assert (frame[:6], frame[6:12]) == (link, NEIGHBOUR)
    assert read_frame(frame) == packet


def test_a_frame_with_no_packet_has_none():
    assert read_frame(b"short") == b""
    assert read_frame(bytes(12) + b"\x08\x06" + bytes(28)) == b""


def ask(operation: int, asking: bytes, asked: bytes) -> bytes:
    content = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, LINK, asking, bytes(6), asked)
    return b"\xff" * 6 + LINK + b"\x08\x06" + content


def test_who_asks_for_a_neighbour_over_ipv4_is_told_that_it_is_here():
    answer = answer_question(ask(1, bytes([192, 0, 2, 2]), bytes([192, 0, 2, 9])))
    assert answer is not None
    assert answer[:12] == LINK + NEIGHBOUR
    assert answer[20:22] == b"\0\2"
    assert answer[22:32] == NEIGHBOUR + bytes([192, 0, 2, 9])
    assert answer_question(ask(2, bytes(4), bytes([192, 0, 2, 9]))) is None
    assert answer_question(ask(1, bytes([192, 0, 2, 2]), bytes([192, 0, 2, 2]))) is None


def solicit(asking: bytes, kind: int = 135) -> bytes:
    packet = struct.pack("!IHBB", 6 << 28, 24, 58, 255) + asking + b"\xff\x02" + bytes(14)
    return (
        b"\x33\x33" + bytes(4) + LINK + b"\x86\xdd" + packet + bytes([kind]) + bytes(7) + b"\x20" + bytes(15)
    )


def test_who_asks_for_a_neighbour_over_ipv6_is_told_that_it_is_here():
    answer = answer_question(solicit(b"\x20\x01" + bytes(14)))
    assert answer is not None
    assert answer[:12] == LINK + NEIGHBOUR
    packet = answer[14:]
    pseudo = packet[8:40] + struct.pack("!II", len(packet) - 40, 58)
    assert compute_checksum(pseudo + packet[40:]) == 0
    assert (packet[40], packet[48:50], packet[-6:]) == (136, b"\x20\0", NEIGHBOUR)
    assert answer_question(solicit(bytes(16))) is None  # looks whether an address is taken
    assert answer_question(solicit(b"\x20\x01" + bytes(14), kind=136)) is None


def test_what_asks_for_nobody_has_no_answer():
    (packet,) = render_shot(IPV4, NUMBER)
    assert answer_question(render_frame(packet, LINK)) is None
    assert answer_question(b"short") is None
