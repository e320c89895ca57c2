"""A copy of all of nftables' tables, made of the kernel's own messages.

What the kernel tells of a table is what it takes to make one, also what no text of nft's can say: iptables'
matches and targets, names that nft can't type. Source: linux/netfilter/nf_tables.h, nf_tables_compat.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from qmesh.errors import KernelRefused
from qmesh.host.drill.namespaces import Namespaces
from qmesh.host.drill.netlink_session import CopySession
from qmesh.host.firewall.tables_and_chains import translate_parse_errors
from qmesh.host.lean.nftables_messages import (
    FAMILIES,
    NETFILTER,
    NFTABLES,
    build_read_error,
    dump_messages,
    index_attributes,
    parse_text,
    read_generation,
)
from qmesh.host.network.netlink_messages import HEADER, build_attribute
from qmesh.mesh.drill.rule_messages import (
    ELEMENT_LIST,
    RULE_COMPAT,
    SET_ID,
    adjust_expressions,
    find_protocol,
    list_counters,
    list_foreign_deciders,
    order_elements,
)

_GET: Final = {"table": 1, "chain": 4, "rule": 7, "set": 10, "object": 19, "flowtable": 23}
_GET_ELEMENTS: Final = 13
_NEW: Final = {"table": 0, "chain": 3, "rule": 6, "set": 9, "elements": 12, "object": 18, "flowtable": 22}
_CREATE, _APPEND = 0x400, 0x800  # NLM_F_*
_NESTED: Final = 0x8000
_TABLE, _NAME, _FLAGS, _DORMANT = 1, 2, 2, 1  # NFTA_*_TABLE, of sets their name, NFTA_TABLE_FLAGS
_KEPT: Final = {
    "table": frozenset({1, 6}),  # name, user data: of its flags none, as the copy has no owner
    "chain": frozenset({3, 4, 5, 7, 12}),  # name, hook, policy, type, user data
    "rule": frozenset({2, 4, 7}),  # chain, expressions, user data
    "set": frozenset({2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18}),  # all but handle and counts
    "object": frozenset({2, 3, 4, 8}),  # name, type, data, user data
    "flowtable": frozenset({2, 3}),  # name, hook
}
_RULE_EXPRESSIONS: Final = 4
_ATTEMPTS: Final = 5


class TableCopy(msgspec.Struct, frozen=True):
    """One table as messages.

    family: by number. deciders: what else decides about its packets; counting: what counts them; in words.
    """

    family: int
    name: bytes
    is_dormant: bool
    messages: tuple[tuple[int, int, bytes], ...]
    deciders: tuple[str, ...] = ()
    counting: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """As nft names it."""
        return f"{FAMILIES.get(self.family, self.family)} {self.name.decode('utf-8', 'backslashreplace')}"


def read_live_tables() -> tuple[TableCopy, ...]:
    """All of them, at one moment. Raises MachineRefused."""
    for _ in range(_ATTEMPTS):
        before = read_generation()
        with translate_parse_errors():
            found = tuple(_read_tables())
        if read_generation() == before:
            return found
    raise KernelRefused(
        "the rules of this machine change too fast to be copied", hint="run `qmesh drill` again in a minute"
    )


def _read_tables() -> Iterator[TableCopy]:
    dumped: dict[str, dict[tuple[int, bytes], list[dict[int, bytes]]]] = {}
    for kind, number in _GET.items():
        dumped[kind] = {}
        for message in dump_messages(NFTABLES | number):
            found = index_attributes(message)
            key = message[HEADER.size], parse_text(found[_TABLE])
            dumped[kind].setdefault(key, []).append(found)
    for key, (header,) in dumped["table"].items():
        parts = {kind: each.get(key, []) for kind, each in dumped.items()}
        deciders, counting = [], []
        for each in parts["rule"]:
            expressions = each.get(_RULE_EXPRESSIONS, b"")
            deciders += list_foreign_deciders(expressions)
            counting += list_counters(expressions)
        yield TableCopy(
            *key,
            is_dormant=bool(int.from_bytes(header.get(_FLAGS, b""), "big") & _DORMANT),
            messages=tuple(_render(*key, parts)),
            deciders=tuple(dict.fromkeys(deciders)),
            counting=tuple(dict.fromkeys(counting)),
        )


def _render(
    family: int, table: bytes, parts: dict[str, list[dict[int, bytes]]]
) -> Iterator[tuple[int, int, bytes]]:
    """Messages that make it, in the order that the kernel needs."""
    head = struct.pack("!BBH", family, 0, 0)
    named = head + build_attribute(_TABLE, table + b"\0")

    def make(kind: str, found: dict[int, bytes], further: bytes = b"") -> tuple[int, int, bytes]:
        kept = b"".join(
            build_attribute(number, value)
            for number, value in found.items()
            if number in _KEPT[kind] and not (kind == "table" and number == _TABLE)
        )
        flags = _CREATE | _APPEND if kind == "rule" else _CREATE
        return NFTABLES | _NEW[kind], flags, named + kept + further

    yield from (make("table", each) for each in parts["table"])
    for kind in ("object", "flowtable", "chain"):
        yield from (make(kind, each) for each in parts[kind])
    for number, each in enumerate(parts["set"], start=1):
        yield make("set", each, build_attribute(SET_ID, struct.pack("!I", number)))
    for each in parts["set"]:
        for content in order_elements(_read_elements(family, table, each[_NAME])):
            name = build_attribute(_NAME, each[_NAME])
            listed = build_attribute(ELEMENT_LIST | _NESTED, content)
            yield NFTABLES | _NEW["elements"], _CREATE, named + name + listed
    for each in parts["rule"]:
        expressions = each.get(_RULE_EXPRESSIONS, b"")
        protocol = find_protocol(expressions)
        compat = b"" if protocol is None else build_attribute(RULE_COMPAT | _NESTED, protocol)
        yield make("rule", {**each, _RULE_EXPRESSIONS: adjust_expressions(expressions)}, compat)


def _read_elements(family: int, table: bytes, name: bytes) -> list[bytes]:
    payload = build_attribute(_TABLE, table + b"\0") + build_attribute(_NAME, name)
    messages = dump_messages(NFTABLES | _GET_ELEMENTS, family, payload)
    return [index_attributes(each).get(ELEMENT_LIST, b"") for each in messages]


def load_tables(namespaces: Namespaces, tables: tuple[TableCopy, ...]) -> list[str]:
    """Make them in the copy, table by table; of those that the kernel refused, which and why.

    Raises KernelRefused where this process is not in the copy.
    """
    refused = []
    with CopySession(namespaces, NETFILTER) as session:
        for table in tables:
            if table.is_dormant:
                continue
            try:
                session.send_batch(list(table.messages))
            except OSError as error:
                refused.append(f"table {table.label}: {error.strerror}")
    return refused


def remove_table(namespaces: Namespaces, family: int, name: bytes) -> None:
    """Take one out of the copy again. Raises KernelRefused."""
    named = struct.pack("!BBH", family, 0, 0) + build_attribute(_TABLE, name + b"\0")
    with CopySession(namespaces, NETFILTER) as session:
        try:
            session.send_batch([(NFTABLES | 2, 0, named)])  # NFT_MSG_DELTABLE
        except OSError as error:
            raise build_read_error(error) from None
