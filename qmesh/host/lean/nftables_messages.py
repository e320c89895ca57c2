"""Questions to the kernel about nftables' tables. Source: linux/netfilter/nf_tables.h."""

from __future__ import annotations

import _socket
import struct

from qmesh.errors import KernelRefused, MachineRefused, NeedsRoot
from qmesh.host.lean.bare_socket import BareSocket
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
NUMBERS: Final = {name: number for number, name in FAMILIES.items()}
NETFILTER: Final = 12  # NETLINK_NETFILTER
NFTABLES: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
GET_TABLE: Final = NFTABLES | 1  # NFT_MSG_GETTABLE
_GET_GENERATION: Final = NFTABLES | 16  # NFT_MSG_GETGEN
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_BATCH: Final = struct.pack("!BBH", 0, 0, 10)  # nfgenmsg: family, version, NFNL_SUBSYS_NFTABLES
_ABOUT: Final = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_TABLE_NAME: Final = 1  # NFTA_TABLE_NAME
_GENERATION_ID: Final = 1  # NFTA_GEN_ID
_U32: Final = struct.Struct("!I")


def build_batch(messages: list[tuple[int, int, bytes]], sequence: int) -> bytes:
    """Requests of which nftables does all, or nothing, as one; the last of them is acknowledged.

    messages: kind, flags and payload of each.
    """
    *others, (kind, flags, payload) = messages
    whole = [(_BATCH_BEGIN, 0, _BATCH), *others, (kind, flags | ACK, payload), (_BATCH_END, 0, _BATCH)]
    return b"".join(build_request(*each, sequence=sequence) for each in whole)


def open_netfilter_socket() -> BareSocket:
    """Where nftables is asked and told. Raises OSError."""
    return BareSocket(_socket.AF_NETLINK, _socket.SOCK_RAW, NETFILTER)


def build_table_request(kind: int, flags: int, family: int, payload: bytes = b"") -> bytes:
    """A message to nftables. family: by number; 0 for all."""
    return build_request(kind, flags, _ABOUT.pack(family, 0, 0) + payload)


def build_read_error(error: OSError | ValueError) -> MachineRefused:
    """What the kernel said instead of an answer, as one of ours."""
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    if isinstance(error, PermissionError):
        return NeedsRoot("nftables may not be used by this user", hint="run the command as root")
    return KernelRefused(
        f"could not read nftables' tables: {reason}",
        hint="this kernel needs nf_tables: run `modprobe nf_tables`, and look at `dmesg`",
    )


def build_parse_error(error: Exception) -> MachineRefused:
    """What a message that is none made of its parser, as one of ours."""
    return build_read_error(ValueError(f"not understood: {error!r}"))


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


def dump_messages(kind: int, family: int = 0, payload: bytes = b"") -> list[bytes]:
    """Each message of a dump. family: by number; 0 for all. Raises MachineRefused."""
    try:
        return _send_request(build_table_request(kind, DUMP, family, payload))
    except (OSError, ValueError) as error:
        raise build_read_error(error) from None


def dump_table(kind: int, family: str, payload: bytes) -> list[dict[int, bytes]]:
    """The attributes of each of one table's objects, or of more where the kernel does not choose.

    kind: NFT_MSG_GET*. payload: attributes. Raises MachineRefused where it could not look.
    """
    messages = dump_messages(NFTABLES | kind, NUMBERS[family], payload)
    try:
        return list(map(index_attributes, messages))
    except ValueError as error:
        raise build_parse_error(error) from None


def has_table(family: str, name: str) -> bool:
    """Whether there is such a table. Raises MachineRefused where it could not look."""
    return read_table_attributes(family, name) is not None


def read_table_attributes(family: str, name: str) -> dict[int, bytes] | None:
    """What the kernel says of one table, by NFTA_TABLE_*; None without it. Raises MachineRefused."""
    wanted = build_attribute(_TABLE_NAME, name.encode() + b"\0")
    try:
        return _ask_one(GET_TABLE, NUMBERS[family], wanted)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise build_read_error(error) from None


def read_generation() -> int:
    """A number that is another after each change of any table. Raises MachineRefused."""
    try:
        return int(_U32.unpack(_ask_one(_GET_GENERATION, 0)[_GENERATION_ID])[0])
    except (OSError, ValueError) as error:
        raise build_read_error(error) from None
    except (LookupError, struct.error) as error:
        raise build_parse_error(error) from None


def _ask_one(kind: int, family: int, payload: bytes = b"") -> dict[int, bytes]:
    """The attributes of the one message that is the answer. Raises OSError, ValueError or KernelRefused."""
    (message,) = _send_request(build_table_request(kind, ACK, family, payload))
    return index_attributes(message)


def _send_request(request: bytes) -> list[bytes]:
    """What the kernel answers, whole. Raises OSError, ValueError or KernelRefused."""
    with open_netfilter_socket() as netlink:
        return read_whole_dump(lambda: send_request(netlink, request))
