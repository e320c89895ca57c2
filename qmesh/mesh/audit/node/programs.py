"""The node's program: that it is of the version that the mesh is for, and runs no core of another machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from qmesh.errors import BadInput
from qmesh.mesh.audit.findings import Finding, error_finding
from qmesh.mesh.audit.surroundings import AuditContext
from qmesh.mesh.nodeconfig import list_possible_profiles
from qmesh.mesh.nodeconfig.program_version import NodeProgram, narrow_profiles
from qmesh.mesh.systemd.instructions import describe_control_action
from qmesh.mesh.values import PROFILES, Profile


def program_findings(around: AuditContext) -> Iterator[Finding]:
    """Programs that read other keys, and open other ports, than the mesh was told that the node does."""
    for program in around.programs:
        if around.profile not in program.version.profiles:
            fix = f"qmesh set --node {_choose_profile(program, around)}"
            if not around.is_control:
                fix = (
                    f"if all machines run it: `{fix}` on the control node; else install the program of node"
                    f" {around.profile} here, and restart its processes"
                )
            yield error_finding("node-program", program.path, f"node {around.profile}", str(program), fix)
        if program.core == 0 and not around.is_control:
            # Whatever it is called: it has this node's identity, and the network takes both for one.
            yield error_finding(
                "worker-not-ours",
                "control process",
                f"a control process on {around.control} alone, with this node's keys",
                f"one runs on this machine too: {program}",
                describe_control_action("disable --now", around.host),
            )


def _choose_profile(program: NodeProgram, around: AuditContext) -> Profile:
    """What the mesh should be for, were this program right."""
    config, possible = around.config, PROFILES
    if config is not None and config.text is not None:
        with contextlib.suppress(BadInput):  # a finding of the lint
            possible = list_possible_profiles(config.parse())
    return narrow_profiles(possible, program.version)[-1]
