"""The tables of iptables-legacy, as the kernel gives them out: one block of entries each.

Source: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h, linux/netfilter/x_tables.h.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from qmesh.mesh.foreign.packets import PROTOCOL_NUMBERS
from qmesh.mesh.foreign.rules import Chain, Ending, Evaluation, Outcome, Rule, Table, UnclearRule
from qmesh.mesh.foreign.values import Truth, all_of
from qmesh.mesh.foreign.xtables.match_types import Match
from qmesh.mesh.foreign.xtables.matches import build_match
from qmesh.mesh.foreign.xtables.targets import Target, build_target

INFO: Final = struct.Struct("=32sI5I5III")
"""ipt_getinfo: name, hooks, where each one's entries begin and end, how many entries, and their bytes."""
_HOOKS: Final = (
    ("PREROUTING", "prerouting"), ("INPUT", "input"), ("FORWARD", "forward"), ("OUTPUT", "output"),
    ("POSTROUTING", "postrouting"),
)  # fmt: skip
_PRIORITIES: Final = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
_ENDINGS: Final[dict[int, Ending]] = {-1: "drop", -2: "accept", -5: "return"}
_GOTO: Final = {"ip": 2, "ip6": 4}
_PART: Final = struct.Struct("=H29sB")
"""Before each match and target: its size with this, its name and revision."""


class _Layout(NamedTuple):
    """Where an entry of a family has what. address: its bytes."""

    address: int
    protocol: int
    flags: int
    offsets: int
    content: int


_LAYOUTS: Final = {
    "ip": _Layout(address=4, protocol=80, flags=82, offsets=88, content=112),
    "ip6": _Layout(address=16, protocol=128, flags=131, offsets=140, content=168),
}


class _Part(NamedTuple):
    name: str
    revision: int
    content: bytes


class _Entry(NamedTuple):
    """A rule. start, size: bytes. head: what it asks of the header."""

    start: int
    size: int
    head: bytes
    matches: tuple[_Part, ...]
    target: _Part


class LegacyBlock(msgspec.Struct, frozen=True):
    """A table as the kernel gives it. info: as IPT_SO_GET_INFO tells it; block: its entries."""

    family: str
    info: bytes
    block: bytes


def parse_legacy_table(found: LegacyBlock) -> Table:
    """One table. Raises ValueError, LookupError or struct.error for what is none."""
    family, block = found.family, found.block
    name, valid, *places, _, _ = INFO.unpack(found.info)
    text = name.rstrip(b"\0").split(b"\0")[0].decode("ascii")
    entries = list(_list_entries(family, block))
    begins = {places[number]: chain for number, (chain, _) in enumerate(_HOOKS) if valid & 1 << number}
    ends = {places[5 + number] for number in range(len(_HOOKS)) if valid & 1 << number}
    starts = dict(_list_chains(entries, begins))
    chains: dict[str, Chain] = {}
    rules: list[Rule] = []
    current = ""
    for entry in entries:
        if entry.start in begins:
            current, rules = begins[entry.start], []
        if entry.target.name == "ERROR":  # before a chain's first rule, and after the last chain
            current, rules = starts.get(entry.start + entry.size, ""), []
            chains[current] = Chain(name=current)
        elif entry.start in ends:
            chains[current] = _build_base_chain(text, current, tuple(rules), entry)
        else:
            rules.append(_build_rule(family, entry, starts))
            chains[current] = Chain(name=current, rules=tuple(rules))
    chains.pop("", None)
    return Table(program="iptables-legacy", family=family, name=text, chains=chains)


def clear_counters(found: LegacyBlock) -> bytes:
    """A table's octets without what packets and the kernel change. Raises as `parse_legacy_table`."""
    layout, cleared = _LAYOUTS[found.family], bytearray(found.block)
    for entry in _list_entries(found.family, found.block):
        first, end = entry.start + layout.offsets + 4, entry.start + layout.content
        cleared[first:end] = bytes(end - first)  # comefrom and counters
    return found.info + cleared


def _list_chains(entries: list[_Entry], begins: dict[int, str]) -> Iterator[tuple[int, str]]:
    """Where each chain's first rule is, and its name."""
    yield from begins.items()
    for entry, following in itertools.pairwise(entries):
        if entry.target.name == "ERROR":
            yield following.start, entry.target.content.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _list_entries(family: str, block: bytes) -> Iterator[_Entry]:
    layout, start = _LAYOUTS[family], 0
    while start < len(block):
        target, following = struct.unpack_from("=HH", block, start + layout.offsets)
        if not layout.content <= target < following:
            raise ValueError("an entry breaks off")
        parts = list(_list_parts(block, start + layout.content, start + target))
        (end,) = _list_parts(block, start + target, start + following)
        yield _Entry(start, following, block[start : start + layout.content], tuple(parts), end)
        start += following


def _list_parts(block: bytes, start: int, end: int) -> Iterator[_Part]:
    while start < end:
        size, name, revision = _PART.unpack_from(block, start)
        if size < _PART.size:
            raise ValueError("a match breaks off")
        yield _Part(name.split(b"\0")[0].decode("ascii"), revision, block[start + _PART.size : start + size])
        start += size


def _build_base_chain(table: str, name: str, rules: tuple[Rule, ...], policy: _Entry) -> Chain:
    hook = dict(_HOOKS)[name]
    is_after = table == "nat" and hook in {"input", "postrouting"}
    return Chain(
        name=name,
        rules=rules,
        hook=hook,
        kind="nat" if table == "nat" else "filter",
        priority=100 if is_after else _PRIORITIES.get(table, 0),
        drops=_ENDINGS.get(_read_verdict(policy)) == "drop",
    )


def _read_verdict(entry: _Entry) -> int:
    return int(struct.unpack_from("=i", entry.target.content)[0])


def _build_rule(family: str, entry: _Entry, starts: dict[int, str]) -> Rule:
    try:
        return _LegacyRule(family, entry, starts)
    except (LookupError, ValueError, struct.error):
        return UnclearRule(_render_rule(family, entry, "?"))


def _render_rule(family: str, entry: _Entry, ending: str) -> str:
    """In words like iptables-save's, as far as there are some."""
    layout = _LAYOUTS[family]
    (protocol,) = struct.unpack_from("=H", entry.head, layout.protocol)
    inputs, outputs = (entry.head[place : place + 16].split(b"\0")[0] for place in _interface_places(layout))
    words = [*([f"-p {protocol}"] if protocol else [])]
    words += [f"-i {inputs.decode('utf-8', 'backslashreplace')}"] if inputs else []
    words += [f"-o {outputs.decode('utf-8', 'backslashreplace')}"] if outputs else []
    words += [_render_match(each) for each in entry.matches]
    return " ".join([*words, f"-j {ending}"])


def _render_match(part: _Part) -> str:
    if part.name in {"tcp", "udp"}:
        first, last = struct.unpack_from("=4xHH", part.content)
        ports = (
            f" --dport {first}"
            if first == last
            else ""
            if (first, last) == (0, 65535)
            else f" --dport {first}:{last}"
        )
        return f"-m {part.name}{ports}"
    return f"-m {part.name}"


def _interface_places(layout: _Layout) -> tuple[int, int]:
    return 4 * layout.address, 4 * layout.address + 16


class _LegacyRule:
    """A rule; as `rules.Rule` is."""

    def __init__(self, family: str, entry: _Entry, starts: dict[int, str]) -> None:
        layout = _LAYOUTS[family]
        self.handle: int | None = None
        self._family = family
        self._entry = entry
        self._layout = layout
        (self._protocol,) = struct.unpack_from("=H", entry.head, layout.protocol)
        flags, self._inverted = entry.head[layout.flags], entry.head[layout.flags + 1]
        self._matches: tuple[Match, ...] = tuple(build_match(*each) for each in entry.matches)
        self._ending: Ending = "continue"
        self._chain = ""
        self._target: Target | None = None
        if entry.target.name:
            self._target = build_target(*entry.target)
        else:
            verdict = _read_verdict(entry)
            if verdict < 0:
                self._ending = _ENDINGS.get(verdict, "unclear")
            elif verdict != entry.start + entry.size:  # else it has no target
                self._ending = "goto" if flags & _GOTO[family] else "jump"
                self._chain = starts[verdict]

    @property
    def text(self) -> str:
        """In words like iptables-save's."""
        ending = self._entry.target.name or self._chain or self._ending.upper()
        return _render_rule(self._family, self._entry, ending)

    def judge(self, at: Evaluation) -> Outcome:
        """What becomes of a packet here. Raises whatever odd matches raise."""
        truth, is_limit = self._match_head(at), True
        for match in self._matches:
            if truth is False:
                break
            at.asked_limit = False
            found = match(at)
            if found is None:
                is_limit = is_limit and at.asked_limit
            truth = all_of((truth, found))
        if truth is False:
            return Outcome(truth=False)
        ending = self._ending
        if self._target is not None:
            ending = self._target(at, is_certain=truth is True)
        return Outcome(truth, ending, self._chain, is_limit=truth is None and is_limit)

    def _match_head(self, at: Evaluation) -> Truth:
        size, packet, head = self._layout.address, at.packet, self._entry.head
        source, target, source_mask, target_mask = (
            head[place : place + size] for place in range(0, 4 * size, size)
        )
        inputs, outputs = _interface_places(self._layout)
        protocol = self._protocol == PROTOCOL_NUMBERS[packet.protocol]
        return all(
            (
                _is_alike(packet.packed_source, source, source_mask) is not bool(self._inverted & 0x08),
                _is_alike(packet.packed_target, target, target_mask) is not bool(self._inverted & 0x10),
                _is_alike(_pad_name(packet.iif), head[inputs:outputs], head[inputs + 32 : outputs + 32])
                is not bool(self._inverted & 0x01),
                _is_alike(
                    _pad_name(packet.oif), head[outputs : outputs + 16], head[outputs + 32 : outputs + 48]
                )
                is not bool(self._inverted & 0x02),
                not self._protocol or protocol is not bool(self._inverted & 0x40),
                not self._asks_fragment(),
            )
        )

    def _asks_fragment(self) -> bool:
        """Whether it means the later parts of a packet: the mesh's are whole."""
        is_asked = self._family == "ip" and bool(self._entry.head[self._layout.flags] & 1)
        return is_asked and not self._inverted & 0x20


def _pad_name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape").ljust(16, b"\0")


def _is_alike(found: bytes, wanted: bytes, mask: bytes) -> bool:
    return all((a ^ b) & m == 0 for a, b, m in zip(found, wanted, mask, strict=False))
