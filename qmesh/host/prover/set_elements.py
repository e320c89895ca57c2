"""What sets and maps have in them, by the kernel's own word. Source: linux/netfilter/nf_tables.h."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from qmesh.host.firewall.rule_messages import counts_packets, decode_name
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
from qmesh.host.network.netlink import open_socket
from qmesh.host.network.netlink_messages import (
    DUMP,
    TooManyMessages,
    build_attribute,
    read_whole_dump,
    send_request,
)
from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.prover.set_contents import MOST_ELEMENTS, SetContent, SetElement, SetKey

_GET_SET, _GET_ELEMENTS = NFTABLES | 10, NFTABLES | 13  # NFT_MSG_GETSET, _GETSETELEM
_TABLE, _NAME, _FLAGS, _KEY_LENGTH, _DESCRIPTION = 1, 2, 3, 5, 9  # NFTA_SET_*
_TIMEOUT = 11  # NFTA_SET_TIMEOUT
_FIELDS: Final = 2  # NFTA_SET_DESC_CONCAT
_INTERVAL, _EVALUATED = 0x4, 0x20  # NFT_SET_INTERVAL, _EVAL
_MOST_MESSAGES: Final = 120
"""Each has 180 elements or so. The kernel lists them in a time that grows with the square of how many."""
_ELEMENTS: Final = 3  # NFTA_SET_ELEM_LIST_ELEMENTS
_KEY, _DATA, _ELEMENT_FLAGS, _ELEMENT_TIMEOUT, _EXPIRATION, _KEY_END = 1, 2, 3, 4, 5, 10  # NFTA_SET_ELEM_*
_ENDS, _CATCHALL = 1, 2  # NFT_SET_ELEM_INTERVAL_END, _CATCHALL
_VALUE, _VERDICT, _CODE, _CHAIN = 1, 2, 1, 2  # NFTA_DATA_*, NFTA_VERDICT_*
_U32, _I32 = struct.Struct("!I"), struct.Struct("!i")


def read_sets(wanted: Iterable[SetKey]) -> dict[SetKey, SetContent]:
    """These sets with what is in them. Raises MachineRefused where one can't be read."""
    asked = set(wanted)
    if not asked:
        return {}
    found = {}
    with translate_parse_errors():
        for message in dump_messages(_GET_SET):
            content, family = index_attributes(message), parse_family(message)
            key = family, decode_name(parse_text(content[_TABLE])), decode_name(parse_text(content[_NAME]))
            if key in asked:
                found[key] = _parse_set(content, _read_elements(content, family))
    return found


def _parse_set(content: dict[int, bytes], elements: tuple[SetElement, ...] | None) -> SetContent:
    flags = _U32.unpack(content[_FLAGS])[0] if _FLAGS in content else 0
    description = dict(parse_attributes(content.get(_DESCRIPTION, b"")))
    fields = tuple(
        _U32.unpack(dict(parse_attributes(field))[1])[0]
        for _, field in parse_attributes(description.get(_FIELDS, b""))
    )
    return SetContent(
        key_length=_U32.unpack(content[_KEY_LENGTH])[0],
        fields=fields,
        has_ranges=bool(flags & _INTERVAL),
        changes=bool(flags & _EVALUATED),
        counts=counts_packets(content),
        elements=elements,
    )


def _read_elements(content: dict[int, bytes], family: str) -> tuple[SetElement, ...] | None:
    """Each of a set; None where there are more than are of use."""
    asked = build_attribute(1, content[_TABLE]) + build_attribute(2, content[_NAME])
    request = build_table_request(_GET_ELEMENTS, DUMP, NUMBERS[family], asked)
    try:
        with open_socket(NETFILTER) as netlink:
            messages = read_whole_dump(lambda: send_request(netlink, request, most=_MOST_MESSAGES))
    except TooManyMessages:
        return None
    except (OSError, ValueError) as error:
        raise build_read_error(error) from None
    found = parse_set_elements(messages, has_timeout=_TIMEOUT in content)
    return found if len(found) <= MOST_ELEMENTS else None


def parse_set_elements(messages: Iterable[bytes], *, has_timeout: bool) -> tuple[SetElement, ...]:
    """Those in a dump. has_timeout: whether those of the set go by themselves. Raises KernelRefused."""
    with translate_parse_errors():
        return tuple(
            _parse_element(element, has_timeout=has_timeout)
            for message in messages
            for _, element in parse_attributes(index_attributes(message).get(_ELEMENTS, b""))
        )


def _parse_element(content: bytes, *, has_timeout: bool) -> SetElement:
    found = dict(parse_attributes(content))
    flags = _U32.unpack(found[_ELEMENT_FLAGS])[0] if _ELEMENT_FLAGS in found else 0
    value: bytes | None = None
    verdict: int | None = None
    chain = ""
    if _DATA in found:
        data = dict(parse_attributes(found[_DATA]))
        value = data.get(_VALUE)
        if value is None:
            said = dict(parse_attributes(data[_VERDICT]))
            (verdict,) = _I32.unpack(said[_CODE])
            chain = decode_name(parse_text(said.get(_CHAIN)))
    return SetElement(
        key=_read_value(found, _KEY),
        last=_read_value(found, _KEY_END),
        ends_range=bool(flags & _ENDS),
        is_rest=bool(flags & _CATCHALL),
        is_temporary=has_timeout or _ELEMENT_TIMEOUT in found or _EXPIRATION in found,
        value=value,
        verdict=verdict,
        chain=chain,
    )


def _read_value(found: dict[int, bytes], kind: int) -> bytes:
    return dict(parse_attributes(found[kind]))[_VALUE] if kind in found else b""
