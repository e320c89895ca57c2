"""Which tables and chains there are, by the kernel's own word. Source: linux/netfilter/nf_tables.h.

libnftables tells that too, but as text in which a name or comment of another program may look like anything,
and as JSON only as long as all of it is UTF-8.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from qmesh.host.lean.nftables_messages import (
    GET_TABLE,
    NFTABLES,
    build_parse_error,
    dump_messages,
    index_attributes,
    parse_family,
    parse_text,
)
from qmesh.mesh.foreign.attributes import parse_attributes

_GET_CHAIN: Final = NFTABLES | 4  # NFT_MSG_GETCHAIN
_TABLE_NAME, _TABLE_FLAGS = 1, 2  # NFTA_TABLE_*
_DORMANT = 0x1  # NFT_TABLE_F_DORMANT
_CHAIN_TABLE, _CHAIN_HANDLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 2, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE, _HOOK_DEVICES = 1, 2, 3, 4  # NFTA_HOOK_*
_DEVICE_NAME, _DEVICE_PREFIX = 1, 2  # NFTA_DEVICE_*
_ACCEPT = 1  # NF_ACCEPT
_HOOKS: Final = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
_HOOKS_OF_DEVICES: Final = ("ingress", "egress")
_U32, _I32, _U64 = struct.Struct("!I"), struct.Struct("!i"), struct.Struct("!Q")


class TableHeader(msgspec.Struct, frozen=True):
    """A table. family: by nft's name. is_dormant: whether its rules are asleep."""

    family: str
    name: bytes
    is_dormant: bool


class ChainHeader(msgspec.Struct, frozen=True):
    """A chain; one that packets come to by themselves where it has a hook, else "".

    devices: of a hook that is a device's; `*` ends the beginning of a name.
    """

    family: str
    table: bytes
    name: bytes
    handle: int
    hook: str = ""
    type: str = ""
    priority: int = 0
    accepts: bool = True
    devices: tuple[str, ...] = ()


def list_tables() -> list[TableHeader]:
    """All of them. Raises MachineRefused where it could not look."""
    return parse_tables(dump_messages(GET_TABLE))


def parse_tables(messages: Iterable[bytes]) -> list[TableHeader]:
    """Those in a dump. Raises KernelRefused for what is none."""
    with translate_parse_errors():
        return [_parse_table(message) for message in messages]


def list_chains() -> list[ChainHeader]:
    """All of them, table by table. Raises MachineRefused where it could not look."""
    return parse_chains(dump_messages(_GET_CHAIN))


def parse_chains(messages: Iterable[bytes]) -> list[ChainHeader]:
    """Those in a dump. Raises KernelRefused for what is none."""
    with translate_parse_errors():
        return [_parse_chain(message) for message in messages]


@contextlib.contextmanager
def translate_parse_errors() -> Iterator[None]:
    """Raise KernelRefused for what a message that is none makes of its parser."""
    try:
        yield
    except (ValueError, LookupError, struct.error) as error:
        raise build_parse_error(error) from None


def _parse_table(message: bytes) -> TableHeader:
    found = index_attributes(message)
    flags = _U32.unpack(found[_TABLE_FLAGS])[0] if _TABLE_FLAGS in found else 0
    return TableHeader(parse_family(message), parse_text(found.get(_TABLE_NAME)), bool(flags & _DORMANT))


def _parse_chain(message: bytes) -> ChainHeader:
    found, family = index_attributes(message), parse_family(message)
    plain = ChainHeader(
        family,
        parse_text(found[_CHAIN_TABLE]),
        parse_text(found[_CHAIN_NAME]),
        _U64.unpack(found[_CHAIN_HANDLE])[0],
    )
    if _CHAIN_HOOK not in found:
        return plain
    hook = dict(parse_attributes(found[_CHAIN_HOOK]))
    number = _U32.unpack(hook[_HOOK_NUMBER])[0]
    names = _HOOKS_OF_DEVICES if family == "netdev" else _HOOKS
    policy = _U32.unpack(found[_CHAIN_POLICY])[0] if _CHAIN_POLICY in found else _ACCEPT
    return msgspec.structs.replace(
        plain,
        hook=names[number] if number < len(names) else str(number),
        type=parse_text(found.get(_CHAIN_TYPE)).decode("utf-8", "backslashreplace"),
        priority=_I32.unpack(hook[_HOOK_PRIORITY])[0],
        accepts=policy == _ACCEPT,
        devices=tuple(_parse_devices(hook)),
    )


def _parse_devices(hook: dict[int, bytes]) -> Iterator[str]:
    """Older kernels name the one device as well, newer ones all of them."""
    if _HOOK_DEVICES in hook:
        named = list(parse_attributes(hook[_HOOK_DEVICES]))
    else:
        named = [(_DEVICE_NAME, hook[_HOOK_DEVICE])] if _HOOK_DEVICE in hook else []
    for kind, value in named:
        name = parse_text(value).decode("utf-8", "backslashreplace")
        yield f"{name}*" if kind == _DEVICE_PREFIX else name
