"""The systemd units of a machine, as text. Source: systemd.unit(5), systemd.service(5), systemd.exec(5)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.own_command import build_command_line, build_holder_line
from qmesh.mesh.systemd import sandbox
from qmesh.mesh.systemd.node_arguments import render_node_arguments
from qmesh.mesh.values import quote_text

AGENT: Final = "qmesh.service"
BOOT_GUARD: Final = "qmesh-guard.service"
HOLDER: Final = "qmesh-hold.service"
AFTER_FLUSH: Final = "nftables.service.d/qmesh.conf"
"""No unit, but what qmesh adds to one of the distribution's, which flushes all rules."""
UNDO: Final = "qmesh-undo.service"
CONTROL_PROCESS: Final = "qmesh-control.service"
WORKER: Final = "qmesh-worker@.service"
WORKERS: Final = "qmesh-workers.target"

_STARTABLE_S: Final = 60
"""Seconds that a start waits for guard and tunnel; then it counts as failed, and is tried again."""
_LISTENING_S: Final = 180
"""Seconds that a worker has until it listens. Too few would be the end of one that is only slow."""

WATCHDOG_S: Final = 6
"""Seconds after which systemd ends an agent whose loop says nothing: it does so every 2 while it waits."""

_MARK: Final = "# Made by qmesh, which deletes it again unless it was edited: "


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are on this machine. Building one raises BadInput when systemd would not take it.

    Each is absolute and without `..`, as systemd.exec(5) wants it, and each program without quotes
    and backslashes, which systemd takes in no name of a program.

    python: the interpreter that has qmesh.
    holder: the program that holds the guard, a file of qmesh.
    state: the state directory.
    guard_file, held_file: the guard as nftables commands, and its second table.
    nft: the nft program.
    program: the node's program.
    config_directory: of the node's config.yml.
    user: who owns that, by name or number: the node's processes run as that user.
    arguments: what the node is started with besides, from `parse_node_arguments`.
    """

    python: str
    holder: str
    state: str
    guard_file: str
    held_file: str
    nft: str
    program: str
    config_directory: str
    user: str = sandbox.ROOT
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in (self.python, self.nft, self.program):
            if any(character in path for character in "\"'\\"):
                raise BadInput(
                    f"systemd cannot run a program named {quote_text(path)}",
                    hint="install it at a path without quotes and backslashes",
                )
        if not sandbox.is_valid_user(self.user):
            raise BadInput(
                f"systemd cannot run a program as a user named {quote_text(self.user)}",
                hint="pass the user's number",
            )
        for path in msgspec.structs.astuple(self)[:-2]:
            if not path.startswith("/") or ".." in path.split("/") or not path.isprintable():
                raise BadInput(
                    f"{quote_text(path)} is not a path for a systemd unit",
                    hint="write it as an absolute path, without .. and without control characters",
                )


def worker_unit_name(core: int) -> str:
    """The unit of one data worker."""
    return WORKER.replace("@", f"@{core}")


def starts_control_first(control: str) -> bool:
    """Whether the unit of a control process lets it start before the workers."""
    return not re.search(rf"^After=.*(?<!\S){re.escape(WORKERS)}(?!\S)", control, re.MULTILINE)


def parse_node_program(worker: str) -> str | None:
    """The node's program that the unit of a data worker runs; None where it does not tell."""
    found = re.search(r'^ExecStart=(?:"([^"]+)"|(\S+)) --config ', worker, re.MULTILINE)
    return None if found is None else (found[1] or found[2]).replace("%%", "%")


def render_unit_files(
    paths: Paths, *, is_control: bool, cores: range, is_control_first: bool = False
) -> dict[str, str]:
    """The text of each unit by its file name; the control process's only on the control node.

    is_control_first: whether the control process starts before the workers, else it starts after them.
    """
    worker_after, control_after = (CONTROL_PROCESS, "") if is_control_first else ("", WORKERS)
    units = {WORKER: _render_worker(paths, worker_after), WORKERS: _render_workers(cores)}
    if is_control:
        units[CONTROL_PROCESS] = _render_control_process(paths, control_after)
    return {**render_qmesh_units(paths), **_add_marks(units)}


def render_qmesh_units(paths: Paths) -> dict[str, str]:
    """The units of qmesh itself: the agent, the guard at boot, who holds it, and what brings it back."""
    return _add_marks(
        {
            AGENT: _render_agent(paths),
            BOOT_GUARD: _render_boot_guard(paths),
            HOLDER: _render_holder(paths),
            AFTER_FLUSH: _render_flush_drop_in(paths),
        }
    )


def add_mark(text: str) -> str:
    """A unit with a first line by which it is known again, whatever version of qmesh made it."""
    return f"{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def is_unedited(text: str) -> bool:
    """Whether a unit is as qmesh made it."""
    return text == add_mark(text.partition("\n")[2])


def _add_marks(units: dict[str, str]) -> dict[str, str]:
    return {name: add_mark(text) for name, text in units.items()}


def _render_boot_guard(paths: Paths) -> str:
    return f"""\
[Unit]
Description=qmesh guard for data-worker ports, from before the network is up
Documentation=man:nft(8)
DefaultDependencies=no
RequiresMountsFor={_quote_path(paths.guard_file)}
After=local-fs.target nftables.service
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
AssertPathExists={_escape_specifiers(paths.guard_file)}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={_quote_path(paths.nft)} -f {_quote_argument(paths.guard_file)}
TimeoutStartSec=60
{sandbox.render_guard_settings()}
[Install]
WantedBy=sysinit.target
"""


def _render_flush_drop_in(paths: Paths) -> str:
    # "-": where no guard is wanted there is no file. "+": that unit may not see the state directory.
    load = f"-+{_quote_path(paths.nft)} -f {_quote_argument(paths.guard_file)}"
    return f"""\
[Service]
ExecStartPost={load}
ExecReload={load}
ExecStopPost={load}
"""


def _render_holder(paths: Paths) -> str:
    # Should it hang, the network comes up after TimeoutStartSec: the boot guard has closed the ports.
    return f"""\
[Unit]
Description=qmesh guard held: its second table, which no flush removes
Documentation=man:nft(8)
DefaultDependencies=no
RequiresMountsFor={_quote_path(paths.held_file)} {_quote_path(paths.python)} {_quote_path(paths.holder)}
After=local-fs.target systemd-sysctl.service {BOOT_GUARD}
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
ConditionPathExists={_escape_specifiers(paths.held_file)}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={_render_holder_command(paths)}
Restart=always
RestartSec=1
TimeoutStartSec=60
OOMScoreAdjust=-900
{sandbox.render_holder_settings(_quote_path(paths.state))}
[Install]
WantedBy=sysinit.target
"""


def render_undo_unit(paths: Paths) -> str:
    """The unit that rolls back a change that was not confirmed; at boot before anything loads the guard.

    KillMode=process: where WireGuard is a process, the restored tunnel outlives the unit.
    """
    return add_mark(f"""\
[Unit]
Description=qmesh undo: rolls back a change that was not confirmed in time
DefaultDependencies=no
RequiresMountsFor={_quote_path(paths.state)} {_quote_path(paths.python)}
After=local-fs.target
Before={BOOT_GUARD} {HOLDER} {AGENT} network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
ConditionPathExists={_escape_specifiers(paths.state)}/undo.json
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={_render_qmesh_command(paths, "undo", "--state", paths.state)}
KillMode=process
Restart=on-failure
RestartSec=1
TimeoutStartSec=60
OOMScoreAdjust=-900
{sandbox.render_agent_settings()}
[Install]
WantedBy=sysinit.target
""")


def _render_agent(paths: Paths) -> str:
    # KillMode=process: where WireGuard is a process, the tunnel outlives a restart of the agent.
    # SIGKILL: the agent itself says where a thread hangs; what the watchdog finds is stopped as a whole.
    return f"""\
[Unit]
Description=qmesh agent: keeps the tunnel and the guard as desired
Documentation=man:wg(8)
Wants={BOOT_GUARD} {HOLDER}
After={BOOT_GUARD} {HOLDER} network.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={_render_qmesh_command(paths, "agent", "--state", paths.state)}
KillMode=process
WatchdogSec={WATCHDOG_S}
WatchdogSignal=SIGKILL
Restart=always
RestartSec=500ms
TimeoutStartSec=90
TimeoutStopSec=20
{sandbox.render_agent_settings()}
[Install]
WantedBy=multi-user.target
"""


def _render_control_process(paths: Paths, after: str) -> str:
    return f"""\
[Unit]
Description=Quilibrium control process (core 0)
{_render_node_unit(after, "network-online.target")}
[Service]
{_render_ready_command(paths, "ExecStartPre", "0", _STARTABLE_S)}
ExecStart={_render_node_command(paths)}
{_render_node_service(paths)}
[Install]
WantedBy=multi-user.target
"""


def _render_worker(paths: Paths, after: str) -> str:
    return f"""\
[Unit]
Description=Quilibrium data worker, core %i
PartOf={WORKERS}
{_render_node_unit(after)}
[Service]
{_render_ready_command(paths, "ExecStartPre", "%i", _STARTABLE_S)}
ExecStart={_render_node_command(paths, "--core", "%i")}
{_render_ready_command(paths, "ExecStartPost", "%i", _LISTENING_S)} --listening
{_render_node_service(paths)}
[Install]
WantedBy={WORKERS}
"""


def _render_node_unit(*after: str) -> str:
    # No Requires=: it would stop the node whenever that unit is stopped or restarted, and never start it
    # again when the agent has fixed the guard. `qmesh ready` asks the kernel for the guard itself.
    return f"""\
Wants={BOOT_GUARD} {HOLDER} {AGENT}
After={" ".join(filter(None, (BOOT_GUARD, HOLDER, AGENT, *after)))}
StartLimitIntervalSec=0
"""


def _render_ready_command(paths: Paths, setting: str, core: str, timeout_s: int) -> str:
    # "+": it asks for the guard as root and outside the sandbox, whichever user the node runs as.
    # Then the user's directory is the working directory of root, and the user's home is $HOME.
    words = ("--config", paths.config_directory, "--timeout", str(timeout_s))
    return f"{setting}=+{_render_qmesh_command(paths, 'ready', core, *words)}"


def _render_node_command(paths: Paths, *core: str) -> str:
    words = (_quote_path(paths.program), "--config", _quote_argument(paths.config_directory), *core)
    return " ".join(words) + render_node_arguments(paths.arguments)


def _render_node_service(paths: Paths) -> str:
    parent = paths.config_directory.rstrip("/").rpartition("/")[0]
    # Node 2.1 of Rust ends with 130 by SIGINT, and with 143 by SIGTERM.
    # The slash at the end keeps a space or backslash there; systemd takes no "..".
    return f"""\
Type=exec
WorkingDirectory={_escape_specifiers(parent)}/
LimitNOFILE=1048576
KillSignal=SIGINT
SuccessExitStatus=130 143
TimeoutStartSec={_STARTABLE_S + _LISTENING_S + 60}
TimeoutStopSec=30
Restart=always
RestartSec=2
{sandbox.render_node_settings(paths.user)}"""


def render_workers_target(cores: Sequence[int]) -> str:
    """The unit of all of a machine's workers."""
    return add_mark(_render_workers(cores))


def _render_workers(cores: Sequence[int]) -> str:
    wants = "".join(f"Wants=qmesh-worker@{core}.service\n" for core in cores)
    return f"""\
[Unit]
Description=Quilibrium data workers of this machine
{wants}
[Install]
WantedBy=multi-user.target
"""


def _render_qmesh_command(paths: Paths, command: str, *arguments: str) -> str:
    """A command line of qmesh itself. An argument of `%i` is systemd's to fill in."""
    program, *words = build_command_line(paths.python, command)
    rest = (each if each == "%i" else _quote_argument(each) for each in arguments)
    return " ".join([_quote_path(program), *words, *rest])


def _render_holder_command(paths: Paths) -> str:
    """The command line of the process that holds the guard."""
    program, *words = build_holder_line(paths.python, paths.holder, paths.state)
    return " ".join([_quote_path(program), *map(_quote_argument, words)])


def _escape_specifiers(path: str) -> str:
    """A path as a setting that is one path takes it: specifiers escaped."""
    return path.replace("%", "%%")


def _quote_path(path: str) -> str:
    """A path as a command line's program or one word of a setting: quoted where needed."""
    escaped = _escape_specifiers(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(character in escaped for character in " \\'\";") else escaped


def _quote_argument(path: str) -> str:
    """A path as an argument on a command line: variables escaped too."""
    return _quote_path(path).replace("$", "$$")
