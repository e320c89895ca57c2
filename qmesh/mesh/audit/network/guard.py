"""The guard, and what weakens it: other rules, ports, sysctls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from qmesh.mesh.audit.findings import APPLY, Finding, error_finding, warning_finding
from qmesh.mesh.audit.surroundings import AuditContext
from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.guard.parse import parse_other_format
from qmesh.mesh.guard.render import render_table
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.ports.reserved_lists import SETTING, list_overwriting
from qmesh.mesh.standing_proof.record import ClaimResult, StandingProof
from qmesh.mesh.state import AlteredGuard, Guard, NodeState
from qmesh.mesh.sysctls import describe_outer_sysctl
from qmesh.mesh.systemd.instructions import describe_unit_enabling, describe_unit_restart
from qmesh.mesh.systemd.units import AGENT

_PLACE: Final = re.compile(r"chain (\w+) \{\s*type filter (hook \w+ priority [^;]+);")
"""A base chain's name, and its hook and priority, as nft lists them."""
_BEHIND_S: Final = 1800.0
"""Seconds after which a proof that is about older rules is worth a word."""
_MOST_RULES: Final = 3
_FAMILY_WORDS: Final = {"ip": "IPv4", "ip6": "IPv6"}
_CLOSE: Final = "remove or change what lets it through; `qmesh prove` shows all of it"


def guard_findings(desired: NodeState, observed: NodeState) -> Iterator[Finding]:
    """What of the guard is missing or differs."""
    wanted, seen = desired.guard, observed.guard
    if not isinstance(wanted, Guard) or wanted == seen:
        return
    others = format_port_ranges(wanted.guarded_ports)
    closed = f"worker ports {format_port_ranges(wanted.ports)} open to {wanted.control_address} only" + (
        f", and ports {others} closed" if others else ""
    )
    loaded = find_loaded_guard(observed)
    lack = seen.lack if isinstance(seen, AlteredGuard) and loaded == wanted else None
    if seen is None:
        yield error_finding("guard-missing", "table inet qmesh", closed, "no such table")
    elif lack == "table":
        yield error_finding(
            "guard-missing", "table inet qmesh", closed, "only the second table, the held one, closes them"
        )
    elif lack == "boot file":
        yield error_finding(
            "guard-boot", "guard.nft", "the guard for the next boot", "the file is missing or differs"
        )
    elif lack == "held table":
        yield error_finding(
            "guard-held",
            "table inet qmesh-held",
            "the second table, held by a process",
            "no such table, or another one",
        )
    elif loaded == wanted:
        rules = "the rules of another version of qmesh, whose agent keeps them"
        yield warning_finding("guard-outdated", "table inet qmesh", closed, rules, "qmesh restart")
    elif moved := _describe_moved_chains(wanted, seen):
        yield error_finding(
            "guard-not-first", "table inet qmesh", "each of its chains at its place among others'", moved
        )
    else:
        yield error_finding("guard-drift", "table inet qmesh", closed, _describe_difference(wanted, loaded))


def find_loaded_guard(observed: NodeState) -> Guard | None:
    """The guard that is in the kernel, that of another version of qmesh too, whose agent keeps it whole."""
    seen = observed.guard
    return observed.loaded_guard or (
        parse_other_format(seen.text) if isinstance(seen, AlteredGuard) else None
    )


def _describe_moved_chains(wanted: Guard, seen: Guard | AlteredGuard) -> str:
    """Which of its chains come later or earlier than they should, in words; empty where none does."""
    if not isinstance(seen, AlteredGuard):
        return ""
    places = dict(_PLACE.findall(render_table(wanted)))
    moved = (
        f"chain {name} at {place}, not at {places[name]}"
        for name, place in _PLACE.findall(seen.text)
        if place != places.get(name, place)
    )
    return ", ".join(moved)


def flush_findings(around: AuditContext) -> Iterator[Finding]:
    """A unit that removes the guard with all other rules, where nothing loads it again."""
    if around.flusher is not None and not around.flusher.answered and not around.held:
        wanted = "the guard is held by a process, or loaded again after each flush"
        seen = "this unit flushes all rules when it starts, is reloaded or stops"
        yield error_finding("foreign-flush", around.flusher.unit, wanted, seen)


def boot_unit_findings(desired: NodeState, around: AuditContext) -> Iterator[Finding]:
    """Units of qmesh's own that no boot starts: until then nothing else tells."""
    for unit in around.unstarted:
        cure = describe_unit_enabling(unit)
        if unit.name == AGENT:
            seen = f"it is {unit.state}: after the next boot nothing fixes this machine"
            yield error_finding("agent-missing", unit.name, "an agent that each boot starts", seen, cure)
        elif desired.guard is not None:
            seen = f"it is {unit.state}: the next boot loads no whole guard"
            yield error_finding("guard-boot", unit.name, "a guard that each boot loads", seen, cure)


def saved_rule_findings(around: AuditContext) -> Iterator[Finding]:
    """Tables of qmesh in files with rules, and firewalls whose load failed, as it does of some of these."""
    wanted = "no table of qmesh in a file with saved rules"
    for each in around.saved_rules:
        tables = ", ".join(f"table inet {name}" for name in each.tables)
        if each.is_json:
            seen = f"{tables}, saved as JSON: while the guard is held, the whole file cannot be loaded"
            yield error_finding("foreign-saved", each.path, wanted, seen, each.cure)
        else:
            seen = f"{tables}: each load closes the ports of that day, also when qmesh is removed"
            yield warning_finding("foreign-saved", each.path, wanted, seen, each.cure)
    for unit in around.failed_firewalls:
        seen = "it failed: this machine may be without that firewall's rules"
        yield error_finding(
            "foreign-failed", unit, "it has loaded its rules", seen, describe_unit_restart(unit)
        )


def _describe_difference(wanted: Guard, loaded: Guard | None) -> str:
    if loaded is None:
        return "a table that another program or a user changed"
    differs = (
        f"{name.replace('_', ' ')} {_format_value(getattr(loaded, name))}"
        for name in wanted.__struct_fields__
        if getattr(loaded, name) != getattr(wanted, name)
    )
    return "a guard for " + ", ".join(differs)


def _format_value(value: object) -> str:
    return (format_port_ranges(value) or "none") if isinstance(value, tuple) else str(value)


def foreign_rule_findings(obstacles: Iterable[Obstacle]) -> Iterator[Finding]:
    """Other programs' rules that drop the mesh's packets."""
    for each in obstacles:
        say = error_finding if each.is_certain else warning_finding
        yield say("foreign-drop", each.place, each.wanted, each.seen, each.cure)


def port_findings(desired: NodeState, observed: NodeState, around: AuditContext) -> Iterator[Finding]:
    """Worker ports that the kernel may give to an outgoing connection."""
    missing = tuple(port for port in desired.reserved_ports if port not in observed.reserved_ports)
    if missing:
        wanted = sorted(around.reserved.union(desired.reserved_ports))
        yield error_finding(
            "port-not-reserved",
            format_port_ranges(missing),
            f"in {SETTING}",
            "; ".join(
                ("an outgoing connection may take it", *list_overwriting(around.reserved_lists, missing))
            ),
            APPLY if around.can_reserve else describe_outer_sysctl(format_port_ranges(wanted, ",")),
        )


def sysctl_findings(desired: NodeState, observed: NodeState, around: AuditContext) -> Iterator[Finding]:
    """Settings that weaken the machine; those that the guard makes up for, only while it is not whole."""
    wanted, seen = desired.guard, observed.guard
    is_outdated = isinstance(seen, AlteredGuard) and not seen.lack and find_loaded_guard(observed) == wanted
    is_whole = seen == wanted or (is_outdated and wanted is not None)
    for weak in around.weaknesses:
        if weak.always:
            yield warning_finding("sysctl", weak.setting, weak.wanted, weak.seen, weak.cure)
        elif not is_whole:
            yield Finding("sysctl", "info", weak.setting, weak.wanted, weak.seen, weak.cure)


def claim_findings(proof: StandingProof | None) -> Iterator[Finding]:
    """Of claims that something is closed: what a packet breaks is an error, what is not known is a note.

    That the control node's packets arrive is followed by `check` itself. proof: None where none is known.
    """
    if proof is None:
        return
    for each in proof.list_refuted():
        yield error_finding("claim-refuted", each.claim, each.words, _describe_refutation(each), _CLOSE)
    unknown = list(_list_unknown(proof))
    if unknown:
        yield Finding(
            "claims-unproved",
            "info",
            "closed ports",
            "a proof by all rules that they are",
            "; ".join(unknown),
            "qmesh prove",
        )


def _describe_refutation(result: ClaimResult) -> str:
    without = f" without the table {result.without}" if result.without else ""
    rules = list(result.rules[:_MOST_RULES])
    more = len(result.rules) - len(rules)
    rules += [f"{more} more"] * bool(more)
    by = f", by {'; '.join(rules)}" if rules else ", as no rule stops it"
    return f"{_FAMILY_WORDS.get(result.family, result.family)}{without}: {result.packet}{by}"


def _list_unknown(proof: StandingProof) -> Iterator[str]:
    if proof.problem:
        yield proof.problem
    for each in proof.list_open():
        if each.rules:
            rules = "; ".join(each.rules[:_MOST_RULES])
            yield f"`{each.claim}` depends on rules that are not understood ({rules})"
        else:
            words = ", ".join(each.unusual)
            yield f"`{each.claim}` may be broken by a packet that is not ordinary: {words}"
    if proof.behind_s is not None and proof.behind_s > _BEHIND_S:
        yield f"rules changed {proof.behind_s / 60:.0f} min ago, and were not proved since"
