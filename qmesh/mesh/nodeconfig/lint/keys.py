"""Keys that the node ignores, sections that make it panic, and values that it cannot use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from qmesh.mesh.nodeconfig.document import Mapping, Node, Scalar, Sequence, resolve_alias
from qmesh.mesh.nodeconfig.known_keys import find_similar_key, is_known_anywhere
from qmesh.mesh.nodeconfig.lint.list_names import (
    SECTION,
    FoundList,
    find_lists,
    find_profiles,
    find_role,
    find_spelling,
    mapping_pairs,
)
from qmesh.mesh.nodeconfig.lint.problems import Problem, build_error, build_warning, summarize_by_kind
from qmesh.mesh.values import PROFILES, Profile

_NEEDED: Final = ("key", "p2p", SECTION, "db")
"""The sections that the node goes into without looking whether they are there."""
_TEMPLATE: Final = "dataWorkerBaseListenMultiaddr"
_PLACEHOLDER = re.compile(r"<[A-Za-z][A-Za-z0-9_ -]*>")


def find_key_problems(root: Node | None, profile: Profile) -> Iterator[Problem]:
    """What is wrong with keys, wherever they stand."""
    lists = find_lists(root, profile)
    yield from summarize_by_kind(_check_placeholders(root))
    for path, key, _ in _walk_keys(root):
        yield from _check_ignored_key(path, key, profile, lists)
    for key, value in mapping_pairs(root):
        if key.value == SECTION:
            for inner, inside in mapping_pairs(value):
                yield from _check_value(inner, inside)


def _walk_keys(
    node: Node | None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Scalar, Node]]:
    """Every key with the keys above it, and its value. An alias's keys are met where they are written."""
    match node:
        case Sequence(items=items):
            for item in items:
                if not isinstance(item, Scalar):
                    yield from _walk_keys(item, path)
        case Mapping():
            for key, value in node.pairs:
                yield path, key, value
                yield from _walk_keys(value, (*path, key.value))


def _check_placeholders(root: Node | None) -> Iterator[Problem]:
    """Values outside of the worker lists that were never filled in."""
    for _, key, value in _walk_keys(root):
        values = value.items if isinstance(value, Sequence) and find_role(key.value) is None else (value,)
        for each in values:
            if isinstance(each, Scalar) and _PLACEHOLDER.search(each.value):
                message = "there is a placeholder here, or what qmesh shows in place of a secret"
                yield build_warning(each.start, "placeholder", message, "write the value itself there")


def _check_ignored_key(
    path: tuple[str, ...], key: Scalar, profile: Profile, lists: tuple[FoundList, ...]
) -> Iterator[Problem]:
    role, name = find_role(key.value), key.value
    if role is None:
        yield from _check_spelling(".".join(path), key, profile)
        return
    known = find_profiles(name)
    right = find_spelling(role, profile)
    there = [found.key for found in lists if found.key.value == right]
    if there and there[0] is not key:
        way_out = f"delete it: `{right}` is in line {there[0].start.line + 1}"
    else:
        way_out = f"rename it to `{right}`, below `{SECTION}:`"
    if not known:
        message = f"`{name}` is misspelt: node {profile} ignores it silently"
        yield build_warning(key.start, "misspelt", message, way_out)
    elif profile not in known:
        yield _other_profile_problem(key, profile, known)
    elif path != (SECTION,):
        where = f"below `{path[-1]}`" if path and path[-1] in (*_NEEDED, "logger", "alias") else "here"
        message = f"`{name}` is ignored {where}: the node reads it only below `{SECTION}:` at the top level"
        yield build_warning(key.start, "level", message, way_out)


def _check_spelling(section: str, key: Scalar, profile: Profile) -> Iterator[Problem]:
    """A key that differs from one of the node's only in letter case, `-` and `_`."""
    if is_known_anywhere(section, key.value):
        return
    right = find_similar_key(section, key.value, profile)
    if right is not None:
        message = f"`{key.value}` is misspelt: node {profile} ignores it silently"
        yield build_warning(key.start, "misspelt", message, f"rename it to `{right}`")


def _other_profile_problem(key: Scalar, profile: Profile, known: tuple[Profile, ...]) -> Problem:
    """A node leaves old keys in its file when it is upgraded, but none puts in keys of versions to come."""
    message = f"`{key.value}` is a list of node {' and '.join(known)}: node {profile} ignores it silently"
    if PROFILES.index(known[0]) > PROFILES.index(profile):
        way_out = (
            f"if the node is of that version, run `qmesh set --node {known[0]}` on the control node; else"
            " delete the key"
        )
        return build_error(key.start, "profile", message, way_out)
    way_out = (
        f"delete the key; or, if the node is still of that version, run `qmesh set --node {known[-1]}` on the"
        " control node"
    )
    return build_warning(key.start, "profile", message, way_out)


def _check_value(key: Scalar, node: Node) -> Iterator[Problem]:
    value = resolve_alias(node)
    if not isinstance(value, Scalar) or value.is_null or not value.value:
        return
    if key.value == _TEMPLATE and value.value.count("%d") != 1:
        message = (
            f"`{_TEMPLATE}` has {value.value.count('%d') or 'no'} `%d` instead of one, for a core's port"
        )
        yield build_warning(node.start, "template", message, "write it as /ip4/127.0.0.1/tcp/%d")
