"""The node's identity: the keys in config.yml, and keys.yml, its key store; what they are, and where."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Final

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import Alias, BadConfig, Mapping, Node, ParsedConfig, Scalar, Sequence
from qmesh.mesh.nodeconfig.parse import parse_document
from qmesh.mesh.nodeconfig.profiles import profile_facts
from qmesh.mesh.nodeconfig.redaction import read_secret
from qmesh.mesh.protocol.key_digests import NodeIdentity, NodeKey
from qmesh.mesh.values import Profile

KEY_STORE: Final = "keys.yml"
KEY_STORE_PATH: Final = "key.keyManagerFile.path"
PEER_KEY: Final[NodeKey] = "p2p.peerPrivKey"
ENCRYPTION_KEY: Final[NodeKey] = "key.keyManagerFile.encryptionKey"
PEER_KEY_DIGITS: Final = 228
"""Of a private and a public key of Ed448, 57 bytes each, as the node writes them. Source: RFC 8032, 5.2.5."""
_HEX = re.compile("[0-9a-fA-F]*")
_ENCRYPTION_KEY_DIGITS: Final = frozenset({32, 48, 64})
"""Of a key of AES. Source: FIPS 197."""
_RESTORE: Final = f"restore the node's own {KEY_STORE} from a backup"


class KeyProblem(msgspec.Struct, frozen=True):
    """What is wrong with one of the node's keys, in words without the value."""

    key: NodeKey
    message: str


def list_needed_keys(profile: Profile) -> tuple[NodeKey, ...]:
    """What of the node's identity a machine of that profile can't do without."""
    known = profile_facts(profile)
    wanted: tuple[NodeKey, ...] = (PEER_KEY, ENCRYPTION_KEY)
    return (*(key for key in wanted if key in known.secrets), *((KEY_STORE,) if known.key_store else ()))


def normalize_key_store(octets: bytes) -> bytes:
    """What a keys.yml says, whatever its order, quoting and comments.

    Raises BadInput for what is no key store: other YAML than a mapping, aliases, tags, a file cut short. No
    message has a word of it.
    """
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"{KEY_STORE} is not UTF-8", hint=_RESTORE) from None
    try:
        root = parse_document(text)
    except BadConfig as error:
        place = f"line {error.mark.line + 1}, column {error.mark.column + 1}"
        raise BadInput(f"{KEY_STORE}, {place}: {error.problem}", hint=_RESTORE) from None
    except BadInput:
        raise BadInput(f"{KEY_STORE} is too long for a key store", hint=_RESTORE) from None
    if not isinstance(root, Mapping) or not root.pairs:
        raise BadInput(f"{KEY_STORE} is not a mapping of names to keys", hint=_RESTORE)
    return msgspec.json.encode(_normalize_node(root))


def _normalize_node(node: Node) -> object:
    """Nested lists in which the order of a mapping's keys says nothing. No deeper than a text may be."""
    if node.tag is not None or node.anchor is not None:
        raise BadInput(
            f"{KEY_STORE}, line {node.start.line + 1}: there is an anchor (&), alias (*) or tag (!), which no"
            " node writes",
            hint=_RESTORE,
        )
    match node:
        case Scalar():
            return None if node.is_null else node.value
        case Sequence(items=items):
            return ["list", *map(_normalize_node, items)]
        case Mapping(pairs=pairs):
            return ["map", *sorted([key.value, _normalize_node(value)] for key, value in pairs)]
    raise AssertionError(Alias)


def read_identity(config: str | ParsedConfig | None, key_store: bytes | None) -> NodeIdentity:
    """What two files have of a node's identity. What can't be read counts as not there."""
    return NodeIdentity(
        peer_key=_read_hex(config, PEER_KEY),
        encryption_key=_read_hex(config, ENCRYPTION_KEY),
        key_store=_read_key_store(key_store),
    )


def _read_hex(config: str | ParsedConfig | None, key: NodeKey) -> bytes | None:
    try:
        value = None if config is None else read_secret(config, key)
    except BadInput:
        return None
    return value.strip().lower().encode() if value else None


def _read_key_store(octets: bytes | None) -> bytes | None:
    try:
        return None if octets is None else normalize_key_store(octets)
    except BadInput:
        return None


def find_key_problems(config: str | ParsedConfig, profile: Profile) -> Iterator[KeyProblem]:
    """Keys of a config.yml that its node can't start with. Of keys.yml nothing is said.

    Raises BadInput where the text does not load.
    """
    for key in list_needed_keys(profile):
        if key == KEY_STORE:
            continue
        value = (read_secret(config, key) or "").strip()
        if not value:
            yield KeyProblem(key, f"{key} is missing or empty")
        elif not _HEX.fullmatch(value):
            yield KeyProblem(key, f"{key} is not a number in hexadecimal")
        elif key == PEER_KEY and len(value) < PEER_KEY_DIGITS:
            yield KeyProblem(key, f"{key} has {len(value)} digits; a whole one has {PEER_KEY_DIGITS}")
        elif key == ENCRYPTION_KEY and len(value) not in _ENCRYPTION_KEY_DIGITS:
            yield KeyProblem(key, f"{key} has {len(value)} digits; a whole one has 64")


def find_key_store(config: str | ParsedConfig | None, directory: str) -> str:
    """Where a node has its keys.yml: the absolute path to which config.yml leads from the unit's directory.

    directory: of config.yml, absolute; the unit's working directory is the one around it. Without a path in
    config.yml it is beside that. Raises BadInput where the text does not load, or the path is no one value.
    """
    path = None if config is None else read_secret(config, KEY_STORE_PATH)
    if not path:
        return posixpath.join(directory, KEY_STORE)
    if "\0" in path:
        raise BadInput(f"{KEY_STORE_PATH} is not a path", hint=f"write the path of {KEY_STORE} there")
    return posixpath.normpath(posixpath.join(posixpath.dirname(directory.rstrip("/")) or "/", path))


def refuse_incomplete_identity(config: str | ParsedConfig, key_store: bytes | None, profile: Profile) -> None:
    """Raise BadInput where a worker of that profile could not start with these files."""
    for problem in find_key_problems(config, profile):
        raise BadInput(
            f"in config.yml {problem.message}", hint="restore the node's own config.yml from a backup"
        )
    if KEY_STORE in list_needed_keys(profile):
        if key_store is None:
            raise BadInput(f"there is no {KEY_STORE}", hint=_RESTORE)
        normalize_key_store(key_store)
