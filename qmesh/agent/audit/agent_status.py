"""How this machine's agent is, by its own word."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from qmesh import __version__
from qmesh.errors import KernelRefused
from qmesh.host.firewall import holder_client
from qmesh.host.state.directory import State
from qmesh.host.system import agent_health, background, systemd
from qmesh.host.write_obstacle import find_write_obstacle
from qmesh.mesh.audit.surroundings import HOLDER, AgentStatus, AgentTrouble
from qmesh.mesh.systemd.instructions import describe_agent_log

AGENT_ANSWER_S = 3.0
LATE_S = 30.0
"""Seconds since an agent's last whole look that cannot be explained by what it waits for."""


def read_agent_status(state: State) -> tuple[AgentStatus | None, agent_health.Health | None]:
    """This machine's agent, and what it said; None where none runs, or it says nothing."""
    if not background.is_agent_running(state):
        return None, None
    restart = background.format_restart_command(state)
    try:
        said = agent_health.request_health(state.directory, wait_s=AGENT_ANSWER_S)
    except agent_health.NoAnswer as error:
        if not background.is_agent_running(state):
            return None, None
        return AgentStatus(f"it runs, but does not report its state: {error}", (), restart), None
    troubles = tuple(AgentTrouble(each.part, each.reason, each.hint) for each in said.troubles)
    troubles += tuple(_find_state_obstacle(state))
    holder_version, silence = _ask_holder(state)
    if silence is not None and all(each.part != HOLDER for each in troubles):  # sooner than the agent
        troubles += (silence,)
    late = said.looked_s is not None and said.looked_s > LATE_S
    see_log = f"see the agent's log: {describe_agent_log(has_systemd=systemd.is_systemd_running())}"
    restarts = tuple(AgentTrouble(each.part, _describe_restart(each), see_log) for each in said.restarts)
    silent = f"it last looked at this machine {said.looked_s:.0f} s ago" if late else None
    outdated = tuple(_find_outdated({"qmesh agent": said.version, "qmesh hold": holder_version}))
    return AgentStatus(silent, troubles, restart, restarts, outdated), said


def _ask_holder(state: State) -> tuple[str | None, AgentTrouble | None]:
    """The version of the holder of the guard; None where there is none, or it does not answer: then why."""
    try:
        return holder_client.read_version(state, wait_s=AGENT_ANSWER_S), None
    except KernelRefused as silent:
        if holder_client.is_starting(state):
            return None, None
        return None, AgentTrouble(HOLDER, silent.message, silent.hint)


def _find_outdated(versions: dict[str, str | None]) -> Iterator[AgentTrouble]:
    """Processes that run another version than the installed one."""
    for process, runs in versions.items():
        if runs is not None and runs != __version__:
            reason = f"it runs {runs or 'an earlier version'}; {__version__} is installed"
            yield AgentTrouble(process, reason, "qmesh restart")


def _find_state_obstacle(state: State) -> Iterator[AgentTrouble]:
    """What keeps this machine from keeping what it is told, such as a disk that became read-only."""
    with contextlib.suppress(OSError):
        descriptor = os.open(state.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            named = state.directory / "machine.json"
            found = find_write_obstacle(descriptor, named, None, is_mounted=False, owner=os.geteuid())
        finally:
            os.close(descriptor)
        if found is not None:
            reason = f"{found.path} {found.reason}: no change of the mesh can be kept"
            yield AgentTrouble("state directory", reason, found.hint)


def _describe_restart(restart: agent_health.Restart) -> str:
    ago = max(0, round((time.time() - restart.last) / 60))
    often = "once" if restart.times == 1 else f"{restart.times} times"
    return f"restarted {often} within an hour, last {ago} min ago: {restart.reason}"
