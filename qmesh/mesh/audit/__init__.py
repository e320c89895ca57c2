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

from qmesh.mesh.audit.config import config_findings
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.guard import (
    flush_findings,
    foreign_findings,
    guard_findings,
    port_findings,
    sysctl_findings,
)
from qmesh.mesh.audit.listeners import listener_findings, silence_findings
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
from qmesh.mesh.audit.upkeep import (
    agent_findings,
    change_findings,
    key_findings,
    membership_findings,
    service_findings,
)
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
    "SecretFile",
    "SilentWorkers",
    "Surroundings",
    "audit",
]


def audit(desired: NodeState, observed: NodeState, around: Surroundings) -> tuple[Finding, ...]:
    """All findings, in the order of what they are about: keys, guard, tunnel, peers, config, workers."""
    if around.removed:  # of all that a member has, the guard alone is to be there still
        closed = (*guard_findings(desired, observed), *flush_findings(around))
        return (*membership_findings(), *key_findings(around), *closed, *agent_findings(around))
    tunnel = tuple(tunnel_findings(desired.tunnel, observed.tunnel, around))
    return (
        *key_findings(around),
        *guard_findings(desired, observed),
        *foreign_findings(around.obstacles),
        *flush_findings(around),
        *port_findings(desired, observed),
        *sysctl_findings(desired, observed, around),
        *listener_findings(desired, observed, around),
        *tunnel,
        *agent_findings(around),
        *service_findings(around, has_way=not tunnel),
        *change_findings(around),
        *config_findings(desired, around),
        *silence_findings(around),
    )
