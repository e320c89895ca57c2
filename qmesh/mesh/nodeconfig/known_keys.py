"""Every key of the node's config.yml: in which versions it is known, and what form its value has.

A key that a version does not know it ignores, with all below it.
Source: the node's published sources: v1.4.20 to v1.4.21-p1, v2.0.4-p2 to v2.0.6-p3, v2.1.0 to v2.1.0.22 (Go),
v2.1.0.25 of June and of August 2026 (Rust).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from qmesh.mesh.values import PROFILES, Profile

Form: TypeAlias = Literal[
    "text", "texts", "texts by name", "flag", "float", "duration", "manager",
    "int", "long", "u8", "u16", "u32", "u64",
]  # fmt: skip
"""What a value is: `int` has 64 bits in Go and 32 in Rust; `manager` is where the node has its keys."""

_KEYS: Final[tuple[tuple[str, Form, Profile, Profile, str], ...]] = (
    ("", "text", "1.4", "2.1-rust", "listenGrpcMultiaddr=listenGRPCMultiaddr listenRESTMultiaddr"),
    ("", "text", "1.4", "2.0", "logFile"),
    ("key", "manager", "1.4", "2.1-rust", "keyManagerType"),
    ("key.keyManagerFile", "text", "1.4", "2.1-rust", "path encryptionKey"),
    ("key.keyManagerFile", "flag", "1.4", "2.1-rust", "createIfMissing"),
    ("alias.aliasFile", "text", "2.1", "2.1", "path"),
    ("alias.aliasFile", "flag", "2.1", "2.1", "createIfMissing"),
    ("p2p", "text", "1.4", "2.1-rust", "listenMultiaddr peerPrivKey traceLogFile"),
    ("p2p", "texts", "1.4", "2.1-rust", "bootstrapPeers"),
    ("p2p", "u8", "1.4", "2.1-rust", "network"),
    ("p2p", "u64", "1.4", "2.1-rust", "directConnectTicks opportunisticGraftTicks"),
    ("p2p", "float", "1.4", "2.1-rust", "gossipFactor"),
    (
        "p2p",
        "int",
        "1.4",
        "2.1-rust",
        (
            "d dLo dHi dScore dOut historyLength historyGossip dLazy gossipRetransmission prunePeers"
            " connectors maxPendingConnections opportunisticGraftPeers"
        ),
    ),
    ("p2p", "u64", "1.4", "1.4", "lowWatermarkConnections highWatermarkConnections"),
    ("p2p", "int", "2.0", "2.1-rust", "lowWatermarkConnections highWatermarkConnections"),
    ("p2p", "int", "1.4", "1.4", "minPeers"),
    ("p2p", "int", "1.4", "2.1", "maxIHaveLength maxIHaveMessages"),
    ("p2p", "int", "2.1-rust", "2.1-rust", "maxIhaveLength maxIhaveMessages"),
    (
        "p2p",
        "duration",
        "1.4",
        "2.1-rust",
        (
            "heartbeatInitialDelay=heartbeatInitialDelayMs heartbeatInterval=heartbeatIntervalMs"
            " fanoutTTL=fanoutTtlMs pruneBackoff=pruneBackoffMs unsubscribeBackoff=unsubscribeBackoffMs"
            " connectionTimeout=connectionTimeoutMs directConnectInitialDelay=directConnectInitialDelayMs"
            " graftFloodThreshold=graftFloodThresholdMs iWantFollowupTime=iwantFollowupTimeMs"
        ),
    ),
    ("p2p", "texts", "2.0", "2.1-rust", "directPeers"),
    (
        "p2p",
        "int",
        "2.0",
        "2.1-rust",
        (
            "maxIDontWantMessages=maxIdontWantMessages iDontWantMessageThreshold=idontWantMessageThreshold"
            " iDontWantMessageTTL=idontWantMessageTtl grpcServerRateLimit minBootstrapPeers"
            " bootstrapParallelism discoveryParallelism discoveryPeerLookupLimit pingAttempts"
            " validateQueueSize validateWorkers subscriptionQueueSize peerOutboundQueueSize"
        ),
    ),
    ("p2p", "duration", "2.0", "2.1-rust", "pingTimeout=pingTimeoutMs pingPeriod=pingPeriodMs"),
    (
        "p2p",
        "text",
        "2.1",
        "2.1-rust",
        "streamListenMultiaddr announceListenMultiaddr announceStreamListenMultiaddr",
    ),
    ("p2p", "flag", "2.1", "2.1-rust", "traceLogStdout"),
    ("p2p", "duration", "2.1", "2.1-rust", "peerReconnectCheckInterval=peerReconnectCheckIntervalMs"),
    (
        "engine",
        "text",
        "1.4",
        "2.1-rust",
        "provingKeyId filter genesisSeed statsMultiaddr dataWorkerBaseListenMultiaddr",
    ),
    ("engine", "int", "1.4", "2.1-rust", "minimumPeersRequired"),
    ("engine", "long", "1.4", "2.1-rust", "pendingCommitWorkers dataWorkerMemoryLimit"),
    ("engine", "long", "1.4", "2.0", "maxFrames"),
    ("engine", "u16", "1.4", "2.0", "dataWorkerBaseListenPort"),
    ("engine", "texts", "1.4", "2.0", "dataWorkerMultiaddrs"),
    ("engine", "u32", "1.4", "2.1", "difficulty"),
    ("engine", "int", "2.0", "2.1-rust", "dataWorkerCount syncCandidates"),
    ("engine", "texts", "2.0", "2.1-rust", "multisigProverEnrollmentPaths"),
    ("engine", "flag", "2.0", "2.0", "fullProver autoMergeCoins"),
    ("engine", "flag", "2.0", "2.1", "allowExcessiveGOMAXPROCS"),
    ("engine", "duration", "2.0", "2.1-rust", "syncTimeout=syncTimeoutMs"),
    ("engine", "u16", "2.1", "2.1-rust", "dataWorkerBaseP2PPort=dataWorkerBaseP2pPort"),
    ("engine", "u16", "2.1", "2.1-rust", "dataWorkerBaseStreamPort"),
    (
        "engine",
        "texts",
        "2.1",
        "2.1-rust",
        (
            "dataWorkerP2PMultiaddrs=dataWorkerP2pMultiaddrs dataWorkerStreamMultiaddrs"
            " dataWorkerAnnounceP2PMultiaddrs=dataWorkerAnnounceP2pMultiaddrs"
            " dataWorkerAnnounceStreamMultiaddrs dataWorkerFilters archiveEndpoints blacklist"
        ),
    ),
    ("engine", "flag", "2.1", "2.1-rust", "enableMasterProxy archiveMode"),
    ("engine", "text", "2.1", "2.1-rust", "rewardStrategy delegateAddress rewardsAddress alertKey"),
    ("engine", "text", "2.1", "2.1", "rebuildstart rebuildend"),
    ("engine.syncMessageLimits", "int", "2.0", "2.1-rust", "maxRecvMsgSize maxSendMsgSize"),
    ("engine.framePublish", "text", "2.0", "2.1-rust", "mode"),
    ("engine.framePublish", "int", "2.0", "2.1-rust", "threshold ballastSize"),
    ("engine.framePublish.fragmentation", "text", "2.0", "2.1-rust", "algorithm"),
    (
        "engine.framePublish.fragmentation.reedSolomon",
        "int",
        "2.0",
        "2.1-rust",
        "dataShards parityShards",
    ),
    ("db", "text", "1.4", "2.1-rust", "path"),
    ("db", "text", "2.1", "2.1-rust", "workerPathPrefix"),
    ("db", "texts", "2.1", "2.1-rust", "workerPaths"),
    ("db", "int", "2.1", "2.1-rust", "noticePercentage warnPercentage terminatePercentage"),
    ("db", "flag", "2.1", "2.1", "inmemorydonotuse"),
    ("logger", "text", "2.1", "2.1-rust", "path"),
    ("logger", "int", "2.1", "2.1-rust", "maxSize maxBackups maxAge"),
    ("logger", "flag", "2.1", "2.1-rust", "compress"),
    ("logger", "texts by name", "2.1", "2.1-rust", "logFilters"),
    ("explorer", "flag", "2.1-rust", "2.1-rust", "enabled"),
    ("explorer", "text", "2.1-rust", "2.1-rust", "listenAddr"),
)
"""Section, form, first and last version, names. NAME=OTHER: 2.1-rust reads OTHER too."""

_NEWER_KEYS: Final[tuple[tuple[str, Form, str], ...]] = (
    ("p2p", "flag", "disableOnionRouting"),
    ("engine", "long", "archiveBlacklistTtlSecs=archiveBlacklistTtl"),
    ("engine", "texts", "consensusCommittee consensusCommitteePeerIds"),
    ("engine", "u64", "consensusLeaderTimeoutSecs"),
    ("engine", "flag", "appConsensusCw"),
    ("proofWorker", "text", "path"),
    ("proofWorker", "flag", "disabled"),
    (
        "proofWorker",
        "u64",
        (
            "cpuSeconds wallTimeoutSecs addressSpaceBytes maxConcurrent verifyBudgetSecs admissionWaitMs"
            " maxResidentBytes"
        ),
    ),
    ("proofWorker", "u8", "nativeThreads"),
)
"""What only newer builds of 2.1-rust know: older ones of the same number ignore it."""


class KnownKey(NamedTuple):
    """A key as a version reads it.

    name: the same for both spellings of one key. form: None for a section.
    is_newer: whether only newer builds of that version know it.
    """

    name: str
    form: Form | None
    is_newer: bool = False


Section: TypeAlias = Mapping[str, KnownKey]
"""The keys of a section, by each spelling."""


def known_sections(profile: Profile) -> Mapping[str, Section]:
    """The sections of a version by their dotted path, "" for the top level."""
    return _SECTIONS[profile]


def is_known_anywhere(section: str, name: str) -> bool:
    """Whether any version knows the key there."""
    return any(name in sections.get(section, ()) for sections in _SECTIONS.values())


def find_similar_key(section: str, name: str, profile: Profile) -> str | None:
    """The version's key that differs from `name` only in case, `-` and `_`; None for any other."""
    return _BY_LETTERS[profile].get((section, _keep_letters(name)))


def list_names(*forms: Form) -> frozenset[str]:
    """The names of all keys that have one of these forms in some version."""
    return frozenset(
        name
        for sections in _SECTIONS.values()
        for section in sections.values()
        for name, key in section.items()
        if key.form in forms
    )


def list_profiles(section: str, name: str) -> tuple[Profile, ...]:
    """The versions that know a key, by just this name."""
    return tuple(profile for profile in PROFILES if name in _SECTIONS[profile].get(section, ()))


def walk_key_paths() -> Iterator[tuple[str, str]]:
    """Section and name of every key, each once."""
    paths = (
        (path, name)
        for sections in _SECTIONS.values()
        for path, section in sections.items()
        for name in section
    )
    yield from dict.fromkeys(paths)


def _keep_letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").casefold()


def _build_sections(profile: Profile) -> dict[str, dict[str, KnownKey]]:
    sections: dict[str, dict[str, KnownKey]] = {}
    place = PROFILES.index(profile)
    for path, form, first, last, names in _KEYS:
        if PROFILES.index(first) <= place <= PROFILES.index(last):
            _add_keys(sections, path, form, names, is_rust=profile == "2.1-rust")
    for path, form, names in _NEWER_KEYS if profile == "2.1-rust" else ():
        _add_keys(sections, path, form, names, is_rust=True, is_newer=True)
    return sections


def _add_keys(
    sections: dict[str, dict[str, KnownKey]],
    path: str,
    form: Form,
    names: str,
    *,
    is_rust: bool,
    is_newer: bool = False,
) -> None:
    above = ""
    for name in path.split(".") if path else ():
        sections.setdefault(above, {}).setdefault(name, KnownKey(name, None, is_newer))
        above = f"{above}.{name}".lstrip(".")
    keys = sections.setdefault(path, {})
    for pair in names.split():
        name, _, other = pair.partition("=")
        keys[name] = KnownKey(name, form, is_newer)
        if other and is_rust:
            keys[other] = keys[name]


def _index_by_letters(sections: Mapping[str, Section]) -> dict[tuple[str, str], str]:
    return {
        (path, _keep_letters(name)): key.name
        for path, section in sections.items()
        for name, key in section.items()
    }


_SECTIONS: Final[Mapping[Profile, Mapping[str, Section]]] = {
    profile: _build_sections(profile) for profile in PROFILES
}
_BY_LETTERS: Final = {profile: _index_by_letters(sections) for profile, sections in _SECTIONS.items()}
