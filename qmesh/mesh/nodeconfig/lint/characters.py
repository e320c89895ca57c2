"""Characters in keys and values that are not what they look like."""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.mesh.nodeconfig.characters import OddCharacter, find_odd_characters, strip_odd_characters
from qmesh.mesh.nodeconfig.document import (
    BOM,
    ParsedConfig,
    Scalar,
    Sequence,
    mark_at,
    walk_nodes,
)
from qmesh.mesh.nodeconfig.lint.entries import WRITTEN
from qmesh.mesh.nodeconfig.lint.list_names import find_lists
from qmesh.mesh.nodeconfig.lint.problems import Problem, build_warning
from qmesh.mesh.values import Profile

_MULTIADDR = "/ip"


def find_character_problems(config: ParsedConfig, profile: Profile) -> Iterator[Problem]:
    """Each such character once, with its first place; in comments none matters."""
    body = config.text.lstrip(BOM)
    if body.isascii():
        return
    lists = [found.value for found in find_lists(config.root, profile) if found.role in WRITTEN]
    written = {id(item) for found in lists if isinstance(found, Sequence) for item in found.items}
    found: dict[tuple[str, bool, bool], list[OddCharacter]] = {}
    for node, is_key in walk_nodes(config.root):
        if not isinstance(node, Scalar):
            continue
        for odd in find_odd_characters(body, node.start.at, node.end.at):
            if is_key or _matters(odd, body[odd.at], node.value):
                found.setdefault((odd.name, is_key, id(node) in written), []).append(odd)
    for (name, is_key, is_written), (first, *more) in found.items():
        count = f", and {len(more)} more like it" if more else ""
        where = "key" if is_key else "value"
        meaning = "ignores that key" if is_key else "takes it for a part of the value"
        message = f"there is {name} in a {where}{count}: the node {meaning}"
        yield build_warning(mark_at(body, first.at), "character", message, first.hint, cured=is_written)


def _matters(odd: OddCharacter, character: str, value: str) -> bool:
    """Whether it is hardly meant: a sign within a text, as of a path or a name, may be."""
    is_multiaddr = strip_odd_characters(value).startswith(_MULTIADDR)
    return not odd.is_visible or character in {value[:1], value[-1:]} or is_multiaddr
