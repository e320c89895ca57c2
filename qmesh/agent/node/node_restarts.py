"""How a machine's config.yml and its node's processes follow the mesh, once its owner has begun with it.

What is due is remembered before the file is written, so that a crash in between forgets nothing. Before node
2.1 the control process comes last: it is restarted when every worker of the list answers. From 2.1 on it
comes first: a worker that does not reach it waits longer and longer until it calls again.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from qmesh.agent.local import Local, load_local
from qmesh.agent.node import node_config, node_directory
from qmesh.agent.node.node_host import find_node_host
from qmesh.agent.node.node_ports import update_node_ports
from qmesh.agent.node.worker_status import ANSWER_S
from qmesh.errors import QmeshError
from qmesh.host import config_directory
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.log.events import report_event
from qmesh.host.network import tcp_probe
from qmesh.host.registry_access import open_registry
from qmesh.host.state.directory import State
from qmesh.host.system import systemd
from qmesh.mesh.inventory import list_workers
from qmesh.mesh.node_processes.restart import describe_cores
from qmesh.mesh.nodeconfig import parse_config, render_config
from qmesh.mesh.systemd.due_restarts import DueRestarts
from qmesh.mesh.systemd.node_restarts import (
    describe_due_restarts,
    explain_restarts,
    find_due_restarts,
    is_managed_by_qmesh,
)
from qmesh.mesh.systemd.units import CONTROL_PROCESS, WORKERS, render_workers_target, worker_unit_name
from qmesh.mesh.values import CONTROL_FIRST

LOOK_S: Final = 1.0
"""Seconds between two looks at whether there is something new, at least."""
REST: Final = 10
"""Times of the processor time that a look took, until the next: a user may change his file without end."""
DIAL_S: Final = 5.0
PATIENCE_S: Final = 120.0
"""Seconds after which the control process of a node that bears a dead worker is restarted all the same."""


def update_managed_config(state: State, here: Local) -> bool:
    """Write the mesh's settings into a config.yml that is in qmesh's hands; whether that changed it.

    The agent's loop waits for the lock, which is therefore not held while a user's file is read or written.
    Raises BadInput when the file does not load or cannot be changed.
    """
    directory = here.settings.node_directory
    if directory is None:
        return False
    if directory.owner is None:
        directory = _save_directory_owner(state, directory)
    found = node_config.read(directory)
    old = None if found.text is None else parse_config(found.text)
    if old is None or not is_managed_by_qmesh(old, here.inventory):
        return False
    new = render_config(here.inventory, here.settings.name, old)
    if new.text == old.text:
        return False
    asked = find_due_restarts(old, new, here.inventory, here.settings.name)
    _add_due_restarts(state, asked)
    _, changed = node_config.write(directory, old.text, new.text)
    # Again, where that was done by somebody who came before the file did.
    _add_due_restarts(state, asked)
    if not changed:
        return False
    report_event("config-written", "config.yml has the worker list of revision %d", here.inventory.revision)
    if asked.restart or asked.control:
        report_event("restart-due", "%s", explain_restarts(old, new, here.inventory, here.settings.name))
    return True


def _save_directory_owner(state: State, directory: ConfigDirectory) -> ConfigDirectory:
    """Remember whose a directory is that was remembered by an earlier version, which did not ask."""
    found = config_directory.find(directory.path)
    if found is None or found.path != directory.path:
        return directory
    with state.lock():
        settings = state.settings()
        if settings.node_directory == directory:
            state.save_settings(settings.with_node_directory(found))
    return found


def _add_due_restarts(state: State, asked: DueRestarts) -> None:
    """Remember what is due besides what already is."""
    with state.lock():
        before = state.due_restarts.read() or DueRestarts()
        after = before.merge(asked)
        if after != before:
            state.due_restarts.write(after)


class NodeConfigFollower:
    """For the agent's loop: cheap while nothing changes, and never waits for the node."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._seen: object = None
        self._said = ""
        self._look_at = 0.0
        self._dial_at = 0.0
        self._control_since: float | None = None

    def follow_changes(self, here: Local) -> None:
        """Follow what is new. What goes wrong is said once, and tried again when something changes."""
        now = time.monotonic()
        if now < self._look_at or here.settings.config_directory is None:
            return
        begun = time.thread_time()
        try:
            self._update_and_restart(here)
            self._said = ""
        except QmeshError as error:
            if error.message != self._said:
                report_event(
                    "config-stale",
                    "config.yml is not up to date with the mesh: %s (hint: %s)",
                    error.message,
                    error.hint,
                )
            self._said = error.message
        finally:
            self._look_at = now + max(LOOK_S, REST * (time.thread_time() - begun))

    def _update_and_restart(self, here: Local) -> None:
        seen = self._read_stamp(here)
        if seen != self._seen:
            self._seen = seen
            # Read anew: what the agent's look knows of a control node may lack who came since.
            here = load_local(self._state)
            update_node_ports(self._state, here)
            # What it writes is looked at once more: the mesh or the file may have become another meanwhile.
            update_managed_config(self._state, here)
        waiting = self._state.due_restarts.read()
        if waiting is not None:
            self._restart_due(load_local(self._state), waiting)

    def _read_stamp(self, here: Local) -> object:
        directory = here.settings.node_directory
        file = None if directory is None else config_directory.read_stamp(directory, node_directory.FILE_NAME)
        # The control role passes within one revision: its file is another one on either side.
        if not here.settings.control:
            return file, here.inventory.control, here.inventory.revision
        with open_registry(self._state.registry_file) as registry:
            return file, here.inventory.control, registry.revision()

    def _restart_due(self, here: Local, waiting: DueRestarts) -> None:
        installed = systemd.has_worker_units()
        if installed:
            update_workers_target(here)
        if not (installed and here.inventory.restart):
            host = find_node_host(here.settings)
            for line in describe_due_restarts(waiting, here.inventory, here.settings.name, host):
                report_event("restart-due", "%s", line)
            self._save_remaining(waiting, None)
            return
        if waiting.control and here.inventory.node in CONTROL_FIRST:
            # Its unit comes before the workers': systemd starts those that are asked for next after it.
            _restart_control()
            left = msgspec.structs.replace(waiting, control=False)
            if not self._save_remaining(waiting, left or None) or not left:
                return
            waiting = left
        if waiting.restart or waiting.stop:
            _restart_workers(here, waiting)
            left = DueRestarts(control=waiting.control)
            if not self._save_remaining(waiting, left or None):
                return
            waiting = left
        if waiting.control and self._can_restart_control(here):
            _restart_control()
            self._control_since = None
            self._save_remaining(waiting, None)

    def _save_remaining(self, was: DueRestarts, left: DueRestarts | None) -> bool:
        """Remember what is left of it; whether nothing has come meanwhile, by a command or another list."""
        with self._state.lock():
            if self._state.due_restarts.read() != was:
                return False
            self._state.due_restarts.write(left or None)
        return True

    def _can_restart_control(self, here: Local) -> bool:
        """Whether the control process may be restarted; node 1.4's ends when a worker does not answer."""
        now = time.monotonic()
        if self._control_since is None:
            self._control_since, self._dial_at = now, 0.0
        if now < self._dial_at:
            return False
        self._dial_at = now + DIAL_S
        places = {(worker.address, worker.port): worker for worker in list_workers(here.inventory)}
        found = tcp_probe.measure_connect_times(places, wait_s=ANSWER_S)
        silent = [worker for place, worker in places.items() if place not in found]
        if not silent:
            return True
        first = silent[0]
        report_event(
            "control-restart-waits",
            "%d workers do not answer yet, such as core %d of %s: the control process is restarted later",
            len(silent),
            first.core,
            first.machine,
        )
        return here.inventory.node != "1.4" and now - self._control_since > PATIENCE_S


def _restart_control() -> None:
    """Restart it where it runs. Its unit may not be there yet, as on a machine that has just got the role."""
    if systemd.is_active(CONTROL_PROCESS):
        systemd.enqueue_job("try-restart", CONTROL_PROCESS)
        report_event("control-restarted", "restarted %s", CONTROL_PROCESS)
    else:
        report_event(
            "restart-due",
            "%s does not run here, and is not started; where another unit or program runs the control"
            " process, restart it there",
            CONTROL_PROCESS,
        )


def _restart_workers(here: Local, waiting: DueRestarts) -> None:
    """Stop, start and restart just these; those of a node that its owner stopped stay so."""
    cores = here.inventory.core_numbers(here.settings.name)
    # What was in the file is its owner's: cores without number, of which systemd has never heard.
    stop = tuple(core for core in systemd.list_running_workers() if core in waiting.stop)
    systemd.enqueue_job("stop", *map(worker_unit_name, stop))
    wanted = tuple(core for core in waiting.restart if core in cores)
    is_asked = systemd.is_active(WORKERS)
    running = wanted if is_asked else tuple(core for core in systemd.list_running_workers() if core in wanted)
    systemd.enqueue_job("restart" if is_asked else "try-restart", *map(worker_unit_name, running))
    for code, what, which in (
        ("workers-stopped", "stopped", stop),
        ("workers-restarted", "restarted", running),
    ):
        if which:
            report_event(code, "%s the workers of %s", what, describe_cores(which))
    if left := tuple(core for core in wanted if core not in running):
        report_event(
            "restart-due",
            "the units of %s do not run, and are not started; where another unit or program runs these"
            " workers, restart them there",
            describe_cores(left),
        )


def update_workers_target(here: Local) -> None:
    """Have the target of all workers name this machine's cores, unless somebody edited it."""
    cores = tuple(here.inventory.core_numbers(here.settings.name))
    if systemd.update_units({WORKERS: render_workers_target(cores)}, systemd.UNIT_DIRECTORY).written:
        systemd.run_systemctl("daemon-reload")
