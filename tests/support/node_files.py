"""The node's own files, edited as in `tests/mesh/node_files/verdicts.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import yaml

from qmesh.mesh.values import PROFILES, Profile
from tests.support.checkout import CHECKOUT

_FOLDER: Final = CHECKOUT / "tests/mesh/node_files"


class Verdict(msgspec.Struct, frozen=True):
    """What the loader of one version says of one edited file."""

    case: str
    profile: Profile
    file: bytes
    loads: bool


def own_file(profile: Profile) -> str:
    """The `config.yml` of a version as its node writes it."""
    return (_FOLDER / f"{profile}.yml").read_text(encoding="utf-8")


def verdicts() -> Iterator[Verdict]:
    """Every verdict, without the edits that change nothing."""
    files = {profile: own_file(profile) for profile in PROFILES}
    for case in json.loads((_FOLDER / "verdicts.json").read_bytes()):
        for profile in PROFILES:
            if case[profile] != "-":
                edited = _edit(files[profile], case["find"], case["replace"])
                yield Verdict(case["case"], profile, edited, case[profile] == "loads")


def _edit(text: str, find: str, replace: str) -> bytes:
    if find.startswith("whole: "):
        return _WHOLE[find.removeprefix("whole: ")](text)
    edited, count = re.subn(find, replace, text, count=1, flags=re.MULTILINE)
    assert count == 1, find
    return edited.encode()


def _as_json(text: str, indent: int | str) -> bytes:
    return json.dumps(yaml.safe_load(text), indent=indent).encode()


_WHOLE: Final[dict[str, Callable[[str], bytes]]] = {
    "BOM in front": lambda text: f"\ufeff{text}".encode(),
    "two BOMs": lambda text: f"\ufeff\ufeff{text}".encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "UTF-16 with BOM": lambda text: f"\ufeff{text}".encode("utf-16-le"),
    "UTF-16-LE without BOM": lambda text: text.encode("utf-16-le"),
    "a surrogate's octets in a comment": lambda text: b"# \xed\xa0\x80\n" + text.encode(),
    "an overlong octet pair in a comment": lambda text: b"# \xc0\xaf\n" + text.encode(),
    "as JSON, indented by a space": lambda text: _as_json(text, 1),
    "as JSON, indented by tabs": lambda text: _as_json(text, "\t"),
}
