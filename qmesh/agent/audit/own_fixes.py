"""`check --fix`: do what fixes the findings that are qmesh's own to fix, and say what was done."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.commands.apply import apply
from qmesh.agent.commands.check import Report, check
from qmesh.agent.commands.render_config import RenderedConfig, write_node_config
from qmesh.agent.converge import converge
from qmesh.agent.local import linux_for
from qmesh.agent.membership import load_latest
from qmesh.agent.node import node_config
from qmesh.agent.node.identity_files import locate_file
from qmesh.agent.preconditions import check_user, lock_member
from qmesh.errors import BadInput, QmeshError, StateUnreadable
from qmesh.host import config_directory
from qmesh.host.state.directory import State
from qmesh.host.system import processes, systemd
from qmesh.host.typed_commands import CLOSE, build_command
from qmesh.mesh import nodeconfig
from qmesh.mesh.audit.findings import APPLY, PRIVATE_MODE, RENDER
from qmesh.mesh.audit.fixes import Fix, list_fixes
from qmesh.mesh.plan.describe import describe_step
from qmesh.mesh.systemd.units import AGENT


class FixResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was tried. fix: in words. did: what it changed. error, hint: why not; empty where it was done."""

    fix: str
    did: tuple[str, ...] = ()
    error: str = ""
    hint: str = ""


class FixedReport(Report, frozen=True):
    """What `check --fix` answers: a Report of the machine as it is then, and what was done before."""

    fixes: tuple[FixResult, ...] = ()


def check_and_fix(state: State) -> FixedReport:
    """Check this machine, fix what is qmesh's own to fix, and check again where that was anything.

    Raises as `check`, and NeedsRoot before anything is changed.
    """
    check_user("check", option="--fix")
    report = check(state)
    # Each in turn: one that fails does not keep the others from being done.
    fixes = tuple(_try_fix(state, fix) for fix in list_fixes(report.findings))
    if fixes:
        report = check(state)
    return FixedReport(report.machine, report.revision, report.findings, fixes)


def _try_fix(state: State, fix: Fix) -> FixResult:
    fixes: dict[str, tuple[str, Callable[[State], tuple[str, ...]]]] = {
        "apply": (APPLY, _apply),
        "render-config": (RENDER, _render_config),
        "restart-agent": ("restart the agent", _restart_agent),
        "close-file": (f"chmod 600 {fix.subject}", partial(_close_file, path=Path(fix.subject))),
    }
    name, run = fixes[fix.kind]
    try:
        return FixResult(fix=name, did=run(state))
    except QmeshError as error:
        return FixResult(fix=name, error=error.message, hint=error.hint)


def _apply(state: State) -> tuple[str, ...]:
    """As `apply`; but a tunnel that `qmesh down` took down stays so."""
    with lock_member(state, "apply") as here:
        is_up = here.settings.up
        steps = () if is_up else converge(here, linux_for(state, here.settings))
    if is_up:
        steps = apply(state)
    else:
        ensure_agent(state)
    return tuple(f"{step.kind} {step.subject}: {describe_step(step)}" for step in steps)


def _restart_agent(state: State) -> tuple[str, ...]:
    if systemd.is_systemd_running():
        systemd.run_systemctl("restart", AGENT)
    else:
        processes.kill_lock_owner(state.agent_lock_file)
    ensure_agent(state)
    return ("the agent was started again; tunnel and guard stayed as they were",)


def _render_config(state: State) -> tuple[str, ...]:
    """As `render-config --write`, in the directory that is remembered; nothing is restarted."""
    here = load_latest(state)
    directory = here.settings.node_directory
    text = None if directory is None else node_config.read(directory).text
    if directory is None or text is None:
        raise BadInput(
            "there is no config.yml where it is expected", hint="qmesh render-config --write --config DIR"
        )
    old = nodeconfig.parse_config(text)
    new = nodeconfig.render_config(here.inventory, here.settings.name, old)
    rendered = RenderedConfig(here=here, is_for_another=False, directory=directory, old=old, new=new)
    path, is_changed = write_node_config(state, rendered)
    return (f"wrote {path}", rendered.restart_advice) if is_changed else ()


def _close_file(state: State, path: Path) -> tuple[str, ...]:
    if path.parent == state.directory:
        _close_own_file(path)
    else:
        directory = state.settings().node_directory
        if directory is None:
            raise BadInput(f"{path} is none of qmesh's files", hint=build_command(CLOSE, path))
        config_directory.close_to_others(locate_file(directory, path), path.name)
    return (f"only its owner reads {path} now; who read it before is not known",)


def _close_own_file(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & PRIVATE_MODE)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StateUnreadable(
            f"{path}: its mode cannot be changed: {error.strerror}", hint=build_command(CLOSE, path)
        ) from None
