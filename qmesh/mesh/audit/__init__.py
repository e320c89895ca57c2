"""What is not as it should be on one machine: desired, observed and surroundings in, findings out.

findings      what the answer is made of
surroundings  what is looked at besides the node's state
upkeep        keys, agent, a change that waits
guard         the guard, and what weakens it
listeners     workers that listen where they should not, or do not
tunnel        the tunnel and its peers
config        the node's config.yml
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from qmesh.mesh.audit.config import config_findings
from qmesh.mesh.audit.findings import Finding, check_failed
from qmesh.mesh.audit.guard import (
    flush_findings,
    foreign_findings,
    guard_findings,
    port_findings,
    sysctl_findings,
)
from qmesh.mesh.audit.listeners import listener_findings, silence_findings
from qmesh.mesh.audit.maintenance import (
    agent_findings,
    change_findings,
    key_findings,
    membership_findings,
    service_findings,
)
from qmesh.mesh.audit.surroundings import (
    Agent,
    AgentTrouble,
    BlackHole,
    Change,
    ConfigFile,
    Flusher,
    KeyFile,
    SecretFile,
    SilentWorkers,
    Surroundings,
)
from qmesh.mesh.audit.tunnel import tunnel_findings
from qmesh.mesh.model import NodeState

__all__ = [
    "Agent",
    "AgentTrouble",
    "BlackHole",
    "Change",
    "ConfigFile",
    "Finding",
    "Flusher",
    "KeyFile",
    "Part",
    "SecretFile",
    "SilentWorkers",
    "Surroundings",
    "audit",
    "check_failed",
    "parts",
]


Part: TypeAlias = Literal[
    "keys", "guard", "other firewalls", "units that flush", "ports", "sysctls", "listeners", "tunnel",
    "agent", "membership service", "unconfirmed changes", "config.yml", "workers", "membership",
]  # fmt: skip
"""What an audit is made of, by what it is about."""
Look: TypeAlias = Callable[[], Iterable[Finding]]


def parts(desired: NodeState, observed: NodeState, around: Surroundings) -> tuple[tuple[Part, Look], ...]:
    """The parts of an audit, each of which stands for itself."""
    guard: tuple[tuple[Part, Look], ...] = (
        ("guard", lambda: guard_findings(desired, observed)),
        ("units that flush", lambda: flush_findings(around)),
    )
    if around.removed:  # of all that a member has, the guard alone is to be there still
        return (
            ("membership", membership_findings),
            ("keys", lambda: key_findings(around)),
            *guard,
            ("agent", lambda: agent_findings(around)),
        )
    return (
        ("keys", lambda: key_findings(around)),
        guard[0],
        ("other firewalls", lambda: foreign_findings(around.obstacles)),
        guard[1],
        ("ports", lambda: port_findings(desired, observed)),
        ("sysctls", lambda: sysctl_findings(desired, observed, around)),
        ("listeners", lambda: listener_findings(desired, observed, around)),
        ("tunnel", lambda: tunnel_findings(desired.tunnel, observed.tunnel, around)),
        ("agent", lambda: agent_findings(around)),
        ("membership service", lambda: service_findings(around, has_way=_has_way(desired, observed, around))),
        ("unconfirmed changes", lambda: change_findings(around)),
        ("config.yml", lambda: config_findings(desired, around)),
        ("workers", lambda: silence_findings(around)),
    )


def _has_way(desired: NodeState, observed: NodeState, around: Surroundings) -> bool:
    return not any(tunnel_findings(desired.tunnel, observed.tunnel, around))


def audit(desired: NodeState, observed: NodeState, around: Surroundings) -> tuple[Finding, ...]:
    """All findings, in the order of what they are about: keys, guard, tunnel, peers, config, workers."""
    return tuple(finding for _, look in parts(desired, observed, around) for finding in look())
