"""Every rule and set, and single elements of sets, by the kernel's own word.

Source: linux/netfilter/nf_tables.h. A set is never read: the kernel is asked
whether it has one value, which costs the same for ten elements and for a million.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Self

from qmesh.host.firewall.tables_and_chains import translate_parse_errors
from qmesh.host.lean.nftables_messages import (
    NETFILTER,
    NFTABLES,
    NUMBERS,
    build_read_error,
    build_table_request,
    dump_messages,
    index_attributes,
    parse_family,
    parse_text,
)
from qmesh.host.network.netlink_messages import ACK, build_attribute, send_request
from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.lookups import Element, Question, SetHeader

_GET_RULE, _GET_SET, _GET_ELEMENT = NFTABLES | 7, NFTABLES | 10, NFTABLES | 13  # NFT_MSG_*
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS = 1, 2, 3, 4  # NFTA_RULE_*
_SET_TABLE, _SET_NAME, _SET_KEY_LENGTH, _SET_EXPRESSION, _SET_EXPRESSIONS = 1, 2, 5, 17, 18  # NFTA_SET_*
_COUNTING: Final = frozenset({b"limit", b"connlimit", b"quota"})
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2  # NFTA_EXPR_*
_LIST_ELEMENT: Final = 1  # NFTA_LIST_ELEM
_ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_FLAGS = 1, 2, 3  # NFTA_SET_ELEM_*
_CATCHALL: Final = 2  # NFT_SET_ELEM_CATCHALL
_DATA_VALUE, _DATA_VERDICT = 1, 2  # NFTA_DATA_*
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2  # NFTA_VERDICT_*
_NESTED: Final = 0x8000
_U32, _I32, _U64 = struct.Struct("!I"), struct.Struct("!i"), struct.Struct("!Q")
_ABSENT: Final = {errno.ENOENT}

Key = tuple[str, bytes]


def list_rules(tables: Iterable[Key]) -> list[KernelRule]:
    """The rules of these tables, chain by chain in their order. Raises MachineRefused."""
    wanted = set(tables)
    return parse_rules(dump_messages(_GET_RULE), lambda key: key in wanted)


def parse_rules(messages: Iterable[bytes], is_wanted: Callable[[Key], bool]) -> list[KernelRule]:
    """Those in a dump. Raises KernelRefused for what is none."""
    with translate_parse_errors():
        return [rule for message in messages if (rule := _parse_rule(message, is_wanted)) is not None]


def _parse_rule(message: bytes, is_wanted: Callable[[Key], bool]) -> KernelRule | None:
    found, family = index_attributes(message), parse_family(message)
    table = parse_text(found[_RULE_TABLE])
    if not is_wanted((family, table)):
        return None
    expressions = parse_attributes(found.get(_RULE_EXPRESSIONS, b""))
    return KernelRule(
        family=family,
        table=decode_name(table),
        chain=decode_name(parse_text(found[_RULE_CHAIN])),
        handle=_U64.unpack(found[_RULE_HANDLE])[0],
        expressions=tuple(_parse_expression(content) for _, content in expressions),
    )


def _parse_expression(content: bytes) -> Expression:
    found = dict(parse_attributes(content))
    name = parse_text(found[_EXPRESSION_NAME]).decode("ascii", "backslashreplace")
    return Expression(name, dict(parse_attributes(found.get(_EXPRESSION_DATA, b""))))


def list_sets(tables: Iterable[Key]) -> dict[tuple[str, str, str], SetHeader]:
    """Sets and maps of these tables, by family, table and name, without elements. Raises MachineRefused."""
    wanted = set(tables)
    return parse_sets(dump_messages(_GET_SET), lambda key: key in wanted)


def parse_sets(
    messages: Iterable[bytes], is_wanted: Callable[[Key], bool]
) -> dict[tuple[str, str, str], SetHeader]:
    """Those in a dump. Raises KernelRefused for what is none."""
    listed = {}
    with translate_parse_errors():
        for message in messages:
            found, family = index_attributes(message), parse_family(message)
            table = parse_text(found[_SET_TABLE])
            if is_wanted((family, table)):
                name = decode_name(parse_text(found[_SET_NAME]))
                (length,) = _U32.unpack(found[_SET_KEY_LENGTH])
                listed[family, decode_name(table), name] = SetHeader(length, counts=counts_packets(found))
    return listed


def counts_packets(found: Mapping[int, bytes]) -> bool:
    """Whether each element of a set has a limit of its own. found: what the kernel says of the set."""
    listed = [found[_SET_EXPRESSION]] if _SET_EXPRESSION in found else []
    listed += [content for _, content in parse_attributes(found.get(_SET_EXPRESSIONS, b""))]
    names = [dict(parse_attributes(content)).get(_EXPRESSION_NAME) for content in listed]
    return any(parse_text(name) in _COUNTING for name in names)


def decode_name(name: bytes) -> str:
    """A name of another program: what is not UTF-8 becomes surrogates, so that it can be asked for."""
    return name.decode("utf-8", "surrogateescape")


class SetReader:
    """A socket by which the kernel is asked for single elements; to be closed. Raises OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def find_element(self, question: Question) -> Element | None:
        """What the kernel's set has for this value; None where it has nothing.

        Raises MachineRefused where the kernel does not say.
        """
        key = _nest(_ELEMENT_KEY, build_attribute(_DATA_VALUE, question.key))
        try:
            return self._ask(question, key) or self._ask(
                question, build_attribute(_ELEMENT_FLAGS, _U32.pack(_CATCHALL))
            )
        except (OSError, ValueError) as error:
            raise build_read_error(error) from None

    def _ask(self, question: Question, element: bytes) -> Element | None:
        payload = (
            build_attribute(_ELEMENTS_TABLE, question.table.encode("utf-8", "surrogateescape") + b"\0")
            + build_attribute(_ELEMENTS_SET, question.collection.encode("utf-8", "surrogateescape") + b"\0")
            + _nest(_ELEMENTS, _nest(_LIST_ELEMENT, element))
        )
        request = build_table_request(_GET_ELEMENT, ACK, NUMBERS[question.family], payload)
        try:
            messages, _ = send_request(self._socket, request)
        except OSError as error:
            if error.errno in _ABSENT or (error.errno == errno.EINVAL and _is_catchall(element)):
                return None
            raise
        return next(iter(parse_elements(messages)), None)


def _is_catchall(element: bytes) -> bool:
    """Kernels before 5.13 know no such element."""
    return element == build_attribute(_ELEMENT_FLAGS, _U32.pack(_CATCHALL))


def parse_elements(messages: Iterable[bytes]) -> list[Element]:
    """One of each message in an answer. Raises KernelRefused for what is none."""
    with translate_parse_errors():
        return [_parse_element(message) for message in messages]


def _parse_element(message: bytes) -> Element:
    ((_, content),) = parse_attributes(index_attributes(message)[_ELEMENTS])
    element = dict(parse_attributes(content))
    if _ELEMENT_DATA not in element:
        return Element()
    data = dict(parse_attributes(element[_ELEMENT_DATA]))
    if _DATA_VALUE in data:
        return Element(value=data[_DATA_VALUE])
    verdict = dict(parse_attributes(data[_DATA_VERDICT]))
    (code,) = _I32.unpack(verdict[_VERDICT_CODE])
    return Element(verdict=code, chain=decode_name(parse_text(verdict.get(_VERDICT_CHAIN))))


def _nest(kind: int, content: bytes) -> bytes:
    return build_attribute(kind | _NESTED, content)
