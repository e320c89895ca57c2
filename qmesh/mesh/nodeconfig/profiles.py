"""What the node's config format was in each of its versions, and which version a file is for.

Source: the node's published sources, v1.4.20 to v2.1.0.25.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.model import PROFILES, Profile
from qmesh.mesh.nodeconfig.document import Mapping, Node, load


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What qmesh needs to know of one profile.

    section, list_name: the worker list's key, in two parts: `engine` and `dataWorkerMultiaddrs`.
    base_port: TCP port of core 1 where nothing else is said.
    secrets: dotted keys that a worker machine's file needs besides the list.
    """

    profile: Profile
    section: str
    list_name: str
    base_port: int
    secrets: tuple[str, ...]

    @property
    def list_key(self) -> str:
        """The worker list's dotted key."""
        return f"{self.section}.{self.list_name}"


_FACTS: Final = {
    "1.4": Facts(
        profile="1.4", section="engine", list_name="dataWorkerMultiaddrs", base_port=40000, secrets=()
    ),
    "2.0": Facts(
        profile="2.0",
        section="engine",
        list_name="dataWorkerMultiaddrs",
        base_port=40000,
        secrets=("p2p.peerPrivKey",),
    ),
}

_SINCE: Final[dict[Profile, dict[str, str]]] = {
    "2.0": {
        "engine": "allowExcessiveGOMAXPROCS autoMergeCoins dataWorkerCount framePublish fullProver"
        " multisigProverEnrollmentPaths syncCandidates syncMessageLimits syncTimeout",
        "p2p": "bootstrapParallelism directPeers discoveryParallelism discoveryPeerLookupLimit"
        " grpcServerRateLimit iDontWantMessageTTL iDontWantMessageThreshold maxIDontWantMessages"
        " minBootstrapPeers peerOutboundQueueSize pingAttempts pingPeriod pingTimeout"
        " subscriptionQueueSize validateQueueSize validateWorkers",
    },
    "2.1": {
        "": "alias logger",
        "db": "inmemorydonotuse noticePercentage terminatePercentage warnPercentage workerPathPrefix"
        " workerPaths",
        "engine": "alertKey archiveEndpoints archiveMode blacklist dataWorkerAnnounceP2PMultiaddrs"
        " dataWorkerAnnounceStreamMultiaddrs dataWorkerBaseP2PPort dataWorkerBaseStreamPort"
        " dataWorkerFilters dataWorkerP2PMultiaddrs dataWorkerStreamMultiaddrs delegateAddress"
        " enableMasterProxy rebuildend rebuildstart rewardStrategy rewardsAddress",
        "p2p": "announceListenMultiaddr announceStreamListenMultiaddr peerReconnectCheckInterval"
        " streamListenMultiaddr traceLogStdout",
    },
    "2.1-rust": {
        "": "explorer",
        "engine": "dataWorkerAnnounceP2pMultiaddrs dataWorkerBaseP2pPort dataWorkerP2pMultiaddrs"
        " syncTimeoutMs",
        "p2p": "connectionTimeoutMs directConnectInitialDelayMs fanoutTtlMs graftFloodThresholdMs"
        " heartbeatInitialDelayMs heartbeatIntervalMs idontWantMessageThreshold idontWantMessageTtl"
        " iwantFollowupTimeMs maxIdontWantMessages maxIhaveLength maxIhaveMessages"
        " peerReconnectCheckIntervalMs pingPeriodMs pingTimeoutMs pruneBackoffMs unsubscribeBackoffMs",
    },
}
"""The keys that a profile was the first to know."""

_UNTIL: Final[dict[Profile, dict[str, str]]] = {
    "1.4": {"p2p": "minPeers"},
    "2.0": {"engine": "autoMergeCoins dataWorkerBaseListenPort dataWorkerMultiaddrs fullProver"},
}
"""The keys that a profile was the last to know. Those that only 2.1-rust dropped tell nothing more."""


def facts(profile: Profile) -> Facts:
    """The profile's facts. Raises BadInput for the profiles of node 2.1."""
    known = _FACTS.get(profile)
    if known is None:
        raise BadInput(
            f"this version of qmesh does not support the config of node {profile} yet",
            hint=f"it writes the config of node {' and '.join(_FACTS)}",
        )
    return known


def detect(text: str) -> Profile | None:
    """The profile of the node that a config.yml was written for, None where its keys do not tell.

    The newest key decides: a node leaves the keys of older versions in a file when it is upgraded,
    but none puts in keys of versions to come. "2.1" is also the answer where the keys are those
    that 2.1 and 2.1-rust share. Raises BadInput when the text does not load.
    """
    ages = [_AGES[key] for key in _keys_by_section(load(text)) if key in _AGES]
    oldest = max((first for first, _ in ages), default=0)
    newest = min((last for _, last in ages), default=len(PROFILES) - 1)
    if newest <= oldest or PROFILES[oldest] == "2.1":
        return PROFILES[oldest]
    return None


def _keys_by_section(root: Node | None) -> Iterator[tuple[str, str]]:
    """The keys of the root, with the section "", and those one level below."""
    for key, value in root.pairs if isinstance(root, Mapping) else ():
        yield "", key.value
        for inner, _ in value.pairs if isinstance(value, Mapping) else ():
            yield key.value, inner.value


def _keys(table: dict[Profile, dict[str, str]]) -> dict[tuple[str, str], int]:
    return {
        (section, name): PROFILES.index(profile)
        for profile, sections in table.items()
        for section, names in sections.items()
        for name in names.split()
    }


def _ages() -> dict[tuple[str, str], tuple[int, int]]:
    since, until = _keys(_SINCE), _keys(_UNTIL)
    return {
        key: (since.get(key, 0), until.get(key, len(PROFILES) - 1)) for key in since.keys() | until.keys()
    }


_AGES: Final = _ages()
"""By section and name, the first and the last profile that knew a key, as positions in PROFILES."""
