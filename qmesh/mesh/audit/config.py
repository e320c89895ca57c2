"""The node's config.yml."""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.errors import BadInput
from qmesh.mesh import nodeconfig
from qmesh.mesh.audit.findings import PRIVATE_MODE, RENDER, Finding, error, warning, wide_mode
from qmesh.mesh.audit.surroundings import Surroundings
from qmesh.mesh.model import NodeState


def config_findings(desired: NodeState, around: Surroundings) -> Iterator[Finding]:
    """What is wrong with the file, and with the worker list in it."""
    config = around.config
    if config is None:
        render = f"{RENDER} --config DIR"
        yield warning("config-missing", "config.yml", "the node's config.yml", "nobody said where", render)
        return
    if config.unreadable is not None:
        mend = f"mend {config.path} by hand"
        yield error("config-lint", config.path, "a file that the node can read", config.unreadable, mend)
        return
    if config.text is None:
        cure = _cure_of_no_config(around)
        yield error("config-missing", config.path, "the node's config.yml", "no such file", cure)
        return
    if config.mode is not None and config.mode & ~PRIVATE_MODE:
        yield wide_mode("config-mode", config.path, config.mode)
    try:
        entries = nodeconfig.workers_in(config.text, around.profile)
        ignored = nodeconfig.misplaced(config.text, around.profile)
    except BadInput as refused:
        yield error(
            "config-lint", config.path, "a file that the node can read", refused.message, refused.hint
        )
        return
    for key in ignored:
        where = f"{config.path}:{key.line}:{key.column}"
        right = nodeconfig.facts(around.profile).list_key
        cure = f"delete the key {key.key} by hand"
        yield warning("config-lint", where, f"the worker list at {right} only", f"{key.key}, ignored", cure)
    yield from _list_findings(config.path, entries or (), desired, around)


def _cure_of_no_config(around: Surroundings) -> str:
    if around.is_control:
        return f"restore the node's own from a backup, or name the right directory: {RENDER} --config DIR"
    if nodeconfig.facts(around.profile).secrets:
        name = around.names[around.public_key]
        return f"put there what `qmesh render-config --for {name} -o FILE` writes on the control node"
    return RENDER


def _list_findings(
    path: str, entries: tuple[str, ...], desired: NodeState, around: Surroundings
) -> Iterator[Finding]:
    if entries == around.workers:
        return
    wanted, seen = f"the mesh's {len(around.workers)} workers", _first_difference(around.workers, entries)
    # A worker listens at its own entry and has no use for the others.
    mine = f"/{own_address(desired)}/"
    own = [place for place, entry in enumerate(around.workers) if mine in entry]
    is_harmless = not around.is_control and all(
        entries[place : place + 1] == around.workers[place : place + 1] for place in own
    )
    say = warning if is_harmless else error
    yield say("config-stale", path, wanted, seen, RENDER)


def _first_difference(wanted: tuple[str, ...], seen: tuple[str, ...]) -> str:
    for core, (right, there) in enumerate(zip(wanted, seen, strict=False), 1):
        if right != there:
            return f"core {core} at {there!a}, not {right}"
    return f"{len(seen)} workers"


def entries(around: Surroundings) -> tuple[str, ...] | None:
    """The worker list as it stands in the file; None where it can't be read."""
    if around.config is None or around.config.text is None:
        return None
    try:
        return nodeconfig.workers_in(around.config.text, around.profile)
    except BadInput:
        return None


def own_address(desired: NodeState) -> str:
    """This machine's tunnel address."""
    assert desired.tunnel is not None, "an audit is of a machine that should have its tunnel"
    return desired.tunnel.addresses[0].partition("/")[0]
