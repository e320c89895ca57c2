"""What to type, in the order in which it has to be typed."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence

import msgspec

from qmesh.mesh.imports.proposal import Proposal, ProposedMachine
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.values import DEFAULT_LISTEN_PORT, Endpoint, name_cores

_HEAD = """\
# Proposed by `qmesh import`. Nothing was changed. Read it, then type these lines as root on the control
# machine, in a directory of root's, or run all of it as a script. The script ends at the first line that
# fails: then fix what that line reports, type it again, and run `qmesh import` for the rest. A machine gets
# its cores when it joins, so the machines have to join one after another, in this order. Where there is no
# ssh to a machine, carry its invitation there by a safe way (it is a secret), and type the join there."""

_TITLES = ("machine", "address", "workers", "cores", "cores now", "ports")


class ScriptOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the commands need besides the proposal.

    init: whether the mesh is still to be made. control_endpoints: for `init --endpoint`, where its own
    addresses are not enough. base_port: whether `init` has to be told it. config: the node's config
    directory, on each machine; None where it is not known. master_proxy: as of `ImportedMachines`.
    """

    init: bool
    control_endpoints: Sequence[str] = ()
    base_port: bool = False
    config: str | None = None
    master_proxy: bool = False


def command_lines(proposal: Proposal, options: ScriptOptions) -> tuple[str, ...]:
    """The commands, for a shell; secrets go from file to file only."""
    return tuple(command for _title, commands in _build_steps(proposal, options) for command in commands)


def render_script(proposal: Proposal, options: ScriptOptions) -> str:
    """The proposal as a shell script that says first what it is: a table, and the notes."""
    blocks = [_HEAD, _render_table(proposal)]
    blocks += [
        textwrap.fill(note, 110, initial_indent="# note: ", subsequent_indent="#       ")
        for note in proposal.notes
    ]
    # In parentheses, so that a line that fails does not log out who pastes all of it. In a directory of
    # another user's he could put an invitation of his own in the place of each, and so have that machine.
    blocks.append("(\nset -e\ncd ~root")
    blocks += [f"\n# {title}\n" + "\n".join(commands) for title, commands in _build_steps(proposal, options)]
    return "\n".join([*blocks, ")"])


def _build_steps(proposal: Proposal, options: ScriptOptions) -> Iterator[tuple[str, tuple[str, ...]]]:
    if options.init:
        proxy = ("qmesh set --master-proxy",) if options.master_proxy else ()
        yield (
            "make the mesh, with the control machine in it",
            (_build_init_command(proposal, options), *proxy),
        )
    for machine in proposal.machines_to_join:
        cores = "its own cores" if machine.cores is None else name_cores(machine.cores.numbers)
        yield f"{machine.name}: {cores}", _build_join_commands(machine, options)
    yield (
        "last, when all machines have joined",
        (_quote_words("qmesh", "render-config", "--write", *_config_arguments(options)),),
    )


def _build_init_command(proposal: Proposal, options: ScriptOptions) -> str:
    control = proposal.machines[0]
    words = ["qmesh", "init", "--name", control.name]
    if control.workers is not None:
        words += ["--workers", str(control.workers)]
    words += ["--node", proposal.node, *_config_arguments(options)]
    if options.base_port:
        words += ["--worker-base-port", str(proposal.base_port)]
    for address in options.control_endpoints:
        words += ["--endpoint", address]
    return _quote_words(*words)


def _build_join_commands(machine: ProposedMachine, options: ScriptOptions) -> tuple[str, ...]:
    assert machine.address is not None, "only the control machine may have none"
    file = f"{machine.name}.invitation"
    workers = () if machine.workers is None else ("--workers", str(machine.workers))
    endpoint = str(Endpoint(machine.address, DEFAULT_LISTEN_PORT))
    invite = _quote_words("qmesh", "invite", machine.name, *workers, "--endpoint", endpoint, "--out", file)
    return invite, _build_ssh_command(machine, options) + f" < {file}", f"rm {file}"


def _build_ssh_command(machine: ProposedMachine, options: ScriptOptions) -> str:
    port = () if machine.ssh_port is None else ("-p", str(machine.ssh_port))
    to = machine.address if machine.user is None else f"{machine.user}@{machine.address}"
    as_root = () if machine.user in {None, "root"} else ("sudo",)
    # The words go through a shell there as well.
    there = _quote_words(*as_root, "qmesh", "join", "-", *_config_arguments(options))
    return _quote_words("ssh", *port, str(to), there)


def _config_arguments(options: ScriptOptions) -> tuple[str, ...]:
    return () if options.config is None else ("--config", options.config)


def _quote_words(*words: str) -> str:
    return shlex.join(words)


def _render_table(proposal: Proposal) -> str:
    rows = [_TITLES, *(_render_row(machine, proposal.base_port) for machine in proposal.machines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(["#", *(f"#   {line}" for line in lines), "#"])


def _render_row(machine: ProposedMachine, base_port: int) -> tuple[str, ...]:
    cores = machine.cores
    return (
        machine.name + (" (joined)" if machine.member else ""),
        machine.address or "-",
        "its own cores" if machine.workers is None else str(machine.workers),
        "to come" if cores is None else format_port_ranges(cores.numbers),
        format_port_ranges(machine.was) or "-",
        "to come" if cores is None else format_port_ranges(cores.ports(base_port)),
    )
