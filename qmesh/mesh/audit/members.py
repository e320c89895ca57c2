"""Members as the control node knows them: those that gave no findings, and those that are unlike others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from qmesh.mesh.audit.findings import Finding, error_finding, warning_finding
from qmesh.mesh.machine_facts.differences import (
    MachineGroup,
    find_large_workers,
    find_slow_machines,
    group_node_files,
    group_node_versions,
    group_versions,
    sum_worker_memory,
)
from qmesh.mesh.machine_facts.facts import MachineFacts
from qmesh.mesh.protocol.versions import OWN, SpokenProtocol, describe_update, is_understood
from qmesh.mesh.systemd.instructions import NodeHost, describe_workers_action
from qmesh.mesh.values import name_cores

Silence: TypeAlias = Literal["away", "silent", "older"]
"""Why there is none: the machine was not reached, it was asked and gave no answer, or its qmesh knows no such
question."""

_MOST_NAMED: Final = 4
_DIGEST: Final = 12
"""Characters of a digest that are shown: enough to compare."""
_LOOK: Final = "see `qmesh --version` on {}; if that is newer than here,"
"""A member's word has no other machine changed: somebody else may have taken that member over."""
_WANTED: Final = "the findings of its own `check`"


def unanswered_finding(machine: str, why: Silence) -> Finding:
    """A machine whose findings are not known: it may be right or wrong."""
    run = f"on {machine}: `qmesh check`"
    if why == "older":
        return warning_finding(
            "check-failed",
            machine,
            _WANTED,
            "its qmesh is older than this one and does not report findings",
            f"{run}; update qmesh there",
        )
    seen = (
        "its agent did not ask the control node for news, so it could not be asked"
        if why == "away"
        else "its agent was asked, and gave no answer in time"
    )
    return error_finding(
        "check-failed", machine, _WANTED, seen, f"{run}; `qmesh status` here shows its handshake"
    )


def left_out_finding(machine: str, count: int) -> Finding:
    """Findings of a machine that did not fit into its report."""
    return warning_finding(
        "check-failed", machine, _WANTED, f"{count} more of them", f"run `qmesh check` on {machine}"
    )


def uncollected_finding(why: str, cure: str) -> Finding:
    """No member could be asked, as this machine's agent did not ask."""
    return error_finding("check-failed", "other machines", _WANTED, why, cure)


def apart_findings(
    facts: Mapping[str, MachineFacts], *, own_name: str, control: str, spoken: SpokenProtocol | None
) -> Iterator[Finding]:
    """Machines whose qmesh and this one's understand no protocol in common: one of the two has to be updated.

    facts: by machine, on the control node. spoken: what the control node speaks, where a member can't follow.
    """
    others = {
        name: SpokenProtocol(each.protocol, each.oldest_protocol, each.qmesh)
        for name, each in facts.items()
        if name != own_name
    }
    if spoken is not None:
        others[control] = spoken
    for name, each in others.items():
        if not is_understood(each):
            cure = describe_update(each, other=name, own_name=own_name)
            if each.newest > OWN.newest and name != control:
                cure = f"{_LOOK.format(name)} {cure}"
            yield error_finding(
                "versions-apart", name, "a qmesh that understands this machine's", f"{each}; here {OWN}", cure
            )


def unlike_machine_findings(facts: Mapping[str, MachineFacts], *, own_name: str) -> Iterator[Finding]:
    """In what the machines differ that work better when they are alike. Nothing of it is dangerous.

    facts: by machine. own_name: this machine's, with which others are compared: else the word of one that
    nobody can trust would have all others be updated.
    """
    versions = group_versions(facts)
    if versions:
        behind, ahead = _split_groups(versions, own_name)
        fix = (
            f"update qmesh on {_list_some(behind)}, and run `qmesh restart` there"
            if behind
            else f"{_LOOK.format(_list_some(ahead))} update qmesh here"
        )
        yield Finding("machine-versions", "info", "qmesh", "one version", _describe_groups(versions), fix)
    programs = group_node_versions(facts)
    if programs:
        behind, _ = _split_groups(programs, own_name)
        yield Finding(
            "node-builds",
            "info",
            "the node's program",
            "one version",
            _describe_groups(programs),
            f"install the same program on {_list_some(behind) or 'all machines'}, and restart the node's"
            " processes there",
        )
    files = group_node_files(facts)
    if files:
        short = tuple(group._replace(value=f"SHA3-256 {group.value[:_DIGEST]}...") for group in files)
        yield Finding(
            "node-builds",
            "info",
            "the node's program, of one version",
            "one file",
            _describe_groups(short),
            "compare `openssl dgst -sha3-256 FILE` with what was published; nothing is wrong where you have"
            " built the program on each machine",
        )
    yield from _slow_core_findings(facts)


def _slow_core_findings(facts: Mapping[str, MachineFacts]) -> Iterator[Finding]:
    """One for all: with new machines in a cluster of old ones these are many."""
    slow = sorted(find_slow_machines(facts), key=lambda each: each.speed)
    if slow:
        shown = (f"{each.speed} on {each.machine}{f' ({each.cpu})' if each.cpu else ''}" for each in slow)
        yield Finding(
            "core-slow",
            "info",
            _list_some([each.machine for each in slow]),
            f"cores as quick as those of the other machines, whose median is {slow[0].usual}",
            f"verifications of a signature in a second: {_list_some(list(shown), '; ')}. All workers wait for"
            " the slowest",
            "see whether it is throttled there, or shares processors with others; `qmesh status --bench` on a"
            " machine measures it again",
        )


def memory_findings(facts: Mapping[str, MachineFacts], *, own_name: str, host: NodeHost) -> Iterator[Finding]:
    """Machines whose workers have more memory than they should.

    own_name, host: this machine's, and how it runs the node's processes.
    """
    for name, each in facts.items():
        total = sum_worker_memory(each)
        if total is not None:
            yield warning_finding(
                "worker-memory",
                name,
                "memory left for other programs than the workers",
                f"the workers have {_describe_memory(total)} of"
                f" {_describe_memory(each.memory_bytes or 0)}: the kernel will end one of them",
                f"run fewer workers on {name}: `qmesh set {name} --workers N` on the control node",
            )
        large, usual = find_large_workers(each)
        if large:
            cores = tuple(worker.core for worker in large)
            most = max(worker.memory_bytes or 0 for worker in large)
            yield Finding(
                "worker-memory",
                "info",
                f"{name}, {name_cores(cores)}",
                f"as much memory as the usual worker of {name}, {_describe_memory(usual)}",
                f"up to {_describe_memory(most)}",
                describe_workers_action("restart", cores, host)
                if name == own_name
                else f"on {name}: `qmesh check`",
            )


def _split_groups(groups: Sequence[MachineGroup], own_name: str) -> tuple[list[str], list[str]]:
    """The machines with something older than this machine's, or than what most have, and those with newer."""
    place = max(
        range(len(groups)), key=lambda each: (own_name in groups[each].machines, len(groups[each].machines))
    )
    ahead, behind = groups[:place], groups[place + 1 :]
    return [name for each in behind for name in each.machines], [
        name for each in ahead for name in each.machines
    ]


def _describe_groups(groups: Sequence[MachineGroup]) -> str:
    return _list_some([f"{each.value} on {_list_some(each.machines)}" for each in groups], "; ")


def _list_some(every: Sequence[str], between: str = ", ") -> str:
    more = len(every) - _MOST_NAMED
    shown = between.join(every[:_MOST_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown


def _describe_memory(octets: int) -> str:
    return f"{octets / 2**30:.1f} GiB"
