"""Which profile a node's program is of, by what it answers to `--version` and by its file's name.

Source: the node's published sources, v1.4.20 to v2.1.0.25. The Rust program answers with its name and number.
The Go ones have no such option: they answer with their options, and end before they read or open anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from qmesh.mesh.nodeconfig.profiles import SHARED_KEYS
from qmesh.mesh.values import PROFILES, Profile, quote_text

MAX_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read: the options of a Go program are some four thousand."""

_NUMBER: Final = r"v?(\d{1,4}\.\d{1,4}(?:\.\d{1,4}){0,2})(-[pb]\d{1,4})?"
_RUST: Final = re.compile(rf"^(?:quil-|quilibrium-)?node {_NUMBER}$", re.MULTILINE | re.ASCII)
_GO_BANNER: Final = re.compile(rf"\bQuilibrium Node - {_NUMBER}(?= |$)", re.MULTILINE | re.ASCII)
_GO_REFUSAL: Final = "flag provided but not defined: -version"
_GO_OPTIONS: Final = re.compile(r"^  -(core|balance)\b", re.MULTILINE)
_FILE_NAME: Final = re.compile(rf"(?:quil-|quilibrium-)?node-{_NUMBER}(?:-linux-[a-z0-9]+)?", re.ASCII)

_GO: Final[tuple[Profile, ...]] = ("1.4", "2.0", "2.1")
_LAST_GO: Final = (2, 1, 0, 22)
"""The newest version that was published in Go; those from the next one on are in Rust."""


class ProgramVersion(msgspec.Struct, frozen=True):
    """What a program tells of itself.

    profiles: those that it may be of, the oldest first; never none.
    number: as it says, such as `2.1.0.25`; None where it does not.
    """

    profiles: tuple[Profile, ...]
    number: str | None

    def __str__(self) -> str:
        if self.number is not None and len(self.profiles) == 1:
            return f"node {self.profiles[0]} ({self.number})"
        return f"node {' or '.join(self.profiles)}"


class NodeProgram(msgspec.Struct, frozen=True, kw_only=True):
    """A program of the node on a machine.

    path: its file, without links. place: where that was opened, such as `/proc/77/exe`; the path may be
        another file by now, or that of a container.
    core: the lowest that it runs, 0 for the control process; None where it
    does not run, and the machine's units would start it.
    """

    path: str
    version: ProgramVersion
    core: int | None
    place: str = ""

    def __str__(self) -> str:
        file = quote_text(self.path)
        what = f"the units start {file}" if self.core is None else f"core {self.core} runs {file}"
        return f"{what}, which is {self.version}"


def parse_version_answer(text: str) -> ProgramVersion | None:
    """What a program's answer to `--version` tells, standard output and error alike.

    None where it is no answer of a node's program.
    """
    rust = _RUST.search(text)
    if rust is not None:  # a build of one's own may have any number
        return ProgramVersion(PROFILES[-1:], rust[1] + (rust[2] or ""))
    banner = _GO_BANNER.search(text)
    if banner is not None:
        return _version_of_number(banner, _GO)
    options = set(_GO_OPTIONS.findall(text))
    if _GO_REFUSAL in text and "core" in options:
        # `-balance` went with 2.0, maybe not with its last version.
        return ProgramVersion(_GO if "balance" in options else _GO[-1:], None)
    return None


def parse_file_name(name: str) -> ProgramVersion | None:
    """What the name of a program's file tells, such as `node-2.1.0.25-linux-amd64`."""
    found = _FILE_NAME.fullmatch(name)
    return None if found is None else _version_of_number(found, PROFILES)


def narrow_profiles(possible: Iterable[Profile], program: ProgramVersion | None) -> tuple[Profile, ...]:
    """The profiles that a file's keys leave open, less those that its program is not of.

    Where none is left the program decides: the file is of the version that it was upgraded from.
    """
    left = tuple(possible)
    if program is None:
        return left
    return tuple(profile for profile in left if profile in program.profiles) or program.profiles


def _version_of_number(found: re.Match[str], possible: tuple[Profile, ...]) -> ProgramVersion | None:
    profiles = _list_profiles_of_number(tuple(map(int, found[1].split("."))))
    left = tuple(profile for profile in profiles if profile in possible)
    return ProgramVersion(left, found[1] + (found[2] or "")) if left else None


def _list_profiles_of_number(number: tuple[int, ...]) -> tuple[Profile, ...]:
    if number < (1, 4):
        return ()
    if number < (2,):
        return ("1.4",)
    if number < (2, 1):
        return ("2.0",)
    if number <= _LAST_GO[: len(number)]:
        return SHARED_KEYS[:1] if len(number) == len(_LAST_GO) else SHARED_KEYS
    return SHARED_KEYS[1:]
