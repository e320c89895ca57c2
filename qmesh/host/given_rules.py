"""A file of nftables' rules that somebody gives: every command reads and loads it alike."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import BadInput, KernelRefused
from qmesh.host.firewall import nft_library
from qmesh.host.firewall.nftables import build_nft_error, decode_output, open_library
from qmesh.host.network import links
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.values import quote_text

MOST_OCTETS: Final = 64 << 20
"""Of a file."""
_HINT: Final = "give a file of rules, as `nft list ruleset` or `nft -j list ruleset` prints them"
_REFUSED_HINT: Final = "see what nft says of it: `nft -c -f FILE`, or `nft -j -c -f FILE` of JSON"
_LOST: Final = re.compile(rb'"xt":|#\s*xt_\w')
"""Where nft has left out what a rule of iptables says: in JSON, and in the text of nft before 1.0.6."""
_PLACES: Final = re.compile(r"\b(?:[io]if|devices?)\s+(?:vmap\s+|map\s+)?(?:[!=]=?\s*)?(\{[^}]*\}|[^\s;{}]+)")
"""What follows on the words for interfaces that have to be there; `iifname` is none of these."""
_NUMBERED: Final = re.compile(r"\b(?:[io]if|devices?|iface_index)\b")
_DEFINED: Final = re.compile(r"^\s*(?:re)?define\s+\w+\s*=\s*(\{[^}]*\}|[^\n;]*)", re.MULTILINE)
_QUOTED: Final = re.compile(r'"([^"]+)"')
_WORD: Final = re.compile(r"[A-Za-z0-9_.@-]+")
_NAME: Final = re.compile(r"(?!\d+\Z)[A-Za-z0-9_.@-]{1,15}")
_NO_NAMES: Final = frozenset(
    {"lo", "all", "default", ".", "..", "iif", "oif", "accept", "drop", "jump", "goto", "return", "continue"}
)
_COMPARED: Final = {"left": "right", "key": "data"}
"""Parts of a match and of a map, by what they are about."""
_KINDS: Final = ("dummy", "bridge")
"""Of interfaces that stand for others: a kernel may lack one."""
_MOST_INTERFACES: Final = 200


class GivenRules(msgspec.Struct, frozen=True):
    """What is in a file of that name."""

    name: str
    content: bytes


def read_given_rules(path: Path) -> GivenRules:
    """Raises BadInput for a file that can't be read, has no end, is no text, or lacks what its rules say."""
    name = quote_text(str(path))
    try:
        with path.open("rb") as opened:
            content = opened.read(MOST_OCTETS + 1)
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}", hint=_HINT) from None
    if len(content) > MOST_OCTETS:
        raise BadInput(f"{name} is larger than {MOST_OCTETS} bytes", hint=_HINT)
    if b"\0" in content:  # libnftables would load what stands before it
        raise BadInput(f"{name} is no text", hint=_HINT)
    if _LOST.search(content):
        raise BadInput(
            f"{name} lacks what iptables' rules say: nft does not print it",
            hint="run the command on that machine without `--ruleset`: it reads them from the kernel",
        )
    return GivenRules(name, content)


def load_given_rules(rules: GivenRules) -> tuple[str, ...]:
    """Load them where this thread is: in a network namespace of its own, that ends with its process.

    Rules may name interfaces that have to be there: the names of those that were made for it.
    Raises BadInput where nft takes them not, and MachineRefused.
    """
    made = [name for name in sorted(list_interfaces(rules.content))[:_MOST_INTERFACES] if _create(name)]
    nft_library.ask_no_resolver()
    library = open_library()
    if rules.content.lstrip().startswith(b"{"):
        library.read_json()
    is_done, _, error = library.run(rules.content)
    if not is_done:
        refused = build_nft_error(decode_output(error))
        if not isinstance(refused, KernelRefused):
            raise refused
        raise BadInput(f"the rules in {rules.name} can't be loaded: {refused.message}", hint=_REFUSED_HINT)
    return tuple(made)


def list_interfaces(content: bytes) -> set[str]:
    """Names that may be those of interfaces which have to be there. Raises BadInput for JSON that is none."""
    text = content.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        try:
            words: Iterable[str] = list(_list_words(decode_json(text, object), is_meant=False))
        except (Malformed, RecursionError):
            raise BadInput("this is no JSON of nft's", hint=_HINT) from None
    else:
        words = _list_words_of_text(text)
    return {word for word in words if _NAME.fullmatch(word)} - _NO_NAMES


def _list_words_of_text(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if _NUMBERED.search(line):
            yield from _QUOTED.findall(line)
    values = _PLACES.findall(text)
    if any("$" in value for value in values):
        values += _DEFINED.findall(text)
    for value in values:
        if "$" not in value:
            yield from _WORD.findall(value)


def _list_words(value: object, *, is_meant: bool) -> Iterator[str]:
    """What `iif` and `oif` are compared with, and what stands behind `dev`."""
    if isinstance(value, str):
        if is_meant:
            yield value
    elif isinstance(value, list):
        for each in value:
            yield from _list_words(each, is_meant=is_meant)
    elif isinstance(value, dict):
        others = {_COMPARED[key] for key in _COMPARED.keys() & value if _names_interface(value[key])}
        for key, each in value.items():
            yield from _list_words(each, is_meant=is_meant or key == "dev" or key in others)


def _names_interface(value: object) -> bool:
    """Whether a part of a statement is an interface's number."""
    if isinstance(value, list):
        return any(map(_names_interface, value))
    return isinstance(value, dict) and (
        value.get("key") in {"iif", "oif"} or any(map(_names_interface, value.values()))
    )


def _create(name: str) -> bool:
    """Whether there was none of that name, and now is."""
    for kind in _KINDS:
        with contextlib.suppress(KernelRefused):
            links.create(name, kind)
            return True
    return False
