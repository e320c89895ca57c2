"""The licences of what may be in qmesh's packages: they go together with GPL-2.0-only (decision 0001)."""

from __future__ import annotations

import re
from typing import Final

from parts import Part

ALLOWED: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0 WITH LLVM-exception",  # the exception is about version 2 of the GPL
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "GPL-2.0-only",
        "GPL-2.0-or-later",
        "ISC",
        "LGPL-2.1-or-later",
        "MIT",
        "MIT-0",
        "PSF-2.0",
        "Unicode-3.0",
        "Unicode-DFS-2016",
        "Unlicense",
        "Zlib",
    }
)
GPL: Final = frozenset({"pip-nftables"})
"""The only one whose licence asks for that of the whole: decision 0040."""
COMPILED: Final = frozenset({"openssl"})
"""The library and its binding in Rust, both under Apache-2.0: decision 0087 says what that means."""


def list_faults(parts: list[Part]) -> list[str]:
    """What is not allowed, in words."""
    faults: list[str] = []
    for part in parts:
        if not is_allowed(part.licence):
            faults.append(f"{part.name} {part.version}: {part.licence or 'no licence that is known'}")
        if re.match("A?GPL", part.licence) and " OR " not in part.licence and part.name not in GPL:
            faults.append(f"{part.name} {part.version}: {part.licence} is for {', '.join(GPL)} alone")
        faults += [
            f"{each.name} {each.version} in {part.name}: {each.licence or 'no licence that is known'}"
            for each in part.compiled
            if each.name not in COMPILED and not is_allowed(each.licence)
        ]
    return faults


def is_allowed(expression: str) -> bool:
    """Whether one can keep to an SPDX expression by licences that are allowed."""
    words = re.findall(r"[()]|[^\s()]+", expression)
    answer, left = _read_any(words)
    return answer and not left


def _read_any(words: list[str]) -> tuple[bool, list[str]]:
    answer, left = _read_all(words)
    while left[:1] == ["OR"]:
        another, left = _read_all(left[1:])
        answer = answer or another
    return answer, left


def _read_all(words: list[str]) -> tuple[bool, list[str]]:
    answer, left = _read_one(words)
    while left[:1] == ["AND"]:
        another, left = _read_one(left[1:])
        answer = answer and another
    return answer, left


def _read_one(words: list[str]) -> tuple[bool, list[str]]:
    match words:
        case ["(", *rest]:
            answer, left = _read_any(rest)
            return answer and left[:1] == [")"], left[1:]
        case [name, "WITH", exception, *left]:
            return f"{name} WITH {exception}" in ALLOWED, left
        case [name, *left]:
            return name in ALLOWED, left
    return False, []
