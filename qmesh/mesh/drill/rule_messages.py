"""What of a rule or a set has to be added, or put in order, before the kernel takes it again.

Source: linux/netfilter/nf_tables.h, nf_tables_compat.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from qmesh.mesh.foreign.attributes import parse_attributes

ELEMENT_LIST, SET_ID, RULE_COMPAT = 3, 10, 5  # NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ID, NFTA_RULE_COMPAT
_NESTED: Final = 0x8000
_HEAD: Final = struct.Struct("=HH")
_LIST_ELEMENT: Final = 1
_KEY, _FLAGS = 1, 3  # NFTA_SET_ELEM_*
_INTERVAL_END: Final = 1
_DROPPED: Final = frozenset({5, 8})
"""Of an element: how long it has to live, as all of them live as long as the copy, and padding."""
_MOST_OCTETS: Final = 48_000
"""Of a list of elements: an attribute's length has sixteen bits."""
_NAME, _DATA = 1, 2  # NFTA_EXPR_*
_META_KEY, _L4PROTO = 2, 16  # NFTA_META_KEY, NFT_META_L4PROTO
_PAYLOAD_BASE, _PAYLOAD_OFFSET, _NETWORK = 2, 3, 1  # NFTA_PAYLOAD_*, NFT_PAYLOAD_NETWORK_HEADER
_PROTOCOL_OFFSETS: Final = frozenset({9, 6})  # in the header of IPv4 and of IPv6
_CMP_OPERATOR, _CMP_DATA = 2, 3  # NFTA_CMP_*
_EXTHDR_FLAGS, _EXTHDR_SOURCE = 5, 7  # NFTA_EXTHDR_FLAGS, NFTA_EXTHDR_SREG
_EXTENSIONS: Final = frozenset({"match", "target"})
_INVERTED: Final = 2  # NFT_RULE_COMPAT_F_INV
_ELSEWHERE: Final = {
    "queue": "a program that reads the queue of a rule",
    "NFQUEUE": "a program that reads the queue of a rule",
    "set": "a set of ipset",
    "SET": "a set of ipset",
    "bpf": "a BPF program of a rule",
    "cgroup": "control groups",
    "time": "the time of day",
}
"""Expressions, matches and targets that ask what the copy does not have, and whom."""
OF_WHOLE_MACHINE: Final = (b"AUDIT\0", b"IDLETIMER\0", b"LED\0")
"""Targets of iptables whose audit log, timers and lights are those of all namespaces."""
_LOG_LEVEL, _AUDIT_LEVEL = 5, (8).to_bytes(4, "big")  # NFTA_LOG_LEVEL, NFT_LOGLEVEL_AUDIT
_COUNTING: Final = frozenset(
    {"limit", "connlimit", "quota", "numgen", "hashlimit", "recent", "connbytes", "statistic", "dynset"}
)


def order_elements(lists: Iterable[bytes]) -> Iterator[bytes]:
    """The elements of a set as lists that can be sent, the lowest first; an end before a beginning there.

    lists: the contents of the kernel's own lists.
    """
    keyed = []
    for content in lists:
        for _, element in parse_attributes(content):
            found = dict(parse_attributes(element))
            flags = int.from_bytes(found.get(_FLAGS, b""), "big")
            kept = b"".join(
                _render(kind, value) for kind, value in parse_attributes(element) if kind not in _DROPPED
            )
            keyed.append((found.get(_KEY, b""), not flags & _INTERVAL_END, kept))
    keyed.sort()
    size, held = 0, list[bytes]()
    for *_, kept in keyed:
        rendered = _render(_LIST_ELEMENT | _NESTED, kept)
        if held and size + len(rendered) > _MOST_OCTETS:
            yield b"".join(held)
            size, held = 0, []
        size += len(rendered)
        held.append(rendered)
    if held:
        yield b"".join(held)


def _render(kind: int, value: bytes) -> bytes:
    return _HEAD.pack(_HEAD.size + len(value), kind) + value + bytes(-len(value) % 4)


def _list_expressions(content: bytes) -> Iterator[tuple[str, dict[int, bytes]]]:
    for _, expression in parse_attributes(content):
        found = dict(parse_attributes(expression))
        name = found.get(_NAME, b"").rstrip(b"\0").decode("ascii", "backslashreplace")
        yield name, dict(parse_attributes(found.get(_DATA, b"")))


def adjust_expressions(content: bytes) -> bytes:
    """A rule's expressions as the kernel takes them: of one that writes an option it takes no flags.

    Without those that do nothing to the packet, and something to the whole machine.
    """
    if not any(name in content for name in (b"exthdr\0", b"log\0", *OF_WHOLE_MACHINE)):
        return content
    found = []
    for kind, expression in parse_attributes(content):
        parts = dict(parse_attributes(expression))
        data = dict(parse_attributes(parts.get(_DATA, b"")))
        if parts.get(_NAME) == b"target\0" and data.get(1) in OF_WHOLE_MACHINE:
            continue
        if parts.get(_NAME) == b"log\0" and data.get(_LOG_LEVEL) == _AUDIT_LEVEL:
            continue
        if parts.get(_NAME) == b"exthdr\0" and _EXTHDR_SOURCE in data:
            data.pop(_EXTHDR_FLAGS, None)
            parts[_DATA] = b"".join(_render(each, value) for each, value in data.items())
        found.append(_render(kind, b"".join(_render(each, value) for each, value in parts.items())))
    return b"".join(found)


def find_protocol(content: bytes) -> bytes | None:
    """What iptables' matches in a rule are told of its protocol; None for a rule without any.

    The kernel asks for it and does not tell it: it is what the rule compares the packet's protocol with.
    """
    protocol, flags, asks, has_extension = 0, 0, False, False
    for name, data in _list_expressions(content):
        if name == "cmp" and asks and not protocol:
            value = dict(parse_attributes(data.get(_CMP_DATA, b""))).get(1, b"")
            if len(value) == 1:
                protocol = value[0]
                flags = _INVERTED if int.from_bytes(data.get(_CMP_OPERATOR, b""), "big") else 0
        asks = (name == "meta" and _read(data, _META_KEY) == _L4PROTO) or (
            name == "payload"
            and _read(data, _PAYLOAD_BASE) == _NETWORK
            and _read(data, _PAYLOAD_OFFSET) in _PROTOCOL_OFFSETS
        )
        has_extension |= name in _EXTENSIONS
    if not has_extension:
        return None
    return _render(1, struct.pack("!I", protocol)) + _render(2, struct.pack("!I", flags))


def _read(data: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(data.get(kind, b""), "big")


def list_foreign_deciders(content: bytes) -> list[str]:
    """Who or what else decides about a packet of a rule, and is not there in the copy, in words."""
    return [_ELSEWHERE[name] for name in _list_asked(content) if name in _ELSEWHERE]


def list_counters(content: bytes) -> list[str]:
    """What of a rule counts packets or time, so that two equal ones may end unlike, in words."""
    return [f"a rule with {name}" for name in _list_asked(content) if name in _COUNTING]


def list_legacy_words(block: bytes) -> tuple[list[str], list[str]]:
    """The same two of a table of iptables-legacy. Names have 29 octets there; in doubt there is one."""
    return (
        [words for name, words in _ELSEWHERE.items() if _pad(name) in block],
        [f"a rule with {name}" for name in sorted(_COUNTING) if _pad(name) in block],
    )


def _pad(name: str) -> bytes:
    return name.encode().ljust(29, b"\0")


def _list_asked(content: bytes) -> Iterator[str]:
    """Expressions by their names, iptables' matches and targets by theirs."""
    for name, data in _list_expressions(content):
        own = data.get(1, b"").rstrip(b"\0").decode("ascii", "backslashreplace")
        yield own if name in _EXTENSIONS else name
