"""Machines of which nothing is heard, and what of the way to them still works; keys that two machines use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from qmesh.mesh.audit.findings import Finding, error_finding, warning_finding
from qmesh.mesh.audit.surroundings import AuditContext, SilentWorkers, TriedEndpoint
from qmesh.mesh.links.activity import SharedKey, SilentLink

MOST_NAMED: Final = 5
"""Machines that each have a finding of their own; of more there is one for all, which names so many."""
OWN_NETWORK: Final = "this machine's own network: `ip address` and `ip route` show what it has"


def list_quiet_machines(around: AuditContext) -> frozenset[str]:
    """The machines of which nothing is heard now, whether for long or not.

    One of whose workers some answer is none of them: what the agent says may be older.
    """
    answering = (each.machine for each in around.silent if not each.are_all)
    return around.links.unreachable.union(_list_unheard(around)).difference(answering)


def _list_unheard(around: AuditContext) -> frozenset[str]:
    """The machines whose WireGuard is not heard, as the agent says."""
    keys = around.links.report.unheard_keys
    return frozenset(around.names[key] for key in keys if key in around.names)


def link_findings(around: AuditContext) -> Iterator[Finding]:
    """Silent machines: each of a few, and one finding for many, which one cause explains."""
    if around.taken_down:
        return
    if around.retired_since:  # which is why nothing comes
        own = around.names.get(around.public_key, around.own_name)
        yield _retired_key_finding(own, around.retired_since)
        return
    report = around.links.report
    silent = [link for link in report.silent if _is_active(around, link.public_key)]
    is_all = len(silent) >= report.watched
    if len(silent) > MOST_NAMED or (is_all and len(silent) > 1):
        yield _many_silent_finding(around, silent, is_all=is_all)
    else:
        for link in silent:
            yield _silent_finding(around, link, heard=report.watched - len(silent))
    told = {around.names[link.public_key] for link in silent}
    for name, discard in around.links.discarded.items():
        if name not in told and name in around.members:
            yield error_finding(
                "peer-silent", name, "packets through the tunnel", discard.reason, discard.cure
            )
    for shared in report.shared if around.is_control else ():
        if _is_active(around, shared.public_key):
            yield _shared_key_finding(around.names[shared.public_key], shared)
    yield from _unasked_findings(around)


def _is_active(around: AuditContext, public_key: str) -> bool:
    """Whether a machine with that key is still active in the mesh: the agent's look may be older."""
    return around.names.get(public_key) in around.members


def _silent_finding(around: AuditContext, link: SilentLink, *, heard: int) -> Finding:
    name, tried = around.names[link.public_key], around.links.tried.get(link.public_key, ())
    others = around.links.report.watched - 1
    seen = [_describe_silence(link), _describe_tried(tried)]
    if others > 0:
        seen.append(f"{heard} of {others} other machines are reachable")
    advise = _advise_member if around.is_control else _advise_control
    conflict, ends_conflict = _describe_conflict(around)
    seen += conflict
    cure = ends_conflict or _find_discard_cure(tried) or advise(around, name, tried)
    return error_finding("peer-silent", name, "packets through the tunnel", "; ".join(seen), cure)


def _many_silent_finding(around: AuditContext, silent: Sequence[SilentLink], *, is_all: bool) -> Finding:
    watched = around.links.report.watched
    subject = f"all {watched} machines" if is_all else f"{len(silent)} of {watched} machines"
    tried = [each for link in silent for each in around.links.tried.get(link.public_key, ())]
    least = _describe_age(min(link.silent_s for link in silent))
    names = _list_names(around.names[link.public_key] for link in silent)
    seen = f"no packet of {names} for {least} or more; {_describe_tried(tried)}"
    conflict, ends_conflict = _describe_conflict(around)
    if not is_all:
        seen = f"{seen}; {watched - len(silent)} other machines are reachable"
        cure = "look for what these machines have in common: a site, a provider; `qmesh check` on one of them"
    elif ends_it := ends_conflict or _find_discard_cure(tried):
        seen, cure = "; ".join((seen, *conflict)), ends_it
    elif any(each.is_echoed for each in tried):
        cure = (
            f"they are there: see that UDP port {around.links.listen_port} of this machine is open, at the"
            " provider too; then run `qmesh check` on one of them"
        )
    else:
        cure = f"look at {OWN_NETWORK}; then at its provider"
    return error_finding("peer-silent", subject, "packets through the tunnel", seen, cure)


def _describe_conflict(around: AuditContext) -> tuple[tuple[str, ...], str]:
    """Another machine with this one's address, and what ends that; nothing where there is none."""
    conflict = around.links.conflict
    if conflict is None:
        return (), ""
    seen = f"a machine with the link-layer address {conflict.other} answers for {conflict.address} too"
    return (seen,), f"find that machine, such as a copy of this one: only one may have {conflict.address}"


def _find_discard_cure(tried: Sequence[TriedEndpoint]) -> str:
    """The command that lets packets leave again; empty where none is discarded, or another way is there."""
    if any(each.is_echoed for each in tried):
        return ""
    return next((each.discard.cure for each in tried if each.discard is not None), "")


def _advise_member(around: AuditContext, name: str, tried: Sequence[TriedEndpoint]) -> str:
    if any(each.is_echoed for each in tried):
        return (
            f"{name} is there: run `qmesh check` on it; and see that UDP passes from it to port"
            f" {around.links.listen_port} here. Where it lost its key: `qmesh invite {name} --replace`"
        )
    if tried and not any(each.has_route for each in tried):
        return f"look at {OWN_NETWORK}"
    return (
        f"look whether {name} runs and has a network, and run `qmesh check` on it; if it stays away for days,"
        f" `qmesh pause {name}`"
    )


def _advise_control(around: AuditContext, name: str, tried: Sequence[TriedEndpoint]) -> str:
    own = around.names.get(around.public_key, "NAME")
    if any(each.is_echoed for each in tried):
        return (
            f"{name} is there: run `qmesh check` and `qmesh status` on it. Where it does not know {own}, or"
            f" with another key than {around.public_key}: `qmesh invite {own}` there (for another key with"
            " --replace), then `qmesh join` here. Else see that its UDP port is open, at the provider too"
        )
    if not tried:
        return (
            f"its name has no address: see with `getent hosts` whether the name is right, and whether a DNS"
            f" server answers here; where {name} is elsewhere now: `qmesh apply --control-endpoint HOST:PORT`"
        )
    translated = next((each.translated for each in tried if each.translated is not None), None)
    has_ipv4 = any(each.has_route for each in tried if ":" not in each.endpoint.host)
    # An address of IPv6 may have a route and lead nowhere: a private one of the control node's own network.
    if translated is not None and not has_ipv4:
        return (
            "this machine has no IPv4, and its network translates it (NAT64):"
            f" `qmesh apply --control-endpoint {translated}`"
        )
    if not any(each.has_route for each in tried):
        return f"look at {OWN_NETWORK}"
    return (
        f"look whether {name} runs, and at the way to it; where it has a new address:"
        " `qmesh apply --control-endpoint HOST:PORT`"
    )


def _retired_key_finding(name: str, since: str) -> Finding:
    return error_finding(
        "key-retired",
        name,
        f"the key that the mesh has for {name}",
        f"another key has its place since {since}: this machine was restored to an older state, or another"
        " one took its place; the control node lets nothing of it through",
        f"if this machine should be {name}: `qmesh invite {name} --replace` on the control node, then `qmesh"
        " join` here; else `qmesh uninstall`",
    )


def _shared_key_finding(name: str, shared: SharedKey) -> Finding:
    places = " and ".join(map(str, shared.endpoints))
    return error_finding(
        "key-shared",
        name,
        "one machine with its key",
        f"packets with its key come from {places} in turn: two machines use it, such as one and its copy",
        f"`qmesh invite {name} --replace` here, then `qmesh join` with that on the machine that stays"
        f" {name}: it makes a new key, and the old one is invalid; then `qmesh uninstall` on the other",
    )


def suspect_findings(around: AuditContext) -> Iterator[Finding]:
    """Programs that can't be read, and that may drop packets: only where some are missing."""
    is_dropped = any(each.why in {"", "dropped"} for each in around.silent)
    if around.taken_down or not (_list_unheard(around) or is_dropped or around.unanswered is not None):
        return
    for each in around.suspects:
        yield warning_finding("foreign-drop", each.place, each.wanted, each.seen, each.cure)


def _unasked_findings(around: AuditContext) -> Iterator[Finding]:
    """Members whose tunnel works, and whose agent is not heard.

    One that answers nothing through the tunnel either is among them: its WireGuard is heard.
    """
    unheard = _list_unheard(around)
    found = [(name, age_s) for name, age_s in around.links.unasked if name not in unheard]
    wanted = "a question for the membership every minute"
    if len(found) > MOST_NAMED:
        least = _describe_age(min(age_s for _, age_s in found))
        names = _list_names(name for name, _ in found)
        seen = f"their tunnels work, but the agents of {names} have not asked for {least} or more"
        cure = "run `qmesh check` on this machine first, then on one of them"
        yield error_finding("service-silent", f"{len(found)} machines", wanted, seen, cure)
        return
    for name, age_s in found:
        seen = f"its tunnel works, but its agent has not asked for {_describe_age(age_s)}"
        cure = f"run `qmesh check` on {name}; where no agent runs there, `qmesh apply`"
        if name in around.links.unreachable:
            seen = (
                "its WireGuard sends packets, but it answers nothing through the tunnel, and its agent has"
                f" not asked for {_describe_age(age_s)}"
            )
            cure = (
                f"run `qmesh check` here and on {name}: `foreign-drop` or `route-collision` names what takes"
                " the packets"
            )
        yield error_finding("service-silent", name, wanted, seen, cure)


def away_worker_findings(around: AuditContext, away: Sequence[SilentWorkers]) -> Iterator[Finding]:
    """The workers of machines that are silent as a whole: one finding for all, and no restart."""
    if not away:
        return
    names = _list_names(each.machine for each in away)
    ages = {around.names.get(link.public_key): _describe_silence(link) for link in around.links.report.silent}
    known = dict.fromkeys(f"{each.machine}: {ages[each.machine]}" for each in away if each.machine in ages)
    told = f" ({'; '.join(list(known)[:MOST_NAMED])})" if known else ""
    yield warning_finding(
        "worker-silent",
        names,
        "workers that answer",
        f"the machine as a whole answers nothing through the tunnel{told}",
        "restart no workers for this: run `qmesh check` there; after three minutes see `peer-silent` or"
        " `service-silent` here",
    )


def is_control_away(around: AuditContext) -> bool:
    """Whether the control node is silent as a whole, so that no answer of its service is to be expected."""
    report = around.links.report
    is_silent = bool(report.silent or report.waiting or around.retired_since)
    return not around.is_control and is_silent


def _describe_silence(link: SilentLink) -> str:
    age = _describe_age(link.silent_s)
    return f"no packet for {age}" if link.was_heard else f"never a handshake, in {age}"


def _describe_tried(tried: Sequence[TriedEndpoint]) -> str:
    if not tried:
        return "no address of it is known here"
    echoed = dict.fromkeys(each.endpoint.host for each in tried if each.is_echoed)
    routeless = dict.fromkeys(each.endpoint.host for each in tried if not each.has_route)
    silent = dict.fromkeys(each.endpoint.host for each in tried if each.has_route and not each.is_echoed)
    discards = dict.fromkeys(each.discard.reason for each in tried if each.discard is not None)
    parts = (
        ("a ping is answered by", echoed),
        ("a ping is not answered by", silent),
        ("this machine has no route to", routeless),
    )
    return "; ".join((*(f"{what} {', '.join(hosts)}" for what, hosts in parts if hosts), *discards))


def _list_names(names: Iterable[str]) -> str:
    listed = list(dict.fromkeys(names))
    more = len(listed) - MOST_NAMED
    return f"{', '.join(listed[:MOST_NAMED])} and {more} more" if more > 0 else ", ".join(listed)


def _describe_age(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"
