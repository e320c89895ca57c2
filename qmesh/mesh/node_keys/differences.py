"""The machines whose node has other keys than the control node's, as its agent remembers them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from qmesh.mesh.protocol.key_digests import NodeKey
from qmesh.mesh.values import UnixTime


class KeyDifference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a machine's keys differs. since: when that was seen first, Unix time in seconds."""

    keys: tuple[NodeKey, ...]
    since: UnixTime


class KeyDifferences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By the name of the machine. No key and no digest is in it."""

    machines: dict[str, KeyDifference] = {}

    def update(
        self, found: Mapping[str, tuple[NodeKey, ...]], members: Collection[str], *, now: int
    ) -> KeyDifferences:
        """What is known after another look.

        found: of machines that have reported, the keys in which each differs; others stay as they are.
        members: machines that run workers; of others nothing is kept. now: Unix time in seconds.
        """
        known = {name: each for name, each in self.machines.items() if name in members}
        for name, keys in found.items():
            before = known.pop(name, None)
            if keys and name in members:
                known[name] = KeyDifference(keys, now if before is None else before.since)
        return KeyDifferences(dict(sorted(known.items())))


def describe_keys(keys: Collection[NodeKey]) -> str:
    """Those keys, as the node's files call them."""
    return ", ".join(keys)


def describe_fetch(name: str, control: str, *, may_fetch: bool, is_here: bool, replace: bool = True) -> str:
    """What brings the control node's keys to machine `name`.

    is_here: whether that machine says it, or the control node. replace: whether files are there already.
    """
    permit = f"qmesh set {name} --node-files on"
    fetch = "qmesh node-files --write"
    if replace:
        fetch += " --replace, then restart its workers"
    if is_here:
        return fetch if may_fetch else f"on {control}: {permit}; then here: {fetch}"
    return f"on {name}: {fetch}" if may_fetch else f"{permit}; then on {name}: {fetch}"
