"""Ports of this node that another node on the same machine has."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from qmesh.mesh.audit.findings import Finding, error_finding
from qmesh.mesh.audit.surroundings import NodeReport
from qmesh.mesh.node_processes.other_nodes import TakenPort
from qmesh.mesh.node_processes.restart import describe_cores, describe_process
from qmesh.mesh.ports.port_ranges import format_port_ranges


def taken_port_findings(report: NodeReport) -> Iterator[Finding]:
    """One finding for each other node's workers' ports, and one for its control process's."""
    for directory in dict.fromkeys(each.directory for each in report.taken):
        of_it = [each for each in report.taken if each.directory == directory]
        workers = [each for each in of_it if each.core is not None]
        control = [each for each in of_it if each.core is None]
        if workers:
            cores = sorted({each.core for each in workers if each.core is not None})
            yield _build_finding(
                "worker-not-ours", f"{report.name} {describe_cores(cores)}", directory, workers
            )
        if control:
            yield _build_finding("control-silent", "control process", directory, control)


def _build_finding(code: str, subject: str, directory: str, taken: Sequence[TakenPort]) -> Finding:
    ports = format_port_ranges(sorted({each.port for each in taken}))
    process = describe_process(taken[0].process)
    config = shlex.quote(f"{directory}/config.yml")
    return error_finding(
        code,
        subject,
        f"port {ports} free for this machine's node",
        f"another node has it, that of {directory}: {process}",
        f"give that node other ports, in {config}, and restart it; then start this one's process again",
    )
