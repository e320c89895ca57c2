"""What a member notes in its question for the membership: a line of text, which is a hint and no proof."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Final

import msgspec

MOST_CHARACTERS: Final = 512
_MOST_PARTS: Final = 10
_DOWN: Final = "down"
_STOPPED: Final = "stopped"
_MOST_DIGITS: Final = 5


class MemberNote(msgspec.Struct, frozen=True):
    """What a member says of itself.

    is_down: whether `qmesh down` is about to remove its tunnel.
    stopped: first and last core of ranges whose workers are stopped by a signal, or frozen.
    elsewhere: of the first workers that listen at another address than their own, the core and that address.
    """

    is_down: bool = False
    elsewhere: tuple[tuple[int, str], ...] = ()
    stopped: tuple[tuple[int, int], ...] = ()


def encode_note(note: MemberNote) -> str:
    """The line; empty where there is nothing to say."""
    if note.is_down:
        return _DOWN
    stopped = [f"{first}-{last}@{_STOPPED}" for first, last in note.stopped]
    elsewhere = [f"{core}@{address}" for core, address in note.elsewhere]
    return ",".join([*stopped, *elsewhere][:_MOST_PARTS])


def decode_note(line: str) -> MemberNote:
    """What a line says. Any program of a member may have sent it: what is not understood is left out."""
    if line == _DOWN:
        return MemberNote(is_down=True)
    found: dict[int, str] = {}
    stopped: list[tuple[int, int]] = []
    for part in line[:MOST_CHARACTERS].split(",")[:_MOST_PARTS]:
        cores, _, address = part.partition("@")
        first, _, last = cores.partition("-")
        if address == _STOPPED and _is_core(first) and _is_core(last):
            stopped.append((int(first), int(last)))
        elif _is_core(cores) and "%" not in address:  # a zone may be any text
            with contextlib.suppress(ValueError):
                found.setdefault(int(cores), str(ipaddress.ip_address(address)))
    return MemberNote(elsewhere=tuple(found.items()), stopped=tuple(stopped))


def _is_core(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
