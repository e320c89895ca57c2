"""The node's processes: outdated, cut off, silent, or of another machine's core."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from qmesh.mesh.audit.findings import Finding, error_finding
from qmesh.mesh.audit.node.config import parse_worker_entries
from qmesh.mesh.audit.node.other_nodes import taken_port_findings
from qmesh.mesh.audit.surroundings import AuditContext, NodeReport
from qmesh.mesh.node_processes.observed import NodeProcess
from qmesh.mesh.node_processes.restart import (
    describe_control_restart,
    describe_cores,
    describe_process,
    describe_stop,
    describe_worker_restart,
)
from qmesh.mesh.node_processes.workers import ForeignWorker, WorkerProcess, WorkerState
from qmesh.mesh.systemd.instructions import NodeHost, describe_workers_action
from qmesh.mesh.values import STREAM_PORT

_STOPPED: Final = "was stopped by a signal, as Ctrl-Z in a terminal does: it accepts calls and answers none"
_FROZEN: Final = "is frozen, as by `docker pause`: it accepts calls and answers none"


def process_findings(around: AuditContext) -> Iterator[Finding]:
    """What is wrong with the node's processes on this machine.

    Before the node's file has the mesh's list, none should run: then only foreign workers count.
    """
    if around.node is None:
        return
    yield from foreign_worker_findings(around.node)
    if parse_worker_entries(around) == around.workers:
        yield from own_process_findings(around.node, around.host)
        yield from _unconnected_findings(around, around.node)


def own_process_findings(report: NodeReport, host: NodeHost) -> Iterator[Finding]:
    """What is wrong with the processes that should run on this machine, which is `host`."""
    yield from taken_port_findings(report)
    yield from _control_findings(report, host)
    yield from _stopped_findings(report)
    yield from _outdated_findings(report)
    yield from _cut_off_findings(report)
    for each in _select(report, "not-the-node"):
        seen = f"{describe_process(each.process)}, of a user who cannot read config.yml"
        yield error_finding(
            "worker-not-ours",
            _describe_subject(report, (each,)),
            f"the node's worker at this core's port on {report.name}",
            seen,
            f"stop {describe_process(each.process)}, and start the worker of core {each.core}",
        )


def foreign_worker_findings(report: NodeReport | None) -> Iterator[Finding]:
    """Workers on this machine whose cores are not this machine's."""
    for each in () if report is None else report.foreign:
        yield error_finding(
            "worker-not-ours",
            f"{each.address}:{each.port}" if ":" not in each.address else f"[{each.address}]:{each.port}",
            "only workers of this machine's own cores",
            f"{describe_process(each.process)} runs {describe_owner(each)}",
            describe_stop(each),
        )


def describe_owner(foreign: ForeignWorker) -> str:
    """Whose core a foreign worker runs, in words."""
    if foreign.core is None:
        return "a core that no machine of the mesh has"
    return f"core {foreign.core}, which is {foreign.owner}'s"


def _control_findings(report: NodeReport, host: NodeHost) -> Iterator[Finding]:
    control = report.control
    if control is None or control.state == "alive":
        return
    here = msgspec.structs.replace(host, directory=report.directory)
    cure = describe_control_restart(control.process, here)
    taken = {f"{each.port}/{each.protocol}" for each in report.taken}
    if control.state == "silent" and taken.issuperset(control.missing):
        return  # which was said with who has them
    if control.state == "stopped":
        seen = _describe_standstill(control.process)
        yield error_finding("control-silent", "control process", "a control process that runs", seen, cure)
    elif control.state == "silent":
        seen = f"nothing listens on {' and '.join(control.missing)}"
        wanted = "a control process that the network and the workers reach"
        yield error_finding("control-silent", "control process", wanted, seen, cure)
    else:
        seen = f"{describe_process(control.process)} was started before config.yml was changed"
        wanted = "a control process that runs with config.yml as it is"
        yield error_finding("control-outdated", "control process", wanted, seen, cure)


def _stopped_findings(report: NodeReport) -> Iterator[Finding]:
    """Workers that accept calls, and answer none, so that no other machine can tell."""
    stopped = _select(report, "stopped")
    if stopped:
        yield error_finding(
            "worker-silent",
            _describe_subject(report, stopped),
            "workers that run",
            _describe_standstill(stopped[0].process),
            _describe_cure(report, stopped),
        )


def _describe_standstill(process: NodeProcess | None) -> str:
    is_frozen = process is not None and process.frozen
    return f"{describe_process(process)} {_FROZEN if is_frozen else _STOPPED}"


def _outdated_findings(report: NodeReport) -> Iterator[Finding]:
    outdated = _select(report, "outdated")
    if outdated:
        yield error_finding(
            "worker-outdated",
            _describe_subject(report, outdated),
            "workers that run with the node's files as they are",
            f"{'they were' if len(outdated) > 1 else 'it was'} started before a file was changed",
            _describe_cure(report, outdated),
        )


def _cut_off_findings(report: NodeReport) -> Iterator[Finding]:
    cut_off = _select(report, "cut-off")
    for wrong in dict.fromkeys(each.wrong_address for each in cut_off):
        of_these = tuple(each for each in cut_off if each.wrong_address == wrong)
        seen = (
            "no connection for more than a minute"
            if wrong is None
            else f"a connection to {wrong} in its place"
        )
        yield error_finding(
            "worker-cut-off",
            _describe_subject(report, of_these),
            f"a connection to port {STREAM_PORT} of {report.control_node}",
            seen,
            _describe_cure(report, of_these)
            if wrong is not None or report.control_node == report.name
            else f"run `qmesh check` on {report.control_node}; if all is well there:"
            f" {_describe_cure(report, of_these)}",
        )


def _unconnected_findings(around: AuditContext, report: NodeReport) -> Iterator[Finding]:
    """Of other machines whose workers answer, and have no connection."""
    silent: Counter[str] = Counter()
    for group in around.silent:
        silent[group.machine] += len(group.cores)
    host = NodeHost(has_units=around.host.has_units, is_other=True)
    for each in report.unconnected:
        answering = len(each.cores) - silent[each.machine]
        if each.connected < answering:
            restart = describe_workers_action("restart", each.cores, host, are_all=True)
            yield error_finding(
                "worker-cut-off",
                f"{each.machine} {describe_cores(each.cores)}",
                f"a connection of each worker to port {STREAM_PORT} of {report.name}",
                f"{answering} answer and {each.connected} have a connection, for more than a minute",
                f"on {each.machine}: `qmesh check`; if all is well there: {restart}",
            )


def _select(report: NodeReport, state: WorkerState) -> tuple[WorkerProcess, ...]:
    return tuple(each for each in report.workers if each.state == state)


def _describe_subject(report: NodeReport, workers: Sequence[WorkerProcess]) -> str:
    return f"{report.name} {describe_cores([each.core for each in workers])}"


def _describe_cure(report: NodeReport, workers: Sequence[WorkerProcess]) -> str:
    are_all = len(workers) == len(report.workers)
    return describe_worker_restart(workers, are_all=are_all, directory=report.directory)
