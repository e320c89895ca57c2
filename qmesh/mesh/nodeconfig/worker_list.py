"""The worker list as it stands in a config, and lists that the node would ignore."""

from __future__ import annotations

from typing import Final

import msgspec

from qmesh.mesh.nodeconfig.document import Mapping, Node, ParsedConfig, Scalar, walk_nodes
from qmesh.mesh.nodeconfig.key_location import find_key, read_value
from qmesh.mesh.nodeconfig.parse import parse_config
from qmesh.mesh.nodeconfig.profiles import ProfileFacts, profile_facts
from qmesh.mesh.values import Profile

_LIST_NAMES: Final = frozenset(
    {
        "dataworkermultiaddrs",
        "dataworkersmultiaddrs",
        "dataworkermultiaddr",
        "dataworkersmultiaddr",
        "dataworkerstreammultiaddrs",
        "dataworkerp2pmultiaddrs",
        "dataworkerannouncestreammultiaddrs",
        "dataworkerannouncep2pmultiaddrs",
    }
)
"""In lower case, what worker lists are called in all profiles, and in the wild."""


class IgnoredList(msgspec.Struct, frozen=True):
    """A worker list that the node of this profile ignores silently.

    key: its own name, as it is written, without the section. line, column: counted from 1.
    """

    key: str
    line: int
    column: int


def read_workers(config: str | ParsedConfig, profile: Profile) -> tuple[str, ...] | None:
    """The entries of the list of what the control process dials; None when it is absent or a word.

    Raises BadInput when the text does not load, or when the list or the section around it is
    something else or reached through an alias, tag, anchor or merge key.
    """
    found = read_value(find_key(parse_config(config).root, profile_facts(profile).list_key, is_list=True))
    return found if isinstance(found, tuple) else None


def find_ignored_lists(config: str | ParsedConfig, profile: Profile) -> tuple[IgnoredList, ...]:
    """The keys that look like a worker list's but are not this profile's, in the order of the text.

    Misspelt, in the wrong letter case, at the wrong level, or another profile's. Raises BadInput
    when the text does not load.
    """
    root = parse_config(config).root
    right = _find_known_keys(root, profile_facts(profile))
    return tuple(
        IgnoredList(key.value, key.start.line + 1, key.start.column + 1)
        for key, is_key in walk_nodes(root)
        if is_key
        and isinstance(key, Scalar)
        and key.value.casefold() in _LIST_NAMES
        and not any(key is each for each in right)
    )


def _find_known_keys(root: Node | None, known: ProfileFacts) -> list[Scalar]:
    """The keys that the node reads a list from, at their right places, whatever their values are."""
    pairs: tuple[tuple[Scalar, Node], ...] = root.pairs if isinstance(root, Mapping) else ()
    names = {(key.section, name) for key in known.lists for name in (key.name, key.alias)}
    return [
        key
        for section, value in pairs
        for key, _ in (value.pairs if isinstance(value, Mapping) else ())
        if (section.value, key.value) in names
    ]
