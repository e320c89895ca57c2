"""The worker lists' keys in every profile, and what people write instead."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, TypeAlias

from qmesh.mesh.nodeconfig.document import Mapping, Node, Scalar, resolve_alias
from qmesh.mesh.nodeconfig.key_location import walk_pairs
from qmesh.mesh.nodeconfig.profiles import profile_facts
from qmesh.mesh.values import PROFILES, Profile

SECTION: Final = "engine"

Role: TypeAlias = Literal["dialled", "p2p", "announced", "announced p2p"]
"""What a list is for: where the control process dials workers, where other nodes do, what these are told."""

_ORDER: Final[tuple[Role, ...]] = ("dialled", "p2p", "announced", "announced p2p")


def _list_spellings(profile: Profile) -> dict[Role, tuple[str, ...]]:
    """Each list's names, the usual one first."""
    known = profile_facts(profile)
    keys = (known.list_key, known.p2p_key, *known.announce_keys)
    return {
        role: tuple(name for name in (key.name, key.alias) if name)
        for role, key in zip(_ORDER, keys, strict=False)
        if key is not None
    }


_SPELLINGS: Final = {profile: _list_spellings(profile) for profile in PROFILES}
_LIKE_A_LIST = re.compile(r"dataworkers?(stream|p2p|announcestream|announcep2p|)multiaddrs?", re.IGNORECASE)
_ROLES: Final[dict[str, Role]] = {
    "": "dialled",
    "stream": "dialled",
    "p2p": "p2p",
    "announcestream": "announced",
    "announcep2p": "announced p2p",
}


class FoundList(NamedTuple):
    """A list's key where the node looks for it, with its value."""

    role: Role
    key: Scalar
    value: Node


def find_role(name: str) -> Role | None:
    """What a key that looks like a worker list's is for, however it is spelt; None for other keys."""
    like = _LIKE_A_LIST.fullmatch(name)
    return None if like is None else _ROLES[like[1].lower()]


def find_spelling(role: Role, profile: Profile) -> str:
    """The name of such a list, or where the profile has none, of that which the control process dials."""
    lists = _SPELLINGS[profile]
    return lists.get(role, lists["dialled"])[0]


def find_profiles(name: str) -> tuple[Profile, ...]:
    """The profiles that know a list by just this name."""
    return tuple(
        profile
        for profile in PROFILES
        if any(name in spellings for spellings in _SPELLINGS[profile].values())
    )


def find_lists(root: Node | None, profile: Profile) -> tuple[FoundList, ...]:
    """The profile's lists in a config, in the order of the text."""
    has_merges = profile != "2.1-rust"
    sections = (value for key, value in walk_pairs([root], has_merges=has_merges) if key.value == SECTION)
    return tuple(
        FoundList(role, key, value)
        for key, value in walk_pairs(sections, has_merges=has_merges)
        for role, spellings in _SPELLINGS[profile].items()
        if key.value in spellings
    )


def mapping_pairs(node: Node | None) -> tuple[tuple[Scalar, Node], ...]:
    """The keys and values of a mapping, also of one that an alias stands for; none of anything else."""
    mapping = None if node is None else resolve_alias(node)
    return mapping.pairs if isinstance(mapping, Mapping) else ()
