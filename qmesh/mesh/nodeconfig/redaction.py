"""The secrets that a config holds: hidden for showing, or one of them read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from qmesh.mesh.nodeconfig.document import (
    BOM,
    BREAKS,
    Alias,
    Mapping,
    Node,
    ParsedConfig,
    Scalar,
    Sequence,
    bad_config_at,
    find_pair,
    resolve_alias,
)
from qmesh.mesh.nodeconfig.known_keys import list_names
from qmesh.mesh.nodeconfig.minimal import COMMENTS
from qmesh.mesh.nodeconfig.parse import parse_config
from qmesh.mesh.values import NOT_SHOWN

_NUMBER = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,6})?(?:ns|us|ms|s|m|h)?|true|false")
_ADDRESS = re.compile(
    r"/(?:ip4/[0-9.]{1,15}|ip6/[0-9a-fA-F:.]{1,45}|dns[46]?/[a-z]{1,20}(?:[.-][a-z]{1,20}){0,4}"
    r")/(?:tcp|udp)/(?:[0-9]{1,5}|%d)(?:/quic(?:-v1)?)?"
)
_NUMBERS: Final = list_names("flag", "float", "duration", "int", "long", "u8", "u16", "u32", "u64")
_HARMLESS: Final = {
    **dict.fromkeys(_NUMBERS, _NUMBER),
    **{name: _ADDRESS for name in list_names("text", "texts") if "Multiaddr" in name},
}
"""The node's keys whose values are shown, and what these look like. All else may be a secret somewhere."""
_SECTIONS: Final = frozenset({"db", "engine", "logger", "p2p"})
_SHOWN_KEY = re.compile(r"[A-Za-z]{1,20}(?:[-_.]?[A-Za-z]{1,20}){0,3}[0-9]{0,2}|[1-9][0-9]?|<<")
"""A key that is words. Numbers of cores, as in maps from these, are shown as well."""
_TAGS: Final = frozenset({"bool", "float", "int", "map", "null", "seq", "str"})
_BETWEEN = re.compile(
    rf"(?P<comment>#[^{BREAKS}]*)|(?P<directive>%[^{BREAKS}]*)|&(?P<anchor>[^\s,\[\]{{}}]+)|(?P<tag>![^\s,\[\]{{}}]*)"
    r"|[\s,\[\]{}?:-]+|\.\.\.|(?P<other>[^\s])"
)
_OURS: Final = frozenset(COMMENTS)

Path = tuple[str, ...]


def redact_config(config: str | ParsedConfig) -> str:
    """The config with `<not shown>` for each value but those that are known to be no secrets.

    Shown are numbers, switches and addresses under the node's own keys for such, in their place; keys that
    are words; and comments that are qmesh's. The names of anchors and tags are others' too. Raises BadInput
    when the text does not load: then the secrets in it can't be found.
    """
    parsed = parse_config(config)
    text, body = parsed.text, parsed.text.removeprefix(BOM)
    return text[: len(text) - len(body)] + _Redactor(body, parsed.root).redact()


class _Redactor:
    """A text on its way to be shown: what its nodes are, and what stands between them."""

    def __init__(self, body: str, root: Node | None) -> None:
        self._body = body
        self._root = root
        self._anchors: dict[str, str] = {}

    def redact(self) -> str:
        pieces: list[str] = []
        done = 0
        leaves = sorted(_walk_leaves(self._root), key=lambda leaf: (leaf[0].start.at, leaf[0].end.at))
        for node, is_shown in leaves:
            start, end = node.start.at, node.end.at
            whole = self._body[start:end]
            end = start + len(whole.rstrip())
            if end > start:
                pieces += [
                    self._redact_between(done, start),
                    self._redact_leaf(node, self._body[start:end], is_shown=is_shown),
                ]
                done = end
        return "".join([*pieces, self._redact_between(done, len(self._body))])

    def _redact_leaf(self, node: Scalar | Alias, written: str, *, is_shown: bool) -> str:
        if isinstance(node, Alias):
            return f"*{self._rename_anchor(node.anchor)}"
        if node.anchor is None and node.tag is None:
            is_whole = written in {node.value, f"'{node.value}'", f'"{node.value}"'}
            return written if is_whole and (is_shown or node.is_null or not node.value) else NOT_SHOWN
        anchor = "" if node.anchor is None else f"&{self._rename_anchor(node.anchor)} "
        return f"{anchor}{NOT_SHOWN}"

    def _rename_anchor(self, name: str | None) -> str:
        return self._anchors.setdefault(name or "", f"a{len(self._anchors) + 1}")

    def _redact_between(self, start: int, end: int) -> str:
        return _BETWEEN.sub(self._redact_token, self._body[start:end])

    def _redact_token(self, found: re.Match[str]) -> str:
        if found["comment"] is not None:
            is_ours = found["comment"].strip() in _OURS
            return found["comment"] if is_ours or not found["comment"].strip("# \t") else f"# {NOT_SHOWN}"
        if found["anchor"] is not None:
            return f"&{self._rename_anchor(found['anchor'])}"
        if found["tag"] is not None:
            return found["tag"] if found["tag"].removeprefix("!!") in _TAGS else "!"
        return "" if found["other"] is not None or found["directive"] is not None else found[0]


def _walk_leaves(root: Node | None) -> Iterator[tuple[Scalar | Alias, bool]]:
    """Every scalar and alias in the text, keys too, and whether it is shown."""
    waiting: list[tuple[Node | None, Path]] = [(root, ())]
    while waiting:
        node, path = waiting.pop()
        match node:
            case Alias():
                yield node, False
            case Scalar():
                yield node, _is_harmless(path, node.value)
            case Sequence(items=items):
                waiting += [(item, path) for item in items]
            case Mapping(pairs=pairs):
                for key, value in pairs:
                    is_word = _SHOWN_KEY.fullmatch(key.value) is not None
                    yield key, is_word or key.value in _SECTIONS or key.value in _HARMLESS
                    waiting.append((value, (*path, key.value)))


def _is_harmless(path: Path, value: str) -> bool:
    """Whether a value is shown where it stands: a section of the node's, or none, and a key of its."""
    known = _HARMLESS.get(path[-1]) if path else None
    is_in_place = len(path) == 1 or (len(path) == 2 and path[0] in _SECTIONS)
    return known is not None and is_in_place and known.fullmatch(value) is not None


def read_secret(config: str | ParsedConfig, path: str) -> str | None:
    """The scalar at a dotted path such as `p2p.peerPrivKey`; None when it is absent or null.

    Raises BadInput when the text does not load, or when the path leads through or to something
    else. The message never holds the value.
    """
    node = parse_config(config).root
    for name in path.split("."):
        if node is None or (isinstance(node, Scalar) and node.is_null):
            return None
        if not isinstance(node, Mapping):
            raise bad_config_at(
                node.start, "this is not a mapping of keys to values", f"write {path} below it"
            )
        pair = find_pair(node, name)
        node = resolve_alias(pair[1]) if pair else None
    if node is None or (isinstance(node, Scalar) and node.is_null):
        return None
    if isinstance(node, Scalar):
        return node.value
    raise bad_config_at(node.start, "this is not a single value", f"write {path} as one value")
