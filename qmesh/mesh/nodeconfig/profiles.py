"""What the node's config format was in each of its versions, and which version a file is for.

Source: the node's published sources, v1.4.20 to v2.1.0.25.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from qmesh.mesh.nodeconfig.document import Mapping, Node, ParsedConfig
from qmesh.mesh.nodeconfig.key_location import Key
from qmesh.mesh.nodeconfig.known_keys import list_profiles, walk_key_paths
from qmesh.mesh.nodeconfig.parse import parse_config
from qmesh.mesh.values import PROFILES, Profile


class ProfileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What qmesh needs to know of one profile.

    list_key: the list of what the control process dials, an entry a core: it is what the guard closes.
    p2p_key: the list of what other provers dial, as long as the first; None before 2.1.
    announced_stream_key, announced_p2p_key: what other nodes are told of both, as long; None before 2.1.
    base_port, p2p_base_port: TCP ports of core 1 in both, where nothing else is said.
    base_port_key, p2p_base_port_key: where these have to be written out; None where they need not.
    stream_key: where workers dial the control process, which listens there; None before 2.1.
    grpc_key: what listens on every address unless it says otherwise; None where it listens on none.
    secrets: dotted keys that a worker machine's file needs besides.
    key_store: whether a worker machine needs the node's `keys.yml` too.
    """

    profile: Profile
    list_key: Key
    p2p_key: Key | None = None
    announced_stream_key: Key | None = None
    announced_p2p_key: Key | None = None
    base_port: int
    p2p_base_port: int | None = None
    base_port_key: Key | None = None
    p2p_base_port_key: Key | None = None
    stream_key: Key | None = None
    grpc_key: Key | None = None
    secrets: tuple[str, ...]
    key_store: bool = False

    @property
    def announce_keys(self) -> tuple[Key, ...]:
        """The keys of the lists of what other nodes are told."""
        keys = (self.announced_stream_key, self.announced_p2p_key)
        return tuple(key for key in keys if key is not None)

    @property
    def lists(self) -> tuple[Key, ...]:
        """The keys of all lists that have an entry a core."""
        return (self.list_key, *(() if self.p2p_key is None else (self.p2p_key,)), *self.announce_keys)

    @property
    def single_keys(self) -> tuple[Key, ...]:
        """The keys of the single values that qmesh writes."""
        proxy = None if self.stream_key is None else MASTER_PROXY
        keys = (proxy, self.stream_key, self.base_port_key, self.p2p_base_port_key, self.grpc_key)
        return tuple(key for key in keys if key is not None)


MASTER_PROXY: Final = Key("engine", "enableMasterProxy")
"""Whether other provers reach the workers via the control process."""
_OLD_LIST: Final = Key("engine", "dataWorkerMultiaddrs")
_GO_2_1: Final = ProfileFacts(
    profile="2.1",
    list_key=Key("engine", "dataWorkerStreamMultiaddrs"),
    p2p_key=Key("engine", "dataWorkerP2PMultiaddrs"),
    announced_stream_key=Key("engine", "dataWorkerAnnounceStreamMultiaddrs"),
    announced_p2p_key=Key("engine", "dataWorkerAnnounceP2PMultiaddrs"),
    base_port=32500,
    p2p_base_port=25000,
    stream_key=Key("p2p", "streamListenMultiaddr"),
    secrets=("p2p.peerPrivKey", "key.keyManagerFile.encryptionKey"),
    key_store=True,
)
_FACTS: Final = {
    "1.4": ProfileFacts(profile="1.4", list_key=_OLD_LIST, base_port=40000, secrets=()),
    "2.0": ProfileFacts(profile="2.0", list_key=_OLD_LIST, base_port=40000, secrets=("p2p.peerPrivKey",)),
    "2.1": _GO_2_1,
    "2.1-rust": msgspec.structs.replace(
        _GO_2_1,
        profile="2.1-rust",
        # It has a spelling of its own, and reads the other as well; a file with both it does not load.
        p2p_key=Key("engine", "dataWorkerP2PMultiaddrs", alias="dataWorkerP2pMultiaddrs"),
        announced_p2p_key=Key(
            "engine", "dataWorkerAnnounceP2PMultiaddrs", alias="dataWorkerAnnounceP2pMultiaddrs"
        ),
        base_port_key=Key("engine", "dataWorkerBaseStreamPort"),
        p2p_base_port_key=Key("engine", "dataWorkerBaseP2PPort", alias="dataWorkerBaseP2pPort"),
        grpc_key=Key("", "listenGrpcMultiaddr", alias="listenGRPCMultiaddr"),
    ),
}

_TELLING_NOTHING: Final = frozenset({("", "logFile"), ("engine", "maxFrames"), ("", "listenGRPCMultiaddr")})
"""Keys that the first builds of 2.1 had too, and a spelling that is another one's mistake."""

SHARED_KEYS: Final[tuple[Profile, ...]] = ("2.1", "2.1-rust")
"""The profiles whose files have the same keys, where Go wrote the file and Rust may read it."""


def profile_facts(profile: Profile) -> ProfileFacts:
    """The profile's facts."""
    return _FACTS[profile]


def detect_profile(config: str | ParsedConfig) -> Profile | None:
    """The profile of the node that a config.yml was written for, None where its keys do not tell.

    "2.1" is also the answer where the keys are those that 2.1 and 2.1-rust share.
    Raises BadInput when the text does not load.
    """
    profiles = list_possible_profiles(config)
    return profiles[0] if len(profiles) == 1 or profiles == SHARED_KEYS else None


def list_possible_profiles(config: str | ParsedConfig) -> tuple[Profile, ...]:
    """The profiles of which a config.yml may be, the oldest first; never none.

    The newest key decides: a node leaves the keys of older versions in a file when it is upgraded,
    but none puts in keys of versions to come. So `SHARED_KEYS` is the answer for each file of 2.1, also
    where the node was upgraded to Rust since. Raises BadInput when the text does not load.
    """
    ages = [_AGES[key] for key in _keys_by_section(parse_config(config).root) if key in _AGES]
    oldest = max((first for first, _ in ages), default=0)
    newest = min((last for _, last in ages), default=len(PROFILES) - 1)
    if PROFILES[oldest] == SHARED_KEYS[0]:
        return SHARED_KEYS
    return PROFILES[oldest : max(oldest, newest) + 1]


def _keys_by_section(root: Node | None) -> Iterator[tuple[str, str]]:
    """The keys of the root, with the section "", and those one level below."""
    for key, value in root.pairs if isinstance(root, Mapping) else ():
        yield "", key.value
        for inner, _ in value.pairs if isinstance(value, Mapping) else ():
            yield key.value, inner.value


def _build_key_ages() -> dict[tuple[str, str], tuple[int, int]]:
    ages = {}
    for section, name in walk_key_paths():
        known = list_profiles(section, name)
        first, last = PROFILES.index(known[0]), PROFILES.index(known[-1])
        # A key that only 2.1-rust dropped tells nothing more: a file keeps it.
        ages[section, name] = first, last if PROFILES[last] != "2.1" else len(PROFILES) - 1
    return {key: age for key, age in ages.items() if key not in _TELLING_NOTHING}


_AGES: Final = _build_key_ages()
"""By section and name, the first and the last profile that knew a key, as positions in PROFILES."""
