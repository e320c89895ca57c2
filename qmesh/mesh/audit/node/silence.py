"""Why workers do not answer, in words, and what to do about each reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.surroundings import AuditContext, SilentWorkers
from qmesh.mesh.inventory import Worker
from qmesh.mesh.node_processes.answers import WorkerAnswer
from qmesh.mesh.node_processes.silence import SilenceReason
from qmesh.mesh.systemd.instructions import describe_unit_log
from qmesh.mesh.systemd.unit_failures import describe_unit_failures


def group_silent_cores(
    name: str, address: str, found: Iterable[tuple[Worker, WorkerAnswer]]
) -> Iterator[SilentWorkers]:
    """The cores of a machine whose workers do not answer, by the reason."""
    groups: dict[tuple[SilenceReason, tuple[str, ...]], list[int]] = {}
    are_all = True
    for worker, answer in found:
        if answer.seconds is None:
            groups.setdefault((answer.why, answer.elsewhere), []).append(worker.core)
        else:
            are_all = False
    for (why, elsewhere), cores in groups.items():
        yield SilentWorkers(name, address, tuple(cores), are_all, why, elsewhere)


def describe_silence(each: SilentWorkers) -> str:
    """What is seen of workers that do not answer."""
    match each.why:
        case "absent":
            return "no answer: nothing listens at its port"
        case "elsewhere":
            where = ", ".join(each.elsewhere)
            return f"no answer: it listens on {where}, and not where the control process dials"
        case "refused":
            return (
                "no answer: the connection is refused; nothing listens there, or the worker listens on"
                " another address, such as loopback"
            )
        case "dropped":
            return (
                "no answer: its machine is there, and packets to the port are dropped by a firewall; or the"
                " worker hangs"
            )
        case "rejected":
            return "no answer: a firewall rejects the connection"
        case "down":
            return "no answer: `qmesh down` was run there, and removed the tunnel"
        case "stopped":
            return "it accepts calls and answers none: a signal has stopped it, or it is frozen"
        case "unroutable":
            return "no answer: nothing leaves this machine for that address"
        case _:
            return "no answer"


def advise_on_silence(around: AuditContext, each: SilentWorkers, *, restart: str, is_other: bool) -> str:
    """What to do. restart: what restarts these workers, without the machine. is_other: than this one."""
    name = each.machine
    match each.why:
        case "elsewhere":
            return f"on {name}: `qmesh render-config --write`, which `--diff` shows first, then {restart}"
        case "refused" if is_other:
            return f"on {name}: {restart}; if it stays so, `qmesh check` there says where it listens"
        case "dropped" | "rejected" if around.obstacles:
            return "first what `foreign-drop` says here: a rule of this machine may be why"
        case "dropped" | "rejected" if is_other:
            return (
                f"on {name}: `qmesh check`, where `foreign-drop` names the rule; if there is none, {restart}"
            )
        case "stopped":
            return f"on {name}: `qmesh check`, which says how it goes on; restart no worker"
        case "down":
            return f"on {name}: `qmesh apply`, which brings the tunnel up again; restart no worker"
        case "unroutable":
            return "first what the other findings here say of the tunnel and its routes; restart no worker"
        case _:
            return f"on {name}: {_describe_restart(around, each, restart, is_other=is_other)}"


def describe_silence_with_failures(around: AuditContext, each: SilentWorkers, *, is_other: bool) -> str:
    """What is seen, and of this machine's own workers how their units ended."""
    failures = "" if is_other else describe_unit_failures(around.unit_failures, each.cores)
    return "; ".join(filter(None, [describe_silence(each), failures]))


def _describe_restart(around: AuditContext, each: SilentWorkers, restart: str, *, is_other: bool) -> str:
    if is_other or not describe_unit_failures(around.unit_failures, each.cores):
        return restart
    return f"fix what {describe_unit_log(around.unit_failures[0].core)} says, then {restart}"


def name_dropping_rules(
    findings: Iterable[Finding], members: Mapping[str, Sequence[Finding]]
) -> Iterator[Finding]:
    """The same, and where packets to workers are dropped the rule that their machine names.

    members: what other machines say of themselves, by name.
    """
    for finding in findings:
        machine = finding.subject.partition(" core ")[0]
        rules = [each for each in members.get(machine, ()) if each.code == "foreign-drop"]
        if finding.code == "worker-silent" and "`foreign-drop` names the rule" in finding.cure and rules:
            rule = min(rules, key=lambda each: each.severity)  # an error before a warning
            yield msgspec.structs.replace(
                finding,
                seen=f"{finding.seen}; {machine} names {rule.subject}: {rule.seen}",
                cure=f"on {machine}: {rule.cure}",
            )
        else:
            yield finding
