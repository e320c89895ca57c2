"""What becomes of a machine's config.yml and keys.yml when it has fetched the node's: all decided here."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from qmesh.errors import BadInput
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.node_keys.key_store import (
    KEY_STORE,
    KEY_STORE_PATH,
    find_key_store,
    list_needed_keys,
    read_identity,
    refuse_incomplete_identity,
)
from qmesh.mesh.nodeconfig import ParsedConfig, parse_config, render_config
from qmesh.mesh.protocol.key_digests import NODE_KEYS, NodeIdentity, NodeKey
from qmesh.mesh.protocol.node_files import NodeFiles
from qmesh.mesh.values import Profile, SecretStruct

CONFIG: Final = "config.yml"

Outcome: TypeAlias = Literal["new", "unchanged", "updated", "replaced"]
"""`updated`: it is of the same node, or of none; `replaced`: it was of another node, or can't be read."""


class PlannedFile(SecretStruct, frozen=True, kw_only=True):
    """One file. name: in the directory of config.yml. old: what is there now; None where nothing is."""

    name: str
    octets: bytes
    old: bytes | None
    outcome: Outcome


def plan_node_files(
    inventory: Inventory,
    name: str,
    fetched: NodeFiles,
    *,
    directory: str,
    config: bytes | None,
    key_store: bytes | None,
) -> tuple[PlannedFile, ...]:
    """Both files of machine `name`, or only config.yml where its node needs no other; keys.yml first.

    directory: absolute, where both will be. config, key_store: what is there now.
    Raises BadInput where what was fetched is not whole.
    """
    refuse_incomplete_identity(fetched.config, fetched.keys, inventory.node)
    planned = [_plan_config(inventory, name, fetched, directory, config)]
    if fetched.keys is not None:
        planned.insert(0, _plan_key_store(fetched.keys, key_store))
    return tuple(planned)


def _plan_key_store(fetched: bytes, old: bytes | None) -> PlannedFile:
    if old is None:
        return PlannedFile(name=KEY_STORE, octets=fetched, old=None, outcome="new")
    if read_identity(None, old) == read_identity(None, fetched):
        return PlannedFile(name=KEY_STORE, octets=old, old=old, outcome="unchanged")
    return PlannedFile(name=KEY_STORE, octets=fetched, old=old, outcome="replaced")


def _plan_config(
    inventory: Inventory, name: str, fetched: NodeFiles, directory: str, old: bytes | None
) -> PlannedFile:
    octets = fetched.config.encode()
    if old is None:
        return PlannedFile(name=CONFIG, octets=octets, old=None, outcome="new")
    parsed = _parse_readable(old)
    if parsed is None:
        return PlannedFile(name=CONFIG, octets=octets, old=old, outcome="replaced")
    different, missing = _compare_keys(
        read_identity(parsed, None), read_identity(fetched.config, None), inventory.node
    )
    if different or not _leads_to(parsed, directory, is_needed=fetched.keys is not None):
        return PlannedFile(name=CONFIG, octets=octets, old=old, outcome="replaced")
    if missing:
        return PlannedFile(name=CONFIG, octets=octets, old=old, outcome="updated")
    edited = render_config(inventory, name, parsed).text.encode()
    return PlannedFile(
        name=CONFIG, octets=edited, old=old, outcome="unchanged" if edited == old else "updated"
    )


def _parse_readable(octets: bytes) -> ParsedConfig | None:
    try:
        return parse_config(octets.decode("utf-8"))
    except (UnicodeDecodeError, BadInput):
        return None


def _leads_to(config: ParsedConfig, directory: str, *, is_needed: bool) -> bool:
    """Whether the node finds the keys.yml of that directory."""
    try:
        return not is_needed or find_key_store(config, directory) == find_key_store(None, directory)
    except BadInput:
        return False


def _compare_keys(
    old: NodeIdentity, new: NodeIdentity, profile: Profile
) -> tuple[list[NodeKey], list[NodeKey]]:
    """The keys of config.yml that differ, and those that the old one lacks."""
    needed = list_needed_keys(profile)
    pairs = [
        (key, before, after)
        for key, before, after in zip(NODE_KEYS, old.values, new.values, strict=True)
        if key in needed and key != KEY_STORE
    ]
    different: list[NodeKey] = [key for key, before, after in pairs if before is not None and before != after]
    return different, [key for key, before, _ in pairs if before is None]


def refuse_replacement(planned: tuple[PlannedFile, ...], directory: str) -> None:
    """Raise BadInput where a file of another node would be replaced."""
    others = [each.name for each in planned if each.outcome == "replaced"]
    if others:
        raise BadInput(
            f"{' and '.join(others)} in {directory} {'is' if len(others) == 1 else 'are'} of another identity"
            f" than the control node's, cannot be read, or has another {KEY_STORE_PATH}",
            hint="look whose they are; to replace them, and keep the old ones as .bak, run"
            " `qmesh node-files --write --replace`",
        )
