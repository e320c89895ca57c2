"""`qmesh set`."""

from __future__ import annotations

import getpass
import logging
import shlex
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import typer

from qmesh.cli.input import read_input_text
from qmesh.cli.output import STATE, JsonOption, StateOption, machine_argument, print_answer, print_outcome
from qmesh.errors import BadInput
from qmesh.mesh.inventory import Stream
from qmesh.mesh.machine import PortSource
from qmesh.mesh.notifications.targets import DEFAULT_AFTER_S
from qmesh.mesh.values import Profile

if TYPE_CHECKING:
    from qmesh.agent.commands.set import MetricsSettings, ProvingSettings, ReaderSettings
    from qmesh.host.notifications.notify_socket import ReceiverResult
    from qmesh.host.state.directory import State
    from qmesh.mesh.notifications.targets import NotifyFacts
    from qmesh.mesh.ports.port_options import PortOptions

log = logging.getLogger("qmesh")

_MOST_URLS: Final = 1 << 15
Switch: TypeAlias = Literal["on", "off"]

_ONE: Final = "Options for one machine, with NAME"
_MESH: Final = "Options for the whole mesh, without NAME"
_SWITCHES: Final = "Switches for the whole mesh, without NAME"
"""A group of their own: the column for what switches them off leaves no room for other names."""
_HERE: Final = "Options for the machine on which this is typed, without NAME"

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
    "qmesh set --notify -",
    "qmesh set --notify-command /usr/local/bin/tell-me",
    "qmesh set --notify-test",
)


def command(
    name: Annotated[
        str | None,
        machine_argument(help="The machine; without it, the whole mesh, or this machine."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Its data workers.", rich_help_panel=_ONE)] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="Where others reach it; may be repeated, the best first; `none` if they cannot.",
            metavar="HOST[:PORT]",
            rich_help_panel=_ONE,
        ),
    ] = None,
    announce: Annotated[
        str | None,
        typer.Option(
            help="From 2.1: IP address or DNS name at which the internet reaches its workers; `none` for its"
            " public endpoint.",
            metavar="ADDRESS",
            rich_help_panel=_ONE,
        ),
    ] = None,
    node_files: Annotated[
        Switch | None,
        typer.Option(help="Whether it may fetch the node's keys from here.", rich_help_panel=_ONE),
    ] = None,
    guard_port: Annotated[
        str | None,
        typer.Option(
            help="Further ports that its guard closes; `none` for no more of them.",
            metavar="PORT[,PORT...]",
            rich_help_panel=_ONE,
        ),
    ] = None,
    source: Annotated[
        PortSource | None,
        typer.Option(
            "--from",
            help="Who still reaches those, through the tunnel: `control` (the control node), `mesh` (every"
            " member) or `none` (only the machine itself).",
            show_default="none",
            rich_help_panel=_ONE,
        ),
    ] = None,
    leave_open: Annotated[
        str | None,
        typer.Option(
            help="Ports that are open on purpose; `none` for no more of them.",
            metavar="PORT[,PORT...]",
            rich_help_panel=_ONE,
        ),
    ] = None,
    node: Annotated[Profile | None, typer.Option(help="The node's version.", rich_help_panel=_MESH)] = None,
    worker_base_port: Annotated[
        int | None, typer.Option(help="Port of the first worker.", rich_help_panel=_MESH)
    ] = None,
    p2p_base_port: Annotated[
        int | None,
        typer.Option(
            help="From 2.1: the port at which other provers reach the first worker.", rich_help_panel=_MESH
        ),
    ] = None,
    stream: Annotated[
        Stream | None,
        typer.Option(
            help="From 2.1: what may dial the workers: `tunnel` (only the control node) or `public`.",
            rich_help_panel=_MESH,
        ),
    ] = None,
    master_proxy: Annotated[
        bool | None,
        typer.Option(
            "--master-proxy/--no-master-proxy",
            help="From 2.1: other provers connect via the control process.",
            rich_help_panel=_SWITCHES,
        ),
    ] = None,
    restart: Annotated[
        bool | None,
        typer.Option(
            "--restart/--no-restart",
            help="Let the agents restart the node's processes after a change.",
            rich_help_panel=_SWITCHES,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Where this machine's agent serves its metrics: on loopback, or at its tunnel address for"
            " the control node; `none` for nowhere.",
            metavar="ADDRESS:PORT",
            show_default=False,
            rich_help_panel=_HERE,
        ),
    ] = None,
    metrics_directory: Annotated[
        str | None,
        typer.Option(
            help="Where it writes them for node_exporter; `none` for nowhere, `default` for Debian's"
            " directory where that is there.",
            metavar="DIR",
            show_default=False,
            rich_help_panel=_HERE,
        ),
    ] = None,
    readers: Annotated[
        str | None,
        typer.Option(
            help="The group of this machine whose members may use `qmesh status`, `check`, `log`,"
            " `metrics` and `page` without root; `none` for no group.",
            metavar="GROUP",
            show_default=False,
            rich_help_panel=_HERE,
        ),
    ] = None,
    prove: Annotated[
        bool | None,
        typer.Option(
            "--prove/--no-prove",
            help="Let this machine's agent prove after each change of rules that the ports are closed.",
            show_default="on",
            rich_help_panel=_HERE,
        ),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            help="Where this machine's agent sends what has changed: the URL of a webhook, or FORMAT+URL;"
            " may be repeated. `-` asks for it and hides it, as it is a secret; `none` for nowhere.",
            metavar="URL",
            show_default=False,
            rich_help_panel=_HERE,
        ),
    ] = None,
    notify_command: Annotated[
        str | None,
        typer.Option(
            help="A program that only root can change, which gets the same as JSON; `none` for no program.",
            metavar="PROGRAM",
            show_default=False,
            rich_help_panel=_HERE,
        ),
    ] = None,
    notify_after: Annotated[
        int | None,
        typer.Option(
            help="Seconds that something has to last before it is sent.",
            metavar="SECONDS",
            show_default=str(DEFAULT_AFTER_S),
            rich_help_panel=_HERE,
        ),
    ] = None,
    notify_test: Annotated[
        bool,
        typer.Option(
            "--notify-test",
            help="Send a test to all of these now, and show what came of it.",
            rich_help_panel=_HERE,
        ),
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Change a machine, or without NAME the whole mesh.

    It prints the machines whose core numbers change, and what to restart, in which order.
    """
    from qmesh.agent.commands.set import set_machine, set_metrics, set_options
    from qmesh.cli.change_text import print_change
    from qmesh.host.state.directory import State
    from qmesh.mesh.mesh_options import MeshOptions

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
    if source is not None and guard_port in {None, "none"}:
        raise BadInput(
            "--from says for whom --guard-port is, and no port is given",
            hint="pass both: `qmesh set NAME --guard-port PORT --from control`",
        )
    of_notify = _list_given(
        ("--notify", notify),
        ("--notify-command", notify_command),
        ("--notify-after", notify_after),
        ("--notify-test", notify_test or None),
    )
    if metrics is not None or metrics_directory is not None:
        others = (name, readers, prove, *of_notify, *for_one, *for_all)
        _refuse_others("--metrics and --metrics-directory are", "--metrics ADDRESS:PORT", others)
        _print_metrics(set_metrics(State(state), place=metrics, directory=metrics_directory), as_json=as_json)
        return
    if readers is not None or prove is not None:
        others = (name, *of_notify, *for_one, *for_all)
        _set_agent_option(State(state), readers, prove=prove, others=others, as_json=as_json)
        return
    if of_notify:
        _refuse_others(f"{of_notify[0]} is", "--notify -", (name, *for_one, *for_all))
        changes = (notify, notify_command, notify_after)
        _set_notifications(State(state), *changes, is_test=notify_test, as_json=as_json)
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


def _set_agent_option(
    state: State, readers: str | None, *, prove: bool | None, others: Iterable[object], as_json: bool
) -> None:
    """One of those that this machine's agent follows, alone."""
    from qmesh.agent.commands.set import set_proving, set_readers

    if readers is not None:
        _refuse_others("--readers is", "--readers GROUP", (prove, *others))
        print_outcome(set_readers(state, readers), as_json=as_json, text=_render_readers)
    else:
        _refuse_others("--prove and --no-prove are", "--no-prove", others)
        print_outcome(set_proving(state, prove=bool(prove)), as_json=as_json, text=_render_proving)


def _refuse_others(options: str, example: str, others: Iterable[object]) -> None:
    """Raise BadInput where anything else was typed besides what is for this machine. options: with a verb."""
    if any(each is not None for each in others):
        raise BadInput(
            f"{options} for this machine, and passed alone",
            hint=f"on the machine itself: `qmesh set {example}`",
        )


def _set_notifications(
    state: State,
    notify: list[str] | None,
    program: str | None,
    after_s: int | None,
    *,
    is_test: bool,
    as_json: bool,
) -> None:
    from qmesh.agent.notifications import settings

    if (notify, program, after_s) != (None, None, None):
        urls = None if notify is None else _read_urls(notify)
        facts = settings.set_notifications(state, urls=urls, program=program, after_s=after_s)
        if not is_test:
            print_outcome(facts, as_json=as_json, text=_render_notifications)
            return
    results = settings.send_test_notification(state).results
    print_answer({"results": results}, as_json=as_json, text=lambda _: _render_test(results))
    if not all(each.result.is_delivered for each in results):
        raise typer.Exit(1)


def _read_urls(typed: list[str]) -> list[str]:
    """The URLs, those of standard input in the place of `-`."""
    if any(each not in {"-", "none"} for each in typed):
        log.warning(
            "other users of this machine could read that URL while this command ran, and the shell may keep"
            " it; `qmesh set --notify -` asks for it instead"
        )
    return [url for each in typed for url in (_prompt_for_urls() if each == "-" else [each])]


def _prompt_for_urls() -> list[str]:
    if sys.stdin.isatty():
        text = getpass.getpass("URL (is not shown): ")
    else:
        text = read_input_text("-", most=_MOST_URLS, hint="pass a URL on each line")
    urls = text.split()
    if not urls:
        raise BadInput("no URL was given", hint="paste it when asked, or pass one on each line of a file")
    return urls


def _render_notifications(facts: NotifyFacts) -> str:
    told = [f"{each.url} ({each.format})" for each in facts.notify]
    told += [facts.notify_command] if facts.notify_command is not None else []
    if not told:
        return "notifications of this machine: none"
    return (
        f"notifications of this machine: to {', '.join(told)}, of what has lasted {facts.notify_after} s;"
        " its agent does so within seconds. Try it: qmesh set --notify-test"
    )


def _render_test(results: tuple[ReceiverResult, ...]) -> str:
    lines = []
    for receiver, result in ((each.receiver, each.result) for each in results):
        lines.append(f"{receiver}: {result.text}")
        lines += [f"  it said: {result.said}"] if result.said else []
    return "\n".join(lines)


def _print_metrics(settings: MetricsSettings, *, as_json: bool) -> None:
    served = f"served at http://{settings.metrics}/metrics" if settings.metrics else "not served"
    written = f"written to {settings.metrics_directory}" if settings.metrics_directory else "not written"
    text = f"metrics of this machine: {served}, {written}; its agent does so within seconds"
    print_outcome(settings, as_json=as_json, text=lambda _: text)


def _render_proving(settings: ProvingSettings) -> str:
    if settings.prove:
        return "this machine's agent proves after each change of rules that the ports are closed"
    return "this machine's agent proves nothing; `qmesh prove` does when it is run"


def _render_readers(settings: ReaderSettings) -> str:
    group = settings.readers
    if group is None:
        return "only root may look at this mesh from this machine"
    may = (
        "`qmesh status`, `check`, `log`, `metrics` and `page` without root; the agent answers within seconds"
    )
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
    from qmesh.mesh.ports.port_options import PortOptions, parse_port_list

    if closed is None and left_open is None:
        return None
    return PortOptions(
        closed=None if closed is None else parse_port_list(closed),
        source=source or "none",
        left_open=None if left_open is None else parse_port_list(left_open),
    )
