"""The libraries in a folder, as their own metadata say: versions, licences, and what was compiled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path, PurePath
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
}
"""Those without a doubt; a package with none of them is under no licence that we know of."""
_UNLISTED = json.loads(Path(__file__).with_name("unlisted.json").read_text("utf-8"))
"""What is compiled into wheels that do not say it, by name and version: as that version's sources have it."""
LACKING = frozenset(each.partition(" ")[0] for each in _UNLISTED)
"""The libraries of these wheels."""
_LICENCE_FILE = re.compile(r"(licen[sc]e|copying|notice)([-._].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Compiled:
    """What a wheel has compiled in, as an SBOM says. licence, copyright: empty where it does not say it."""

    name: str
    version: str
    licence: str
    copyright: str


@dataclass(frozen=True)
class Part:
    """One library.

    licence: as an SPDX expression; empty where its metadata have none that is one.
    authors: as its metadata have them. texts: its files about licences.
    places: files and folders that are its own.
    """

    name: str
    version: str
    licence: str
    authors: str
    texts: tuple[str, ...]
    places: tuple[str, ...]
    compiled: tuple[Compiled, ...]


def read_parts(folder: Path) -> list[Part]:
    """All that lie in that folder, by name."""
    found = (_read_part(each) for each in distributions(path=[str(folder)]))
    return sorted(found, key=lambda part: part.name)


def read_needed_parts(folder: Path, name: str) -> list[Part]:
    """That one with its extra `prove`, and what it needs of what lies in the folder.

    Without what that is built or tested with.
    """
    found = {canonicalize_name(each.name): each for each in distributions(path=[str(folder)])}
    needed: dict[str, Distribution] = {}
    left = [name]
    while left:
        wanted = canonicalize_name(left.pop())
        if wanted in needed:
            continue
        needed[wanted] = found[wanted]
        needs = map(Requirement, found[wanted].requires or [])
        extra = {"extra": "prove" if wanted == canonicalize_name(name) else ""}
        left += [each.name for each in needs if each.marker is None or each.marker.evaluate(extra)]
    return sorted(map(_read_part, needed.values()), key=lambda part: part.name)


def _read_part(found: Distribution) -> Part:
    metadata = found.metadata
    authors = (metadata.get("Author"), metadata.get("Author-email"))
    files = found.files or []
    # What is installed besides, such as programs, is no file of this folder.
    inside = [file for file in files if ".." not in file.parts and "__pycache__" not in file.parts]
    return Part(
        name=canonicalize_name(found.name),
        version=found.version,
        licence=_read_licence(found),
        authors=", ".join(each for each in authors if each),
        texts=tuple(_read(found, file) for file in inside if _LICENCE_FILE.fullmatch(file.name)),
        places=tuple(sorted({_name_place(file) for file in inside})),
        compiled=tuple(each for sbom in _list_sboms(found, inside) for each in _read_compiled(sbom)),
    )


def _list_sboms(found: Distribution, inside: list[PackagePath]) -> Iterator[dict[str, Any]]:
    yield from (json.loads(_read(found, file)) for file in inside if "sboms" in file.parts)
    if unlisted := _UNLISTED.get(f"{canonicalize_name(found.name)} {found.version}"):
        yield unlisted


def _read(found: Distribution, file: PurePath) -> str:
    return Path(str(found.locate_file(file))).read_text(encoding="utf-8")


def _name_place(file: PurePath) -> str:
    return f"{file.parts[0]}/*" if len(file.parts) > 1 else str(file)


def _read_licence(found: Distribution) -> str:
    metadata = found.metadata
    for text in (metadata.get("License-Expression"), metadata.get("License")):
        if text and (known := _canonicalize(text)):
            return known
    classifiers = (each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier") or [])
    known = {_CLASSIFIERS[each] for each in classifiers if each in _CLASSIFIERS}
    return known.pop() if len(known) == 1 else ""


def _canonicalize(text: str) -> str:
    """As SPDX has it; empty where it is no expression: the field `License` is free text."""
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return ""


def _read_compiled(sbom: dict[str, Any]) -> list[Compiled]:
    components = sbom.get("components", [])
    return [
        Compiled(
            each["name"],
            each.get("version", ""),
            _read_component_licence(each),
            each.get("copyright", ""),
        )
        for each in components
    ]


def _read_component_licence(component: dict[str, list[dict[str, object]]]) -> str:
    found = []
    for each in component.get("licenses", []):
        licence = each.get("license")
        named = licence.get("id") or licence.get("name") if isinstance(licence, dict) else None
        found.append(_canonicalize(str(each.get("expression") or named)))
    return " AND ".join(f"({each})" if " " in each and len(found) > 1 else each for each in found)
