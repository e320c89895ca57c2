"""Tables of qmesh in rule sets that somebody saved, as `nft list ruleset > FILE` does.

When such a file is loaded, the guard of that day is there again: until qmesh loads the one that is wanted,
and for good where qmesh is no more.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Any, Final

import msgspec

from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.guard.tables import HELD, OWN_TABLES, STAGED, STAND_IN, TABLE

_NAMES: Final = f"{HELD}|{STAGED}|{STAND_IN}|{TABLE}"
_WORDS: Final = re.compile(
    rf"^[ \t]*(?:(?:add|create)[ \t]+)?table[ \t]+inet[ \t]+(?P<name>{_NAMES})[ \t]*(?=[\n{{;#]|\Z)",
    re.MULTILINE,
)
_JSON: Final = re.compile(
    rf'"table"\s*:\s*\{{\s*"family"\s*:\s*"inet"\s*,\s*"name"\s*:\s*"(?P<name>{_NAMES}) ?"'
)
_INCLUDE: Final = re.compile(rb'(?:^|;)[ \t]*include[ \t]+"(?P<path>[^"\n]+)"', re.MULTILINE)
_LOADED: Final = re.compile(
    rb"(?:^|[\s/=;|&(`\"'])nft(?:[ \t]+[^\n;|&#<]{0,200}?)??"
    rb"(?:[ \t]-[A-Za-z]*f[ \t]*|[ \t]--file[ \t=]*|[ \t]*<[ \t]*)[\"']?(?P<path>/[^\s\"';|&<>)`]+)",
)
"""A call of nft in a script, a unit or a crontab, and the file that it is given."""
_OTHERS: Final = "|".join(name.removeprefix(TABLE) for name in (HELD, STAGED, STAND_IN))
_REMOVED: Final = rf"/^table inet {TABLE}({_OTHERS})? +\{{/,/^\}}/d"
"""For `sed -E`: from a table's first line, as nft prints it, to the line that ends it."""
_LISTED: Final = re.compile(
    rf"^table inet {TABLE}(?:{_OTHERS})? +\{{[^\n]*\n(?:(?:[ \t][^\n]*)?\n)*\}}[^\n]*(?:\n|\Z)", re.MULTILINE
)
_JSON_REMOVAL: Final = (
    f'import json,sys; f=open(sys.argv[1],"r+"); d=json.load(f); own={json.dumps(sorted(OWN_TABLES))};'
    ' k="nftables"; d[k]=[e for e in d[k] if not any(o.get("family")=="inet" and'
    ' o.get("table",o.get("name")) in own for o in e.values())];'
    ' s=json.dumps(d); f.seek(0); f.truncate(); f.write(s+"\\n")'
)
"""For `python3 -Ic`: from a file as `nft -j` prints it, all that is in these tables."""


class SavedRules(msgspec.Struct, frozen=True, kw_only=True):
    """A file with rules in which tables of qmesh are. tables: their names. is_json: as `nft -j` prints them.

    cure: the command that takes them out, or what to do where none does.
    """

    path: str
    tables: tuple[str, ...]
    cure: str
    is_json: bool = False


class _Listing(msgspec.Struct):
    """A rule set as JSON: of each table, chain, rule and set, by its kind, what it is."""

    nftables: list[dict[str, dict[str, Any]]]


def find_saved_rules(path: str, octets: bytes) -> SavedRules | None:
    """What of qmesh a file contains that nft loads; None where that is nothing."""
    if TABLE.encode() not in octets:
        return None
    text = octets.decode("utf-8", "replace")
    by_words, by_json = (
        {each["name"]: None for each in pattern.finditer(text)} for pattern in (_WORDS, _JSON)
    )
    tables = tuple(by_words | by_json)
    if not tables:
        return None
    return SavedRules(path=path, tables=tables, cure=_build_cure(path, text, tables), is_json=bool(by_json))


def list_includes(octets: bytes) -> tuple[str, ...]:
    """What a file with rules includes: paths as they are written there, perhaps with wildcards."""
    if b"include" not in octets:
        return ()
    return tuple(each["path"].decode("utf-8", "surrogateescape") for each in _INCLUDE.finditer(octets))


def list_loaded_files(octets: bytes) -> tuple[str, ...]:
    """The files with rules that a script, a unit or a crontab gives to nft: absolute paths."""
    if b"nft" not in octets:
        return ()
    return tuple(each["path"].decode("utf-8", "surrogateescape") for each in _LOADED.finditer(octets))


def _build_cure(path: str, text: str, tables: tuple[str, ...]) -> str:
    """A command that takes out these tables, as nft prints them, and nothing else, where there is one."""
    if path.isprintable() and _is_removable_json(text):
        return f"python3 -Ic {shlex.quote(_JSON_REMOVAL)} {shlex.quote(path)}"
    rest = _LISTED.sub("", text)
    if path.isprintable() and not (_WORDS.search(rest) or _JSON.search(rest) or _is_cut_off(text)):
        return f"sed -i -E {shlex.quote(_REMOVED)} {shlex.quote(path)}"
    return (
        f"edit the file, and take out all that is about {', '.join(f'table inet {each}' for each in tables)}"
    )


def _is_removable_json(text: str) -> bool:
    """Whether that command takes out of a text all that is in these tables: it is as `nft -j` prints it."""
    try:
        found = decode_json(text, _Listing).nftables
    except Malformed:
        return False
    rest = [each for each in found if not any(map(_is_in_own_table, each.values()))]
    return not _JSON.search(json.dumps(rest))


def _is_in_own_table(listed: dict[str, Any]) -> bool:
    """Whether a table, chain, rule or set is the guard's, as the command has it."""
    return listed.get("family") == "inet" and listed.get("table", listed.get("name")) in OWN_TABLES


def _is_cut_off(text: str) -> bool:
    """Whether sed would take out more: a table that does not end as nft ends one."""
    begun = re.findall(rf"^table inet {TABLE}(?:{_OTHERS})? +\{{", text, re.MULTILINE)
    return len(begun) != len(_LISTED.findall(text))
