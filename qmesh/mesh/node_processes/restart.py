"""How to restart or stop the node's processes that were seen, in words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

import msgspec

from qmesh.mesh.node_processes.observed import NodeProcess
from qmesh.mesh.node_processes.workers import ForeignWorker, WorkerProcess
from qmesh.mesh.systemd.instructions import (
    NodeHost,
    describe_control_action,
    describe_thaw,
    describe_workers_action,
    format_core_ranges,
)
from qmesh.mesh.systemd.units import CONTROL_PROCESS, worker_unit_name

_CONTAINER: Final = re.compile(
    r"/(?:docker/|docker-|libpod-|libpod_parent/libpod-)([0-9a-f]{64})(?:\.scope)?$"
)
"""How Docker and Podman name the control group of a container. Source: containers/podman, moby/moby."""
_ID_SHOWN: Final = 12
"""Digits of a container's number that its program takes."""


def describe_process(process: NodeProcess | None) -> str:
    """A process in words: `node (process 812)`."""
    return "a program" if process is None else f"{process.program or 'a program'} (process {process.number})"


def describe_cores(cores: Sequence[int]) -> str:
    """Cores in words: `core 4`, `cores 4-7`."""
    return f"core{'s' * (len(cores) > 1)} {format_core_ranges(cores)}"


def describe_worker_restart(workers: Sequence[WorkerProcess], *, are_all: bool, directory: str | None) -> str:
    """How to restart these workers: by systemd only where it runs each of them. Stopped ones can go on.

    are_all: whether they are all of this machine. directory: of config.yml.
    """
    cores = tuple(each.core for each in workers)
    processes = tuple(dict.fromkeys(each.process for each in workers if each.process is not None))
    if processes and all(each.stands_still for each in processes):
        return _describe_resumption(processes)
    in_units = all(
        each.process is not None and each.process.unit == worker_unit_name(each.core) for each in workers
    )
    host = NodeHost(has_units=in_units, directory=directory)
    restart = describe_workers_action("restart", cores, host, are_all=are_all)
    return restart if in_units or not processes else f"{restart}; now {_describe_processes(processes)}"


def describe_control_restart(process: NodeProcess | None, host: NodeHost) -> str:
    """How to restart this machine's control process, start it where none runs, or let a stopped one go on."""
    if process is None:
        return describe_control_action("start", host)
    if process.stands_still:
        return _describe_resumption((process,))
    in_unit = process.unit == CONTROL_PROCESS
    restart = describe_control_action("restart", msgspec.structs.replace(host, has_units=in_unit))
    return restart if in_unit else f"{restart}; now {_describe_processes((process,))}"


def describe_stop(foreign: ForeignWorker) -> str:
    """How to stop a worker whose core is another machine's."""
    process = foreign.process
    if process is not None and foreign.core is not None and process.unit == worker_unit_name(foreign.core):
        return describe_workers_action("stop", (foreign.core,), NodeHost(has_units=True))
    return f"stop {describe_process(process)}, which listens on {foreign.address} port {foreign.port}"


def _describe_resumption(processes: Sequence[NodeProcess]) -> str:
    """The commands that let processes go on that a signal has stopped, or that are frozen."""
    thaws = [_describe_thaw(group) for group in dict.fromkeys(each.frozen for each in processes) if group]
    stopped = [str(each.number) for each in processes if each.is_stopped]
    return " && ".join([*thaws, *([f"kill -CONT {' '.join(stopped)}"] if stopped else [])])


def _describe_thaw(group: str) -> str:
    container = _CONTAINER.search(group)
    if container is not None:
        program = "podman" if "libpod" in group else "docker"
        return f"{program} unpause {container[1][:_ID_SHOWN]}"
    unit = group.rpartition("/")[2]
    is_users = "/user@" in group  # of a manager of its own
    if unit.endswith((".service", ".slice", ".scope")) and not is_users:
        return describe_thaw(unit)
    is_old = group.startswith("/sys/fs/cgroup/freezer/")
    word, file = ("THAWED", "freezer.state") if is_old else ("0", "cgroup.freeze")
    return f"echo {word} > {shlex.quote(f'{group}/{file}')}"


def _describe_processes(processes: Sequence[NodeProcess]) -> str:
    more = f" and {len(processes) - 1} more" if len(processes) > 1 else ""
    unit = f" in {processes[0].unit}" if processes[0].unit else ""
    return f"{describe_process(processes[0])}{unit}{more}"
