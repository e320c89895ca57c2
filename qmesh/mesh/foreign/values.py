"""Sets of values that a rule compares with: numbers, addresses, names; and whether one is among them.

A question has three answers: True, False, and None where it could not be understood.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeAlias

Value: TypeAlias = int | str | tuple[str, ...]
"""A number or an address as one; a name; or several of which each counts."""

Truth: TypeAlias = bool | None

_ADDRESS = re.compile(r"[0-9a-fA-F]*[.:][0-9a-fA-F.:]*")
_NUMBER = re.compile(r"\d+|0[xX][0-9a-fA-F]+")
PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}


class UnsupportedExpression(Exception):  # the answer None, on its way up
    """Something of a ruleset that this package has no words for."""


class ValueSet(Protocol):
    """Values that one may be among."""

    def has(self, value: Value) -> Truth:
        """Whether the value is one of them."""


class ElementSet:
    """A set with its intervals; quick to ask also with tens of thousands of them."""

    def __init__(self, elements: Iterable[object]) -> None:
        """Take numbers, `(first, last)` and names, where `*` ends one that is only begun."""
        found = list(elements)
        self._names = {each for each in found if isinstance(each, str)}
        self._beginnings = tuple(each[:-1] for each in self._names if each.endswith("*"))
        spans = [(each, each) for each in found if isinstance(each, int)]
        spans += [each for each in found if isinstance(each, tuple)]
        self._spans = _merge_spans(sorted(spans))
        self._firsts = [first for first, _ in self._spans]

    def has(self, value: Value) -> Truth:
        if isinstance(value, tuple):
            return any(self.has(each) for each in value)
        if isinstance(value, str):
            return value in self._names or value.startswith(self._beginnings)
        place = bisect_right(self._firsts, value) - 1
        return place >= 0 and value <= self._spans[place][1]


class MaskedSet:
    """What is among others once some bits are taken of it."""

    def __init__(self, mask: int, members: ElementSet) -> None:
        self._mask = mask
        self._members = members

    def has(self, value: Value) -> Truth:
        return self._members.has(value & self._mask) if isinstance(value, int) else None


class UnknownSet:
    """A collection whose content is not known."""

    def has(self, _: Value) -> Truth:
        return None


def _merge_spans(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in spans:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def parse_scalar(word: str | int) -> int | str:
    """A word of a ruleset as a value: an address or number as an int, anything else as it is."""
    if isinstance(word, int):
        return word
    if _NUMBER.fullmatch(word):
        return int(word, 0) if word[:2].lower() == "0x" else int(word)
    if _ADDRESS.fullmatch(word):
        try:
            return int(ipaddress.ip_address(word))
        except ValueError:
            return word
    return word


def parse_span(first: str | int, last: str | int) -> tuple[int, int]:
    """From first to last, both included. Raises NotUnderstood for what has no order."""
    ends = parse_scalar(first), parse_scalar(last)
    if isinstance(ends[0], int) and isinstance(ends[1], int):
        return ends[0], ends[1]
    raise UnsupportedExpression(f"{first}-{last}")


def parse_network(text: str) -> tuple[int, int]:
    """`192.168.0.0/16` or `10.0.0.1/255.0.0.0` as a span. Raises NotUnderstood for what is none."""
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UnsupportedExpression(text) from None
    return int(found.network_address), int(found.broadcast_address)


def all_of(truths: Sequence[Truth]) -> Truth:
    """Whether all hold: no where one does not, else None where one is unclear."""
    if False in truths:
        return False
    return None if None in truths else True


def any_of(truths: Sequence[Truth]) -> Truth:
    """Whether one holds: yes where one does, else None where one is unclear."""
    if True in truths:
        return True
    return None if None in truths else False
