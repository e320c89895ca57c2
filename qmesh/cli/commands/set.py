"""`qmesh set`."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

import typer

from qmesh.agent.commands.set import (
    MetricsSettings,
    ReaderSettings,
    set_machine,
    set_metrics,
    set_options,
    set_readers,
)
from qmesh.cli.change_text import print_change
from qmesh.cli.output import STATE, JsonOption, StateOption, print_outcome
from qmesh.errors import BadInput
from qmesh.host.state.directory import State
from qmesh.mesh.changes import MeshOptions
from qmesh.mesh.inventory import Stream
from qmesh.mesh.machine import PortSource
from qmesh.mesh.ports.port_options import PortOptions, parse_port_list
from qmesh.mesh.values import Profile

log = logging.getLogger("qmesh")

Switch: TypeAlias = Literal["on", "off"]

EXAMPLES = (
    "qmesh set hel-2 --workers 8",
    "qmesh set hel-2 --endpoint 203.0.113.7:51820",
    "qmesh set hel-2 --announce 203.0.113.7",
    "qmesh set hel-2 --node-files on",
    "qmesh set hel-2 --guard-port 9100 --from control",
    "qmesh set --node 2.1",
    "qmesh set --restart",
    "qmesh set --metrics 127.0.0.1:9586",
    "qmesh set --readers monitoring",
)


def command(
    name: Annotated[
        str | None, typer.Argument(help="The machine; without it, the whole mesh.", metavar="NAME")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Its data workers.")] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="HOST[:PORT] at which others reach it, the best first; `none` if they cannot."),
    ] = None,
    announce: Annotated[
        str | None,
        typer.Option(
            help="From 2.1: IP address or DNS name at which the internet reaches its workers; `none` for its"
            " public endpoint.",
            metavar="ADDRESS",
        ),
    ] = None,
    node_files: Annotated[
        Switch | None, typer.Option(help="Whether it may fetch the node's keys from here.")
    ] = None,
    guard_port: Annotated[
        str | None,
        typer.Option(
            help="Further ports that its guard closes; `none` for no more of them.", metavar="PORT[,PORT...]"
        ),
    ] = None,
    source: Annotated[
        PortSource | None,
        typer.Option(
            "--from",
            help="Who still reaches those, through the tunnel: `control` (the control node), `mesh` (every"
            " member) or `none` (only the machine itself).",
            show_default="none",
        ),
    ] = None,
    leave_open: Annotated[
        str | None,
        typer.Option(
            help="Ports that are open on purpose; `none` for no more of them.", metavar="PORT[,PORT...]"
        ),
    ] = None,
    node: Annotated[Profile | None, typer.Option(help="The node's version.")] = None,
    worker_base_port: Annotated[int | None, typer.Option(help="Port of the first worker.")] = None,
    p2p_base_port: Annotated[
        int | None, typer.Option(help="From 2.1: the port at which other provers reach the first worker.")
    ] = None,
    stream: Annotated[
        Stream | None,
        typer.Option(
            help="From 2.1: what may dial the workers: `tunnel` (only the control node) or `public`."
        ),
    ] = None,
    master_proxy: Annotated[
        bool | None,
        typer.Option(
            "--master-proxy/--no-master-proxy",
            help="From 2.1: other provers connect via the control process.",
        ),
    ] = None,
    restart: Annotated[
        bool | None,
        typer.Option(
            "--restart/--no-restart", help="Let the agents restart the node's processes after a change."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Where this machine's agent serves its metrics: on loopback, or at its tunnel address for"
            " the control node; `none` for nowhere.",
            metavar="ADDRESS:PORT",
            show_default=False,
        ),
    ] = None,
    metrics_directory: Annotated[
        str | None,
        typer.Option(
            help="Where it writes them for node_exporter; `none` for nowhere, `default` for Debian's"
            " directory where that is there.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    readers: Annotated[
        str | None,
        typer.Option(
            help="The group of this machine whose members may use `qmesh status`, `check`, `log` and"
            " `metrics` without root; `none` for no group.",
            metavar="GROUP",
            show_default=False,
        ),
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Change a machine, or without NAME the whole mesh.

    It prints the machines whose core numbers change, and what to restart, in which order.
    """
    for_all = _list_given(
        ("--node", node),
        ("--worker-base-port", worker_base_port),
        ("--p2p-base-port", p2p_base_port),
        ("--stream", stream),
        ("--master-proxy" if master_proxy else "--no-master-proxy", master_proxy),
        ("--restart" if restart else "--no-restart", restart),
    )
    for_one = _list_given(
        ("--workers", workers),
        ("--endpoint", endpoint),
        ("--announce", announce),
        ("--node-files", node_files),
        ("--guard-port", guard_port),
        ("--leave-open", leave_open),
    )
    if source is not None and guard_port is None:
        raise BadInput(
            "--from says for whom --guard-port is, and no port is given",
            hint="pass both: `qmesh set NAME --guard-port PORT --from control`",
        )
    if metrics is not None or metrics_directory is not None:
        others = (name, readers, *for_one, *for_all)
        _refuse_others("--metrics and --metrics-directory are", "--metrics ADDRESS:PORT", others)
        _print_metrics(set_metrics(State(state), place=metrics, directory=metrics_directory), as_json=as_json)
        return
    if readers is not None:
        _refuse_others("--readers is", "--readers GROUP", (name, *for_one, *for_all))
        print_outcome(set_readers(State(state), readers), as_json=as_json, text=_render_readers)
        return
    if not for_one and not for_all:
        raise BadInput("nothing to change was given", hint="see `qmesh set --help`")
    if name is not None:
        if for_all:
            raise BadInput(
                f"for the whole mesh, not for {name} alone: {', '.join(for_all)}",
                hint=f"type it without the name: `qmesh set {' ... '.join(for_all)}`",
            )
        changed = set_machine(
            State(state),
            name,
            workers=workers,
            endpoints=_parse_endpoints(endpoint),
            announce=announce,
            node_files=None if node_files is None else node_files == "on",
            ports=_parse_ports(guard_port, source, leave_open),
        )
        print_change(changed, as_json=as_json, done=f"{name} is changed")
        if node_files == "on":
            log.info("next, on %s: qmesh node-files --write", name)
        return
    if for_one:
        raise BadInput(
            f"for one machine, and none is named: {', '.join(for_one)}",
            hint=f"name it: `qmesh set NAME {' ... '.join(for_one)}`; `qmesh status` shows the names",
        )
    options = MeshOptions(
        node=node,
        base_port=worker_base_port,
        p2p_base_port=p2p_base_port,
        stream=stream,
        master_proxy=master_proxy,
        restart=restart,
    )
    print_change(set_options(State(state), options), as_json=as_json, done="the mesh is changed")


def _list_given(*options: tuple[str, object]) -> tuple[str, ...]:
    """The options that were typed."""
    return tuple(option for option, value in options if value is not None)


def _refuse_others(options: str, example: str, others: Iterable[str | None]) -> None:
    """Raise BadInput where anything else was typed besides what is for this machine. options: with a verb."""
    if any(each is not None for each in others):
        raise BadInput(
            f"{options} for this machine, and passed alone",
            hint=f"on the machine itself: `qmesh set {example}`",
        )


def _print_metrics(settings: MetricsSettings, *, as_json: bool) -> None:
    served = f"served at http://{settings.metrics}/metrics" if settings.metrics else "not served"
    written = f"written to {settings.metrics_directory}" if settings.metrics_directory else "not written"
    text = f"metrics of this machine: {served}, {written}; its agent does so within seconds"
    print_outcome(settings, as_json=as_json, text=lambda _: text)


def _render_readers(settings: ReaderSettings) -> str:
    group = settings.readers
    if group is None:
        return "only root may look at this mesh from this machine"
    may = "`qmesh status`, `check`, `log` and `metrics` without root; the agent answers within seconds"
    if settings.members:
        return f"members of group {group} may use {may}; in it: {', '.join(settings.members)}"
    return (
        f"members of group {group} may use {may}; add a user with `usermod -aG {shlex.quote(group)} USER`,"
        " who then logs in again"
    )


def _parse_endpoints(said: list[str] | None) -> tuple[str, ...] | None:
    if said is not None and "none" in said and len(said) > 1:
        raise BadInput(
            "--endpoint none says that others cannot reach it, and another --endpoint where they do",
            hint="leave one of the two out",
        )
    return None if said is None else () if said == ["none"] else tuple(said)


def _parse_ports(closed: str | None, source: PortSource | None, left_open: str | None) -> PortOptions | None:
    if closed is None and left_open is None:
        return None
    return PortOptions(
        closed=None if closed is None else parse_port_list(closed),
        source=source or "none",
        left_open=None if left_open is None else parse_port_list(left_open),
    )
