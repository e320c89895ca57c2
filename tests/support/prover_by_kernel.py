"""The prover's word and the kernel's on the same packets under the same rules.

Packets are written into interfaces of a machine of the test's own. What comes past all rules is read at raw
sockets, which see it whichever port it is for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import socket
import struct
import subprocess
from collections.abc import Iterable, Sequence
from random import Random
from typing import Final, NamedTuple, Self

from qmesh.errors import KernelRefused
from qmesh.host.firewall import nftables
from qmesh.host.network.kernel_routes.tunnel import wait_for_local_routes
from qmesh.host.prover.ruleset_file import ReadRules, read_live_rules, read_routes
from qmesh.mesh.prover.rulesets import build_ruleset
from qmesh.mesh.prover.traveller import Family
from tests.support.foreign_cases import Fate
from tests.support.random_rules import INTERFACES, PORTS, draw_ruleset
from tests.support.rule_sets import Backend, RuleSet
from tests.support.sent_packets import Judge, SentPacket, draw_packets
from tests.support.waiting import patience
from tests.support.wide_rules import DrawnRules, draw_wide_ruleset

_LINK: Final = bytes.fromhex("020000000002020000000001")
_TYPES: Final = {"ip": b"\x08\x00", "ip6": b"\x86\xdd"}
_SETTLED_S: Final = 0.02
_ADDRESSES: Final = {"qmesh0": ("10.77.0.2/24", "fd77::2/64"), "eth0": ("192.0.2.2/24", "2001:db8::2/64")}
_FAMILIES: Final[tuple[Family, ...]] = ("ip", "ip6")
_ROUTES: Final = (
    "route add 198.51.0.0/16 dev eth0", "route add 198.51.128.0/17 dev eth10",
    "route add unreachable 203.0.113.0/25", "route add default dev eth10", "rule add fwmark 2 lookup 100",
    "route add 203.0.113.0/24 dev qmesh0 table 100",
    "-6 route add 2001:db8:1::/48 dev eth10", "-6 route add 2001:db8:1:8000::/49 dev eth0",
    "-6 rule add fwmark 1 lookup 100", "-6 route add 2001:db8:1::/48 dev qmesh0 table 100",
)  # fmt: skip
"""By which sources of packets are reached, or not."""
_QUIET: Final = ("ipv4.conf.all.rp_filter", "ipv4.conf.default.rp_filter", "ipv6.conf.default.accept_dad")


class PacketInlet:
    """Interfaces into which packets are written, and where they come out; to be closed."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        for setting in _QUIET:
            _run(f"sysctl -qw net.{setting}=0")
        self._ends = {name: self._open_interface(name) for name in INTERFACES}
        for name, addresses in _ADDRESSES.items():
            for address in addresses:
                _run(f"ip addr add {address} dev {name}{' nodad' if ':' in address else ''}")
            wait_for_local_routes(name)
        for route in _ROUTES:
            _run(f"ip {route}")
        self._raw = [
            self._open_raw(family, protocol)
            for family in (socket.AF_INET, socket.AF_INET6)
            for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open_interface(self, name: str) -> int:
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._stack.callback(os.close, end)
        mode = 0x1001 if name == "qmesh0" else 0x1002  # IFF_NO_PI with IFF_TUN or IFF_TAP
        fcntl.ioctl(end, 0x400454CA, struct.pack("16sH22x", name.encode(), mode))  # TUNSETIFF
        if name != "qmesh0":
            _run(f"ip link set {name} address 02:00:00:00:00:02")
        _run(f"ip link set {name} up")
        return end

    def _open_raw(self, family: socket.AddressFamily, protocol: int) -> socket.socket:
        found = self._stack.enter_context(socket.socket(family, socket.SOCK_RAW, protocol))
        found.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        found.setblocking(False)
        return found

    def send(self, packets: Sequence[SentPacket], *, wait_s: float = _SETTLED_S) -> set[int]:
        """The numbers of those that came past all rules."""
        for packet in packets:
            content = b"".join(packet.build())
            if packet.interface != "qmesh0":
                content = _LINK + _TYPES[packet.family] + content
            os.write(self._ends[packet.interface], content)
        came: set[int] = set()
        while ready := select.select(self._raw, [], [], wait_s)[0]:
            for each in ready:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        came.add(_read_number(each, each.recv(2000)))
        return came


def _read_number(raw: socket.socket, content: bytes) -> int:
    if raw.family == socket.AF_INET:
        content = content[20:]
    place = 8 if raw.proto == socket.IPPROTO_UDP else 4
    return int(struct.unpack_from("!I", content, place)[0])


class Comparison(NamedTuple):
    """What was compared: rulesets, packets, and how many of these came through.

    unlike: those on which the two do not agree. refused: rulesets that nft does not load. open: packets of
    which the prover does not say what becomes, beside the others.
    """

    rulesets: int
    packets: int
    passed: int
    unlike: tuple[str, ...]
    refused: int
    open: int = 0


def compare_wide(seeds: Iterable[int], count: int) -> Comparison:
    """Under each seed's rules of all kinds, so many packets. What is left open is not compared."""
    rulesets = packets = passed = refused = unclear = 0
    unlike: list[str] = []
    with PacketInlet() as inlet:
        for seed in seeds:
            drawn = draw_wide_ruleset(seed)
            tables, left_out = _load_wide(drawn)
            refused += left_out
            random = Random(seed)  # noqa: S311 - nothing secret
            sent = draw_packets(random, count, 1 + rulesets * count, ports=(*PORTS, *drawn.ports[:40]))
            came = inlet.send(sent)
            rules = read_live_rules()
            ruleset = build_ruleset(rules.listing, rules.sets, read_routes(rules.listing.rules))
            for family in _FAMILIES:
                judge_family = Judge(ruleset, family, rules.listing.interfaces)
                asked = [packet for packet in sent if packet.family == family]
                for packet, fate in zip(asked, judge_family.list_fates(asked), strict=True):
                    if fate == "unclear":
                        unclear += 1
                        continue
                    packets += 1
                    passed += packet.number in came
                    if (packet.number in came) is not (fate == "passes") and not _is_late(
                        inlet, packet, fate
                    ):
                        unlike.append(_describe_unlike(inlet, seed, drawn, tables, packet, fate))
            rulesets += 1
            _unload_wide(drawn)
    return Comparison(rulesets, packets, passed, tuple(unlike), refused, unclear)


def _is_late(inlet: PacketInlet, packet: SentPacket, fate: Fate) -> bool:
    """Whether with more patience the kernel says the same."""
    return bool(inlet.send([packet], wait_s=patience(0.3))) is (fate == "passes")


def _load_wide(drawn: DrawnRules) -> tuple[list[str], int]:
    """The tables as they were loaded, without the rules that nft does not take; how many rules these are."""
    nftables.run("flush ruleset\n")
    loaded, left_out = [], 0
    if drawn.file is not None:
        try:
            RuleSet(drawn.file, _BACKENDS[drawn.file.suffix]).load()
        except (KernelRefused, subprocess.CalledProcessError):  # of an interface that is not there
            left_out += 1
    for program, rules in drawn.xtables:
        subprocess.run([program, "--noflush"], input=rules, text=True, check=True)
    for text in drawn.tables:
        lines = text.split("\n")
        while lines:
            try:
                nftables.run("\n".join(lines))
            except KernelRefused as error:
                place = re.search(r":(\d+):\d+", error.message)
                if place is None or not lines[int(place[1]) - 1].startswith("\t\t"):
                    lines = []
                else:
                    del lines[int(place[1]) - 1]
                left_out += 1
                continue
            loaded.append("\n".join(lines))
            break
    return loaded, left_out


_BACKENDS: Final[dict[str, Backend]] = {
    ".nft": "nft", ".iptables": "iptables-nft", ".ip6tables": "ip6tables-nft",
}  # fmt: skip


def _unload_wide(drawn: DrawnRules) -> None:
    if drawn.file is None:
        nftables.run("flush ruleset\n")
    else:
        RuleSet(drawn.file, _BACKENDS[drawn.file.suffix]).unload()


def _describe_unlike(
    inlet: PacketInlet, seed: int, drawn: DrawnRules, tables: list[str], packet: SentPacket, fate: Fate
) -> str:
    """With the fewest tables and rules under which they still do not agree."""
    words = f"seed {seed}: the prover says that it {fate}: {packet}"
    if not _is_unlike(inlet, tables, packet):  # it needs the other program's rules, or both
        beside = "" if drawn.file is None else f" beside {drawn.file.name}"
        return "\n".join([words + beside, *tables])
    kept = [line for table in tables for line in table.split("\n")]
    parts = [table.count("\n") + 1 for table in tables]
    start = len(kept)
    for count in reversed(parts):  # whole tables first, the last one first
        start -= count
        fewer = kept[:start] + kept[start + count :]
        kept = fewer if _is_unlike(inlet, fewer, packet) else kept
    for place in reversed(range(len(kept))):
        fewer = kept[:place] + kept[place + 1 :]
        if kept[place].startswith("\t\t") and _is_unlike(inlet, fewer, packet):
            kept = fewer
    return "\n".join([words, *kept])


def _is_unlike(inlet: PacketInlet, lines: Sequence[str], packet: SentPacket) -> bool:
    try:
        nftables.run("\n".join(["flush ruleset", *lines, ""]))
    except KernelRefused:
        return False
    rules = read_live_rules()
    ruleset = build_ruleset(rules.listing, rules.sets, read_routes(rules.listing.rules))
    (fate,) = Judge(ruleset, packet.family, rules.listing.interfaces).list_fates([packet])
    return fate != "unclear" and bool(inlet.send([packet], wait_s=patience(0.3))) is not (fate == "passes")


def compare(seeds: Iterable[int], count: int) -> Comparison:
    """Under each seed's rules, so many packets."""
    rulesets = packets = passed = refused = 0
    unlike: list[str] = []
    with PacketInlet() as inlet:
        for seed in seeds:
            try:
                nftables.run(f"flush ruleset\n{draw_ruleset(seed)}")
            except KernelRefused:
                refused += 1
                continue
            sent = draw_packets(Random(seed), count, packets + 1)  # noqa: S311 - nothing secret
            came = inlet.send(sent)
            for packet, is_alive in _judge_many(read_live_rules(), sent):
                has_come = packet.number in came
                if has_come is not is_alive:  # once more, with more patience
                    has_come = bool(inlet.send([packet], wait_s=patience(0.3)))
                if has_come is not is_alive:
                    words = f"the kernel says {has_come}, the prover {is_alive}"
                    unlike.append(f"seed {seed}: {words}: {packet}")
                passed += has_come
            rulesets, packets = rulesets + 1, packets + len(sent)
    return Comparison(rulesets, packets, passed, tuple(unlike), refused)


def judge(rules: ReadRules, sent: Sequence[SentPacket]) -> list[tuple[SentPacket, Fate]]:
    """Of each packet what becomes of it under these rules, as the prover says."""
    ruleset = build_ruleset(rules.listing, rules.sets, read_routes(rules.listing.rules))
    judges = {family: Judge(ruleset, family, rules.listing.interfaces) for family in _FAMILIES}
    return [(packet, judges[packet.family].find_fate(packet)) for packet in sent]


def _judge_many(rules: ReadRules, sent: Sequence[SentPacket]) -> list[tuple[SentPacket, bool]]:
    """The same, quickly, where there is nothing that is not understood."""
    ruleset = build_ruleset(rules.listing, rules.sets, read_routes(rules.listing.rules))
    found: list[tuple[SentPacket, bool]] = []
    for family in _FAMILIES:
        asked = [packet for packet in sent if packet.family == family]
        judged = Judge(ruleset, family, rules.listing.interfaces).list_alive(asked)
        found += zip(asked, judged, strict=True)
    return found


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)
