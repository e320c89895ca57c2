"""The licences of what may be in qmesh's packages: they go together with libnftables', GPL-2.0-only.

Decision 0103 says why that counts, and decision 0001 which do not.
"""

from __future__ import annotations

import re
from typing import Final

from parts import LACKING, Part

ALLOWED: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0 WITH LLVM-exception",  # the exception is about version 2 of the GPL
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "PSF-2.0",
        "Unicode-3.0",
        "Unicode-DFS-2016",
        "Unlicense",
        "Zlib",
    }
)
COMPILED: Final = frozenset({"openssl", "self_cell"})
"""The library and its binding in Rust, both under Apache-2.0: decision 0087 says what that means. The other
one is under Apache-2.0 or GPL-2.0-only, as one chooses."""


def list_faults(parts: list[Part]) -> list[str]:
    """What is not allowed, in words."""
    faults: list[str] = []
    for part in parts:
        if not is_allowed(part.licence):
            faults.append(f"{part.name} {part.version}: {part.licence or 'no licence that is known'}")
        if part.name in LACKING and not part.compiled:
            faults.append(f"{part.name} {part.version}: what is compiled in is not in unlisted.json")
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
