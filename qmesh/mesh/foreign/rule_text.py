"""A rule of the kernel in words like nft's, to be shown. An expression that has no words here is a name."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import Final

from qmesh.mesh.foreign.expressions import Attributes, read_data, read_number, read_verdict
from qmesh.mesh.foreign.packet_fields import ORDER, STATES

_HEADER_FIELDS: Final = {
    (1, 12, 4): "ip saddr", (1, 16, 4): "ip daddr", (1, 9, 1): "ip protocol", (1, 8, 1): "ip ttl",
    (1, 8, 16): "ip6 saddr", (1, 24, 16): "ip6 daddr", (1, 6, 1): "ip6 nexthdr",
    (2, 0, 2): "th sport", (2, 2, 2): "th dport", (2, 13, 1): "tcp flags", (2, 0, 1): "icmp type",
}  # fmt: skip
_META: Final = {
    0: "length", 1: "protocol", 3: "mark", 4: "iif", 5: "oif", 6: "iifname", 7: "oifname", 8: "iiftype",
    9: "oiftype", 10: "skuid", 11: "skgid", 15: "nfproto", 16: "l4proto", 19: "pkttype", 20: "cpu",
    23: "cgroup",
    26: "iifkind", 27: "oifkind",
}  # fmt: skip
_PLAIN_META: Final = {"iif", "oif", "iifname", "oifname"}
_CT: Final = {0: "state", 1: "direction", 2: "status", 3: "mark", 8: "saddr", 9: "daddr", 17: "zone"}
_FIB: Final = {1: "oif", 2: "oifname", 3: "type"}
_ADDRESS_TYPES: Final = {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast"}
"""RTN_*. Source: linux/rtnetlink.h."""
_OPERATORS: Final = ("", "!= ", "< ", "<= ", "> ", ">= ")
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}
_VERDICTS: Final = {-5: "return", -4: "goto", -3: "jump", -1: "continue", 0: "drop", 1: "accept"}
_UNITS: Final = {1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}
_NUMERIC: Final = {
    "meta mark",
    "meta skuid",
    "meta skgid",
    "meta cpu",
    "ct mark",
    "ct direction",
    "ct status",
}
_MOST: Final = 1000
"""Characters of one rule."""


def render_rule(expressions: Iterable[tuple[str, Attributes]]) -> str:
    """One rule. expressions: names and attributes, as the kernel lists them."""
    writer = _RuleWriter()
    for name, attributes in expressions:
        try:
            writer.add(name, attributes)
        except (LookupError, ValueError, struct.error):
            writer.words.append(name)
    return " ".join(writer.words)[:_MOST] or "a rule without a condition"


class _RuleWriter:
    def __init__(self) -> None:
        self.words: list[str] = []
        self._fields: dict[int, str] = {}
        self._protocol = "th"
        self._icmp = "icmp"

    def add(self, name: str, attributes: Attributes) -> None:  # noqa: C901, PLR0912 - a case for each
        """Add one expression; many only load what a later one compares."""
        match name:
            case "payload" if 1 in attributes:
                place = (read_number(attributes, 2), read_number(attributes, 3), read_number(attributes, 4))
                text = _name_header_field(*place)
                text = text.replace("th ", f"{self._protocol} ").replace("icmp ", f"{self._icmp} ")
                self._note(attributes, text)
            case "meta" if 1 in attributes:
                key = _META.get(read_number(attributes, 2), "?")
                self._note(attributes, key if key in _PLAIN_META else f"meta {key}")
            case "ct" if 1 in attributes:
                self._note(attributes, f"ct {_CT.get(read_number(attributes, 2), '?')}")
            case "fib":
                end = "saddr" if read_number(attributes, 3) & 1 else "daddr"
                self._note(attributes, f"fib {end} {_FIB.get(read_number(attributes, 2), '?')}")
            case "bitwise":
                self._fields[read_number(attributes, 2)] = self._field(attributes, 1)
            case "cmp":
                self._add_comparison(attributes)
            case "range":
                operator = "!= " if read_number(attributes, 2) else ""
                ends = "-".join(
                    _value(read_data(attributes, kind), self._field(attributes, 1)) for kind in (3, 4)
                )
                self.words.append(f"{self._field(attributes, 1)} {operator}{ends}")
            case "lookup":
                verb = "vmap " if 3 in attributes else "!= " if read_number(attributes, 5) else ""
                self.words.append(f"{self._field(attributes, 2)} {verb}@{_text(attributes[1])}")
            case "limit":
                over = "over " if read_number(attributes, 5) else ""
                unit = _UNITS.get(read_number(attributes, 2), "?")
                self.words.append(f"limit rate {over}{read_number(attributes, 1)}/{unit}")
            case "immediate" if read_number(attributes, 1) == 0:
                self._add_verdict(attributes)
            case "match" | "target":
                self.words.append(f"xt {name} {_text(attributes[1])}")
            case "byteorder" | "immediate" | "counter":
                pass
            case "dynset":
                self.words.append(f"update @{_text(attributes[1])}")
            case _:
                self.words.append(name)

    def _note(self, attributes: Attributes, text: str) -> None:
        self._fields[read_number(attributes, 1)] = text

    def _field(self, attributes: Attributes, kind: int) -> str:
        return self._fields.get(read_number(attributes, kind), "?")

    def _add_comparison(self, attributes: Attributes) -> None:
        field, value = self._field(attributes, 1), read_data(attributes, 3)
        text = f"{field} {_OPERATORS[read_number(attributes, 2)]}{_value(value, field)}"
        if text in {"meta l4proto tcp", "meta l4proto udp"}:
            self._protocol = text[-3:]
        elif text == "meta l4proto ipv6-icmp":
            self._icmp = "icmpv6"
        elif (
            self.words
            and field.startswith(f"{self._protocol} ")
            and self.words[-1].startswith("meta l4proto")
        ):
            self.words.pop()
        self.words.append(text)

    def _add_verdict(self, attributes: Attributes) -> None:
        verdict = read_verdict(attributes, 2)
        word = _VERDICTS.get(int.from_bytes(verdict[1], "big", signed=True), "verdict")
        self.words.append(f"{word} {_text(verdict[2])}" if 2 in verdict else word)


def _name_header_field(base: int, offset: int, length: int) -> str:
    """Of an address only the first bytes may be compared."""
    for (of, begin, size), name in _HEADER_FIELDS.items():
        if (of, begin) == (base, offset) and (length == size or (length < size and name.endswith("addr"))):
            return name
    return f"@{base},{offset},{length}"


def _text(octets: bytes) -> str:
    return octets.rstrip(b"\0").decode("utf-8", "backslashreplace")


def _value(value: bytes, field: str) -> str:
    if field.endswith(("saddr", "daddr")):
        # What is compared of a network may be its first bytes only.
        size = 4 if field.startswith("ip ") else 16  # bytes
        address = str(ipaddress.ip_address(value.ljust(size, b"\0")))
        return address if len(value) == size else f"{address}/{8 * len(value)}"
    if field.endswith("name"):
        return _text(value) + ("" if value.endswith(b"\0") else "*")
    if field.endswith("kind"):
        return _text(value)
    if field.startswith("fib"):
        number = int.from_bytes(value, ORDER)
        return _ADDRESS_TYPES.get(number, str(number)) if field.endswith("type") else str(number)
    if field in {"meta l4proto", "ip protocol"}:
        return _PROTOCOLS.get(value[0], str(value[0]))
    if field == "ct state":
        bits = int.from_bytes(value, ORDER)
        return ",".join(word for word, bit in STATES.items() if bits & bit) or "0"
    return str(int.from_bytes(value, ORDER if field in _NUMERIC else "big"))
