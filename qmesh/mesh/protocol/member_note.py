"""What a member notes in its question for the membership: a line of text, which is a hint and no proof."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Final

import msgspec

MOST_CHARACTERS: Final = 512
_MOST_CORES: Final = 10
_DOWN: Final = "down"


class MemberNote(msgspec.Struct, frozen=True):
    """What a member says of itself.

    is_down: whether `qmesh down` is about to remove its tunnel.
    elsewhere: of the first workers that listen at another address than their own, the core and that address.
    """

    is_down: bool = False
    elsewhere: tuple[tuple[int, str], ...] = ()


def encode_note(note: MemberNote) -> str:
    """The line; empty where there is nothing to say."""
    if note.is_down:
        return _DOWN
    return ",".join(f"{core}@{address}" for core, address in note.elsewhere[:_MOST_CORES])


def decode_note(line: str) -> MemberNote:
    """What a line says. Any program of a member may have sent it: what is not understood is left out."""
    if line == _DOWN:
        return MemberNote(is_down=True)
    found: dict[int, str] = {}
    for part in line[:MOST_CHARACTERS].split(",")[:_MOST_CORES]:
        core, _, address = part.partition("@")
        with contextlib.suppress(ValueError):
            is_number = core.isascii() and core.isdecimal() and len(core) < 6
            if is_number and "%" not in address:  # a zone may be any text
                found.setdefault(int(core), str(ipaddress.ip_address(address)))
    return MemberNote(elsewhere=tuple(found.items()))
