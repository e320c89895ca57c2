"""The parts of an audit, and all of them in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.maintenance import (
    agent_findings,
    change_findings,
    clock_findings,
    conflict_findings,
    key_findings,
    membership_findings,
    service_findings,
    unit_findings,
)
from qmesh.mesh.audit.members import apart_findings, memory_findings, unlike_machine_findings
from qmesh.mesh.audit.network.guard import (
    boot_unit_findings,
    claim_findings,
    flush_findings,
    foreign_rule_findings,
    guard_findings,
    port_findings,
    saved_rule_findings,
    sysctl_findings,
)
from qmesh.mesh.audit.network.links import link_findings, suspect_findings
from qmesh.mesh.audit.network.listeners import listener_findings, open_port_findings, silent_worker_findings
from qmesh.mesh.audit.network.mtu import narrow_path_findings
from qmesh.mesh.audit.network.tunnel import collision_findings, tunnel_findings
from qmesh.mesh.audit.node.announcements import announcement_findings
from qmesh.mesh.audit.node.config import config_findings
from qmesh.mesh.audit.node.node_keys import node_key_findings
from qmesh.mesh.audit.node.obstacles import with_obstacles
from qmesh.mesh.audit.node.processes import (
    foreign_worker_findings,
    process_findings,
)
from qmesh.mesh.audit.node.programs import program_findings
from qmesh.mesh.audit.surroundings import (
    AuditContext,
)
from qmesh.mesh.state import NodeState

Part: TypeAlias = Literal[
    "keys", "guard", "other firewalls", "units that flush", "saved rules", "ports", "sysctls",
    "listeners", "tunnel",
    "links", "routes", "agent", "membership service", "unconfirmed changes", "node's program", "config.yml",
    "announcements", "node keys", "units of the node", "workers",
    "node processes", "membership", "clock", "members",
]  # fmt: skip
"""What an audit is made of, by what it is about."""
Look: TypeAlias = Callable[[], Iterable[Finding]]


def list_audit_parts(
    desired: NodeState, observed: NodeState, around: AuditContext
) -> tuple[tuple[Part, Look], ...]:
    """The parts of an audit, each of which stands for itself."""
    guard: tuple[tuple[Part, Look], ...] = (
        ("guard", lambda: guard_findings(desired, observed)),
        ("units that flush", lambda: flush_findings(around)),
        ("agent", lambda: boot_unit_findings(desired, around)),
        ("saved rules", lambda: saved_rule_findings(around)),
    )
    if around.removed:  # of all that a member has, only the guard should still be there
        return (
            ("membership", membership_findings),
            ("keys", lambda: key_findings(around)),
            *guard,
            ("agent", lambda: agent_findings(around)),
            ("node processes", lambda: foreign_worker_findings(around.node)),
        )
    return (
        ("keys", lambda: key_findings(around)),
        guard[0],
        ("other firewalls", lambda: foreign_rule_findings((*around.obstacles, *around.path_obstacles))),
        ("other firewalls", lambda: suspect_findings(around)),
        ("other firewalls", lambda: claim_findings(around.proof)),
        *guard[1:],
        ("ports", lambda: port_findings(desired, observed, around)),
        ("sysctls", lambda: sysctl_findings(desired, observed, around)),
        ("listeners", lambda: listener_findings(desired, observed, around)),
        ("listeners", lambda: open_port_findings(desired, observed, around)),
        ("tunnel", lambda: tunnel_findings(desired.tunnel, observed.tunnel, around)),
        ("tunnel", lambda: narrow_path_findings(desired.tunnel, observed.tunnel, around)),
        ("links", lambda: link_findings(around)),
        ("routes", lambda: collision_findings(desired.tunnel, observed.tunnel, around)),
        ("agent", lambda: agent_findings(around)),
        (
            "membership service",
            lambda: service_findings(around, has_way=_is_tunnel_healthy(desired, observed, around)),
        ),
        ("membership", lambda: conflict_findings(around)),
        ("unconfirmed changes", lambda: change_findings(around)),
        ("clock", lambda: clock_findings(around)),
        ("node's program", lambda: program_findings(around)),
        ("config.yml", lambda: with_obstacles(config_findings(desired, around), around)),
        ("announcements", lambda: announcement_findings(observed, around)),
        ("units of the node", lambda: unit_findings(around)),
        ("node keys", lambda: with_obstacles(node_key_findings(around), around)),
        ("workers", lambda: silent_worker_findings(around)),
        ("workers", lambda: memory_findings(around.facts, own_name=around.own_name, host=around.host)),
        ("node processes", lambda: process_findings(around)),
        (
            "members",
            lambda: apart_findings(
                around.facts, own_name=around.own_name, control=around.control, spoken=around.apart
            ),
        ),
        ("members", lambda: unlike_machine_findings(around.facts, own_name=around.own_name)),
    )


def _is_tunnel_healthy(desired: NodeState, observed: NodeState, around: AuditContext) -> bool:
    found = (
        *tunnel_findings(desired.tunnel, observed.tunnel, around),
        *collision_findings(desired.tunnel, observed.tunnel, around),
    )
    return all(finding.severity == "info" for finding in found)


def list_findings(desired: NodeState, observed: NodeState, around: AuditContext) -> tuple[Finding, ...]:
    """All findings, in the order of what they are about: keys, guard, tunnel, peers, config, workers."""
    return tuple(finding for _, look in list_audit_parts(desired, observed, around) for finding in look())


def list_node_findings(desired: NodeState, around: AuditContext) -> tuple[Finding, ...]:
    """The findings about the node's files and programs alone, for which nothing else has to be looked at."""
    return (
        *program_findings(around),
        *with_obstacles(config_findings(desired, around), around),
        *with_obstacles(node_key_findings(around), around),
    )
