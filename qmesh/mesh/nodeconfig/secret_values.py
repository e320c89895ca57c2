"""The secrets that a config holds: hidden for showing, or one of them read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from qmesh.mesh.model import NOT_SHOWN
from qmesh.mesh.nodeconfig.document import (
    BOM,
    BREAKS,
    Alias,
    Mapping,
    Node,
    Scalar,
    Sequence,
    load,
    parse,
    resolved,
    value_of,
    wrong,
)
from qmesh.mesh.nodeconfig.layout import Edit, edited

# Of the node's own keys these are peerPrivKey, encryptionKey and alertKey. The rest is for what
# owners and tools put beside them: better one value too many hidden than one too few.
_NAME: Final = (
    r"(?:priv(?:ate)?[-_]?key|(?:encryption|alert|secret)[-_]?key|pass(?:word|phrase)"
    r"|secret|mnemonic|token)"
)
_SECRET_KEY = re.compile(_NAME, re.IGNORECASE)
_COMMENTED_OUT = re.compile(
    rf"(?<![^{BREAKS}])(?P<before>[^#{BREAKS}]*+#[^{BREAKS}]*?{_NAME}\w{{0,40}}[\"']?[ \t]*+:[ \t]*+)"
    rf"[^{BREAKS}]+",
    re.IGNORECASE,
)
_PROPERTIES = re.compile(r"(?:[&!]\S*+\s++){0,2}")


def redacted(text: str) -> str:
    """The config with every secret's value replaced by `<not shown>`; all else byte for byte.

    Secret is what a key's name says is one, at any level, also in a line that is commented out,
    also where an alias brings it from elsewhere. Raises BadInput when the text does not load:
    then nobody can say where its secrets are.
    """
    body = text.removeprefix(BOM)
    spans = {_span(body, scalar) for scalar in _secrets(parse(body)) if scalar.value}
    shown = edited(body, (Edit(start, end, NOT_SHOWN) for start, end in spans))
    return text[: len(text) - len(body)] + _COMMENTED_OUT.sub(rf"\g<before>{NOT_SHOWN}", shown)


def secret(text: str, path: str) -> str | None:
    """The scalar at a dotted path such as `p2p.peerPrivKey`; None when it is absent or null.

    Raises BadInput when the text does not load, or when the path leads through or to something
    else. The message never holds the value.
    """
    node = load(text)
    for name in path.split("."):
        if node is None or (isinstance(node, Scalar) and node.is_null):
            return None
        if not isinstance(node, Mapping):
            raise wrong(node.start, "this is not a mapping of keys to values", f"{path} should be below it")
        pair = value_of(node, name)
        node = resolved(pair[1]) if pair else None
    if node is None or (isinstance(node, Scalar) and node.is_null):
        return None
    if isinstance(node, Scalar):
        return node.value
    raise wrong(node.start, "this is not a single value", f"{path} should be one")


def _secrets(root: Node | None) -> Iterator[Scalar]:
    """The scalars under keys with a secret's name. Each node is met once: aliases cannot multiply."""
    waiting: list[tuple[Node | None, bool]] = [(root, False)]
    met: set[int] = set()
    while waiting:
        node, hidden = waiting.pop()
        if hidden and isinstance(node, Scalar):
            yield node
        if id(node) not in met:
            waiting += _below(node, hidden=hidden)
        if hidden:
            met.add(id(node))


def _below(node: Node | None, *, hidden: bool) -> Iterator[tuple[Node, bool]]:
    match node:
        case Alias(target=target) if hidden:
            yield target, True
        case Sequence(items=items):
            yield from ((item, hidden) for item in items)
        case Mapping(pairs=pairs):
            yield from ((key, True) for key, _ in pairs if hidden)
            yield from ((value, hidden or bool(_SECRET_KEY.search(key.value))) for key, value in pairs)


def _span(text: str, scalar: Scalar) -> tuple[int, int]:
    """Where the value is, without anchor and tag before it and the line breaks behind a block."""
    start, end = scalar.start.at, scalar.end.at
    if scalar.anchor is not None or scalar.tag is not None:
        found = _PROPERTIES.match(text, start, end)
        assert found
        start = found.end()
    return start, start + len(text[start:end].rstrip())
