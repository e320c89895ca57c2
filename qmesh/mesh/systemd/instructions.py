"""What to type, or to do, on a machine to start and stop the node's processes: the one place that words it.

A text that names systemctl helps where systemd runs the node, and nowhere else. So whoever tells an operator
to restart something asks here, and says what is known of that machine.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.ports.port_ranges import format_port_ranges, list_port_ranges
from qmesh.mesh.systemd.units import AGENT, CONTROL_PROCESS, WORKERS, worker_unit_name
from qmesh.mesh.values import CONTROL_FIRST, Profile

Verb: TypeAlias = Literal["start", "stop", "restart", "enable --now", "disable --now"]
"""As systemctl has it; the last two are `start` and `stop` that hold at boot as well."""
_PLAIN: Final[dict[Verb, str]] = {"enable --now": "start", "disable --now": "stop"}

MOST_NAMED: Final = 20
"""Units that a text names; who wrote config.yml may have listed any number of cores."""


class NodeHost(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of how a machine runs the node's processes.

    has_units: whether systemd runs them, by qmesh's units. Of another machine that is not known: then it is
        what holds for the machine that says it.
    directory: of its config.yml; None where that is not known.
    has_control_unit: whether a unit of the control process is among these, as on the control node.
    is_other: whether it is another machine than the one that says it.
    """

    has_units: bool
    directory: str | None = None
    has_control_unit: bool = True
    is_other: bool = False


def describe_workers_action(
    verb: Verb, cores: Sequence[int], host: NodeHost, *, are_all: bool = False
) -> str:
    """What starts, stops or restarts these workers of a machine. are_all: whether it has no others."""
    plain = describe_cores_action(verb, cores, host)
    if are_all:
        return _choose_words(verb, WORKERS, plain, host)
    units = " ".join(map(worker_unit_name, cores[:MOST_NAMED]))
    more = f" (and {len(cores) - MOST_NAMED} more)" if len(cores) > MOST_NAMED else ""
    return _choose_words(verb, units, plain, host) + (more if host.has_units else "")


def describe_control_action(verb: Verb, host: NodeHost) -> str:
    """What starts, stops or restarts the control process of a machine."""
    plain = f"{_PLAIN.get(verb, verb)} the control process"
    if not plain.startswith("stop") and host.directory is not None:
        plain += f" (--config {shlex.quote(host.directory)})"
    if host.has_units and not host.has_control_unit and verb == "start":
        return f"{describe_units_update()} && systemctl enable --now {CONTROL_PROCESS}"
    return _choose_words(verb, CONTROL_PROCESS, plain, host)


class UnstartedUnit(msgspec.Struct, frozen=True):
    """A unit that no boot starts. state: `disabled` or `masked`, as systemd has it."""

    name: str
    state: str


UNSTARTED: Final = frozenset({"disabled", "masked", "masked-runtime"})
"""States of such a unit. Source: systemctl(1), is-enabled."""


def describe_unit_enabling(unit: UnstartedUnit) -> str:
    """What has each boot start a unit again."""
    enable = f"systemctl enable {unit.name}"
    return enable if unit.state == "disabled" else f"systemctl unmask {unit.name} && {enable}"


def describe_unit_restart(unit: str) -> str:
    """What restarts a unit of another program, which systemd runs."""
    return f"systemctl restart {unit}"


def describe_cores_action(verb: Verb, cores: Sequence[int], host: NodeHost) -> str:
    """The same without systemd, which knows no unit: the workers by their cores, and their options."""
    many = len(cores) > 1
    told = f"{_PLAIN.get(verb, verb)} the worker{'s' * many} of core{'s' * many} {format_core_ranges(cores)}"
    if told.startswith("stop") or host.directory is None:
        return told
    return f"{told} (--config {shlex.quote(host.directory)} --core {'CORE' if many else cores[0]})"


def format_core_ranges(cores: Sequence[int]) -> str:
    """Ascending core numbers, `4-7, 9`; of more than `MOST_NAMED` ranges the first."""
    ranges = tuple(list_port_ranges(cores))
    left = sum(last - first + 1 for first, last in ranges[MOST_NAMED:])
    named = len(cores) - left
    return format_port_ranges(cores[:named]) + (f" and {left} more" if left else "")


def describe_prover_pause(node: Profile) -> str:
    """What node 2.1 itself is told before workers go away for long; empty for an older node."""
    if node not in CONTROL_FIRST:
        return ""
    return (
        f"node {node}: if these cores will be without a worker for hours, tell the node before their workers"
        " stop: `qclient node prover pause [FILTER]`, and `qclient node prover resume [FILTER]` within 360"
        " frames; for a repair of minutes there is no need"
    )


def describe_agent_log(*, has_systemd: bool) -> str:
    """Where the log of this machine's agent is."""
    return "`journalctl -u qmesh`" if has_systemd else "agent.log in the state directory"


def describe_unit_log(core: int) -> str:
    """What shows the log of a worker that systemd runs."""
    return f"`journalctl -u {worker_unit_name(core)}`"


UNIT_DIRECTORY: Final = "/etc/systemd/system"
"""Where systemd looks for what its administrator wrote. Source: systemd.unit(5)."""


def describe_units_update(directory: str = UNIT_DIRECTORY, program: str | None = None) -> str:
    """What writes a machine's units again, under systemd. program: the node's, where it changes."""
    words = "" if program is None else f" --program {program}"
    return f"qmesh units --write {directory}{words} && {RELOAD}"


def describe_drop_in(unit: str, *, has_systemd: bool) -> str:
    """With what an operator changes a unit of qmesh's, so that qmesh's own file stays."""
    return f"`systemctl edit {unit}`" if has_systemd else f"a drop-in, {unit}.d/NAME.conf,"


def describe_thaw(unit: str) -> str:
    """What lets a unit go on that was frozen."""
    return f"systemctl thaw {shlex.quote(unit)}"


def describe_address_permission(unit: str, network: str) -> str:
    """What lets a unit speak with a network that it may not, at once and from now on."""
    return f"systemctl set-property {shlex.quote(unit)} IPAddressAllow={network}"


def describe_agent_restart() -> str:
    """What restarts the agent, where systemd runs."""
    return f"systemctl restart {AGENT}"


RELOAD: Final = "systemctl daemon-reload"
"""What has systemd read its units again."""


def _choose_words(verb: Verb, units: str, plain: str, host: NodeHost) -> str:
    if host.has_units:
        return f"systemctl {verb} {units}" + (f" (without systemd: {plain})" if host.is_other else "")
    return plain + (f" (with systemd: {units})" if host.is_other else "")
