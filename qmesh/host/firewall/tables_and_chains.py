"""Which tables and chains there are, by the kernel's own word. Source: linux/netfilter/nf_tables.h.

libnftables tells that too, but as text in which a name or comment of another program may look like anything,
and as JSON only as long as all of it is UTF-8.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from qmesh.errors import KernelRefused, MachineRefused, NeedsRoot
from qmesh.host.network.netlink_messages import (
    ACK,
    DUMP,
    HEADER,
    build_attribute,
    build_request,
    read_whole_dump,
    send_request,
)
from qmesh.mesh.foreign.attributes import parse_attributes

FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
NUMBERS: Final = {name: number for number, name in FAMILIES.items()}
NETFILTER: Final = 12  # NETLINK_NETFILTER
NFTABLES: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_TABLE, _GET_CHAIN, _GET_GENERATION = (NFTABLES | message for message in (1, 4, 16))  # NFT_MSG_*
_ABOUT: Final = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_TABLE_NAME, _TABLE_FLAGS = 1, 2  # NFTA_TABLE_*
_DORMANT = 0x1  # NFT_TABLE_F_DORMANT
_CHAIN_TABLE, _CHAIN_HANDLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 2, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE, _HOOK_DEVICES = 1, 2, 3, 4  # NFTA_HOOK_*
_DEVICE_NAME, _DEVICE_PREFIX = 1, 2  # NFTA_DEVICE_*
_GENERATION_ID = 1  # NFTA_GEN_ID
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
    return parse_tables(dump_messages(_GET_TABLE))


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
        raise build_read_error(ValueError(f"not understood: {error!r}")) from None


def has_table(family: str, name: str) -> bool:
    """Whether there is such a table. Raises MachineRefused where it could not look."""
    return read_table_attributes(family, name) is not None


def read_generation() -> int:
    """A number that is another after each change of any table. Raises MachineRefused."""
    try:
        (message,) = _send_request(build_table_request(_GET_GENERATION, ACK, 0))
    except (OSError, ValueError) as error:
        raise build_read_error(error) from None
    with translate_parse_errors():
        return int(_U32.unpack(index_attributes(message)[_GENERATION_ID])[0])


def _send_request(request: bytes) -> list[bytes]:
    """What the kernel answers, whole. Raises OSError, ValueError or KernelRefused."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as netlink:
        return read_whole_dump(lambda: send_request(netlink, request))


def build_read_error(error: OSError | ValueError) -> MachineRefused:
    """What the kernel said instead of an answer, as one of ours."""
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    if isinstance(error, PermissionError):
        return NeedsRoot("nftables may not be used by this user", hint="run the command as root")
    return KernelRefused(
        f"could not read nftables' tables: {reason}",
        hint="this kernel needs nf_tables: run `modprobe nf_tables`, and look at `dmesg`",
    )


def build_table_request(kind: int, flags: int, family: int, payload: bytes = b"") -> bytes:
    """A message to nftables. family: by number; 0 for all."""
    return build_request(kind, flags, _ABOUT.pack(family, 0, 0) + payload)


def dump_table(kind: int, family: str, payload: bytes) -> list[dict[int, bytes]]:
    """The attributes of each of one table's objects, or of more where the kernel does not choose.

    kind: NFT_MSG_GET*. payload: attributes. Raises MachineRefused where it could not look.
    """
    messages = dump_messages(NFTABLES | kind, NUMBERS[family], payload)
    with translate_parse_errors():
        return list(map(index_attributes, messages))


def read_table_attributes(family: str, name: str) -> dict[int, bytes] | None:
    """What the kernel says of one table, by NFTA_TABLE_*; None without it. Raises MachineRefused."""
    wanted = build_attribute(_TABLE_NAME, name.encode() + b"\0")
    try:
        (message,) = _send_request(build_table_request(_GET_TABLE, ACK, NUMBERS[family], wanted))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise build_read_error(error) from None
    with translate_parse_errors():
        return index_attributes(message)


def dump_messages(kind: int, family: int = 0, payload: bytes = b"") -> list[bytes]:
    """Each message of a dump. family: by number; 0 for all. Raises MachineRefused."""
    try:
        return _send_request(build_table_request(kind, DUMP, family, payload))
    except (OSError, ValueError) as error:
        raise build_read_error(error) from None


def index_attributes(message: bytes) -> dict[int, bytes]:
    """The attributes of a message, by their type. Raises ValueError where one breaks off."""
    return dict(parse_attributes(message[HEADER.size + _ABOUT.size :]))


def parse_family(message: bytes) -> str:
    """The family of a message's table, by nft's name."""
    number = message[HEADER.size]
    return FAMILIES.get(number, str(number))


def parse_text(value: bytes | None) -> bytes:
    """A name; empty without one."""
    return (value or b"").rstrip(b"\0")


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
