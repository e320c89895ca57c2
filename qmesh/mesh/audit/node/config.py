"""The node's config.yml."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh import nodeconfig
from qmesh.mesh.audit.findings import (
    PRIVATE_MODE,
    RENDER,
    Finding,
    error_finding,
    file_mode_finding,
    warning_finding,
)
from qmesh.mesh.audit.surroundings import AuditContext
from qmesh.mesh.node_keys.differences import describe_fetch
from qmesh.mesh.state import NodeState


def config_findings(desired: NodeState, around: AuditContext) -> Iterator[Finding]:
    """What is wrong with the file, and with the worker list in it."""
    config = around.config
    if config is None:
        cure = _unknown_directory_cure(around)
        yield warning_finding(
            "config-missing", "config.yml", "the node's config.yml", "its directory is not known", cure
        )
        return
    if config.unreadable is not None:
        fix = config.cure or f"edit {config.path}"
        yield error_finding(
            "config-lint", config.path, "a file that the node can read", config.unreadable, fix
        )
        return
    if config.text is None:
        cure = _missing_config_cure(around)
        yield error_finding("config-missing", config.path, "the node's config.yml", "no such file", cure)
        return
    if config.mode is not None and config.mode & ~PRIVATE_MODE:
        yield file_mode_finding("config-mode", config.path, config.mode, config.closing)
    if config.keys is not None and config.keys.mode is not None and config.keys.mode & ~PRIVATE_MODE:
        yield file_mode_finding("config-mode", config.keys.path, config.keys.mode, config.keys.closing)
    try:
        parsed = config.scan()
    except BadInput:
        unread = _lint_config(config.text, desired, around)
        yield from (_lint_finding(config.path, problem) for problem in unread)
        return
    problems = _lint_config(parsed, desired, around)
    if any(problem.refused and not problem.cured for problem in problems):  # then no value in it counts
        yield from (_lint_finding(config.path, problem) for problem in problems if not problem.cured)
        return
    entries = _read_worker_list(parsed, around) or ()
    others = _list_differing_keys(parsed, around)
    obstacle = _find_edit_obstacle(parsed, around)
    cure = RENDER if obstacle is None else f"{obstacle.hint}; then `{RENDER}`"
    is_stale = entries != around.workers
    # A problem that the mesh's list fixes is reported with the list, once.
    reasons = tuple(problem.message for problem in problems if problem.cured and is_stale)
    reasons += () if obstacle is None else (obstacle.message,)
    left = [problem for problem in problems if not (problem.cured and is_stale)]
    yield from (_lint_finding(config.path, problem) for problem in left)
    if is_stale:
        stale = _stale_config_finding(config.path, entries, reasons, desired, around)
        is_refused = any(problem.refused for problem in problems)
        yield msgspec.structs.replace(stale, cure=cure, severity="error" if is_refused else stale.severity)
    if others:
        wanted = "the mesh's settings of this machine"
        seen = f"other values of {', '.join(others)}"
        yield error_finding("config-stale", config.path, wanted, seen, cure)


def _find_edit_obstacle(config: nodeconfig.ParsedConfig, around: AuditContext) -> BadInput | None:
    """What the owner has to change before qmesh can write its list, though a node may read the file."""
    try:
        nodeconfig.refuse_oddities(config)
        nodeconfig.read_workers(config, around.profile)
        nodeconfig.read_settings(config, [(each.key, each.is_list) for each in around.settings])
    except BadInput as refused:
        return refused
    return None


def _read_worker_list(config: nodeconfig.ParsedConfig, around: AuditContext) -> tuple[str, ...] | None:
    """What the control process dials. Raises BadInput where something else stands there."""
    key = nodeconfig.profile_facts(around.profile).list_key
    (entries,) = nodeconfig.read_settings_as_node(config, [(key, True)], around.profile)
    return entries if isinstance(entries, tuple) else None


def _list_differing_keys(config: nodeconfig.ParsedConfig, around: AuditContext) -> list[str]:
    """The keys beside the worker list that do not hold what the mesh wants of this machine."""
    wanted = nodeconfig.keep_announced_entries(around.settings, config, around.profile)
    keys = [(each.key, each.is_list) for each in wanted]
    held = nodeconfig.read_settings_as_node(config, keys, around.profile)
    pairs = zip(wanted, held, strict=True)
    return [str(setting.key) for setting, there in pairs if there != setting.value]


def _lint_config(
    text: str | nodeconfig.ParsedConfig, desired: NodeState, around: AuditContext
) -> tuple[nodeconfig.Problem, ...]:
    assert desired.tunnel is not None, "an audit is of a machine that should have its tunnel"
    mesh = nodeconfig.ExpectedMesh(
        network=str(ipaddress.ip_interface(desired.tunnel.addresses[0]).network),
        own=own_tunnel_address(desired),
        members=around.members,
        workers=around.workers,
    )
    # That a port of the mesh's is not reserved is a finding of its own.
    reserved = around.reserved.union(desired.reserved_ports)
    return nodeconfig.lint_config(
        text, profile=around.profile, mesh=mesh, ephemeral=around.ephemeral, reserved=reserved
    )


def _lint_finding(path: str, problem: nodeconfig.Problem) -> Finding:
    say = error_finding if problem.severity == "error" else warning_finding
    where = f"{path}:{problem.line}:{problem.column}"
    return say(
        "config-lint", where, "a file that the node reads as you mean it", problem.message, problem.hint
    )


def _missing_config_cure(around: AuditContext) -> str:
    if around.is_control:
        return (
            f"restore the file from a backup of the node; or, with the right directory: {RENDER} --config DIR"
        )
    return _describe_own_fetch(around) if nodeconfig.profile_facts(around.profile).secrets else RENDER


def _unknown_directory_cure(around: AuditContext) -> str:
    render = f"{RENDER} --config DIR"
    if around.is_control or not nodeconfig.profile_facts(around.profile).secrets:
        return render
    return f"{render}; if there is no config.yml yet, {_describe_own_fetch(around)} --config DIR"


def _describe_own_fetch(around: AuditContext) -> str:
    return describe_fetch(
        around.own_name, around.control, may_fetch=around.may_fetch, is_here=True, replace=False
    )


def _stale_config_finding(
    path: str, entries: tuple[str, ...], reasons: tuple[str, ...], desired: NodeState, around: AuditContext
) -> Finding:
    wanted, seen = (
        f"the mesh's {_format_worker_count(around.workers)}",
        _describe_first_difference(around.workers, entries),
    )
    # A worker listens at its own entry and has no use for the others.
    mine = f"/{own_tunnel_address(desired)}/"
    own = [place for place, entry in enumerate(around.workers) if mine in entry]
    is_harmless = not around.is_control and all(
        entries[place : place + 1] == around.workers[place : place + 1] for place in own
    )
    say = warning_finding if is_harmless else error_finding
    return say("config-stale", path, wanted, "; ".join((seen, *reasons)), RENDER)


def _describe_first_difference(wanted: tuple[str, ...], seen: tuple[str, ...]) -> str:
    for core, (right, there) in enumerate(zip(wanted, seen, strict=False), 1):
        if right != there:
            return f"core {core} is at {there!a} instead of {right}"
    return _format_worker_count(seen)


def _format_worker_count(entries: tuple[str, ...]) -> str:
    return f"{len(entries)} worker{'s' * (len(entries) != 1)}"


def parse_worker_entries(around: AuditContext) -> tuple[str, ...] | None:
    """The worker list as it stands in the file; None where it can't be read."""
    if around.config is None or around.config.text is None:
        return None
    try:
        return _read_worker_list(around.config.scan(), around)
    except BadInput:
        return None


def own_tunnel_address(desired: NodeState) -> str:
    """This machine's tunnel address."""
    assert desired.tunnel is not None, "an audit is of a machine that should have its tunnel"
    return desired.tunnel.addresses[0].partition("/")[0]
