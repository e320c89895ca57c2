"""Which commands there are; each is loaded when it is used, so that `qmesh --help` is quick."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import typer
import typer.core
import typer.main

from qmesh import __version__
from qmesh.cli.errors import log_to_stderr, report_error, report_exception, report_interrupt
from qmesh.cli.screen.terminal_traits import read_terminal_traits
from qmesh.cli.terminal import print_lines, print_stdout
from qmesh.errors import BadInput, Interrupted

GROUPS: Final = {
    "Set up": {
        "init": "Make a mesh, with this machine as its control node.",
        "invite": "Make an invitation for a new machine; it can be used once.",
        "join": "Join a mesh with an invitation.",
        "admit": "Admit a machine that asked by a file, and write the answer.",
        "import": "Propose how to turn a running cluster into a mesh.",
    },
    "Cluster": {
        "set": "Change a machine, or without NAME the whole mesh.",
        "pause": "Take a machine out of the node's worker list, for a repair of days; it stays a member.",
        "resume": "Add a paused machine to the node's worker list again.",
        "remove": "Remove a machine from the mesh.",
        "status": "Show every machine of the mesh, and which workers answer.",
        "metrics": "Print what this machine's agent knows, in the text format of Prometheus.",
        "page": "Serve a page for a browser: the cluster as a picture, live, until Ctrl-C.",
        "log": "Show which machines joined, what changed, and when.",
    },
    "This machine": {
        "check": "Check this machine: keys, tunnel, guard, listeners and config.yml.",
        "drill": "Fire hostile and legitimate packets at a copy of this machine.",
        "prove": "Prove by all rules here that the ports are closed, or show a packet that gets in.",
        "plan": "Show the steps that `apply` would take.",
        "apply": "Make this machine as desired, guard first.",
        "confirm": "Keep what `apply --confirm` did.",
        "undo": "Roll back what `apply --confirm` did.",
        "down": "Take the tunnel down; the guard stays.",
        "rotate-key": "Give this worker machine a new WireGuard key.",
        "export": "Print this machine's tunnel or guard, or the mesh, in another tool's format.",
        "restart": "Restart the agent and the process that holds the guard, after an upgrade.",
        "uninstall": "Remove qmesh from this machine, and show which ports are open then.",
    },
    "Node": {
        "render-config": "Write the worker list into the node's config.yml.",
        "node-files": "Fetch the node's keys and the least config.yml from the control node.",
        "units": "Write systemd units for the agent, the boot guard and the node.",
    },
    "Control node": {
        "backup": "Write a backup of the control node into one file.",
        "restore": "Make this machine the control node, from a backup.",
        "handover": "Make another member the control node.",
    },
    "Used by systemd": {
        "agent": "Keep this machine as desired; on the control node, serve the members.",
        "hold": "Hold the guard's second table, so that no other program can remove it.",
        "ready": "Wait until a worker can start, or is listening (used by its systemd unit).",
    },
}
"""The commands as `--help` shows them: by group, each with the first line of its docstring."""

COMMANDS: Final = {name: summary for group in GROUPS.values() for name, summary in group.items()}

INTERRUPTED: Final = Interrupted.exit_code
# Typer brings its own click, or uses the one that is installed: its version decides.
_ClickException: Final[Any] = typer.BadParameter.__mro__[2]


class Command(typer.core.TyperCommand):
    """One command."""

    def make_parser(self, ctx: Any) -> Any:
        return _refuse_repeated_options(super().make_parser(ctx), ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        _print_help(self, ctx)


class CommandGroup(typer.core.TyperGroup):
    """The commands by name. Asked for one it gives a stub with its summary, until that one is run."""

    def make_parser(self, ctx: Any) -> Any:
        return _refuse_repeated_options(super().make_parser(ctx), ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        _print_help(self, ctx)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        summary = COMMANDS.get(cmd_name)
        if summary is None:
            return None
        panel = next(title for title, group in GROUPS.items() if cmd_name in group)
        return Command(cmd_name, help=summary, rich_help_panel=panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        log_to_stderr(quiet="--json" in args)
        name, stub, rest = super().resolve_command(ctx, args)
        return name, stub and load_command(str(name)), rest


def _refuse_repeated_options(parser: Any, context: Any) -> Any:
    """The parser, raising BadInput where it is not known which of two values of an option is meant."""
    parse: Callable[[Sequence[str]], tuple[Any, Any, list[Any]]] = parser.parse_args
    above = () if context.parent is None else context.parent.params.items()
    before = {name for name, value in above if value not in {None, False}}

    def parse_once(args: Sequence[str]) -> tuple[Any, Any, list[Any]]:
        opts, rest, order = parse(args)
        for param in order:
            is_switch = getattr(param, "is_flag", False) and not param.secondary_opts
            has_one_value = not is_switch and not param.multiple
            if has_one_value and (order.count(param) > 1 or param.name in before):
                names = " or ".join((*param.opts, *param.secondary_opts))
                raise BadInput(f"{names} was given twice", hint="leave one of the two out")
        return opts, rest, order

    parser.parse_args = parse_once
    return parser


def _print_help(command: Any, context: Any) -> None:
    """Print it where typer would have Rich print it."""
    from qmesh.cli.screen.help_page import build_help_lines, read_help_page  # noqa: PLC0415 - for help alone

    traits = read_terminal_traits()
    lines = build_help_lines(read_help_page(command, context), traits)
    print_lines(lines, is_coloured=traits.is_coloured)


def load_command(name: str) -> Any:
    """The command of that name, loaded."""
    module = importlib.import_module(f"qmesh.cli.commands.{name.replace('-', '_')}")
    alone = typer.Typer(add_completion=False)
    examples = "\n\n".join(f"  {example}" for example in module.EXAMPLES)
    text = "\n\n".join(" ".join(each.split()) for each in module.command.__doc__.split("\n\n"))
    alone.command(name, cls=Command, help=text, epilog=f"Examples:\n\n{examples}")(module.command)
    return _skip_needless_conversion(typer.main.get_command(alone))


def _skip_needless_conversion(command: Any) -> Any:
    """The command, converting plain values itself: for that, typer loads pydantic, a tenth of a second."""
    for param in command.get_params(typer.Context(command)):  # --help among them
        param.process_value = _wrap_process_value(param, param.process_value)
    return command


def _wrap_process_value(param: Any, convert: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """As the parameter processes a value, but for what was not given, and for what is plain.

    Where it refuses a value, the error says what would be valid.
    """

    def process(context: Any, value: Any) -> Any:
        plain = _read_plain_value(param, value)
        if plain is _NOT_PLAIN or (plain is None and param.required):
            try:
                return convert(context, value)
            except typer.BadParameter as error:
                from qmesh.cli import usage  # noqa: PLC0415 - only a mistake needs it

                error.message = usage.describe_invalid_value(param, value) or error.message
                raise
        return plain if param.callback is None else param.callback(context, param, plain)

    return process


_NOT_PLAIN: Final = object()


def _read_plain_value(param: Any, value: Any) -> Any:
    """What typer would make of a value, where that needs no thought; else _NOT_PLAIN, and typer decides."""
    kind: Any = getattr(param, "type_descriptor", None)
    annotation = None if kind is None else kind.annotation
    if param.multiple:
        is_texts = annotation == list[str] and (value is None or all(isinstance(each, str) for each in value))
        return _NOT_PLAIN if not is_texts else () if value is None else list(value)
    if value is None or value is param.default or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return _NOT_PLAIN
    if annotation is str:
        return value
    if annotation is int and value.isascii() and value.isdigit() and len(value) < 10:
        number = int(value)
        return number if _is_within(number, kind.parameter_info) else _NOT_PLAIN
    if annotation is Path and not (kind.parameter_info.exists or kind.parameter_info.resolve_path):
        return Path(value)
    if get_origin(annotation) is Literal and value in get_args(annotation):
        return value
    return _NOT_PLAIN


def _is_within(number: int, limits: Any) -> bool:
    return (limits.min is None or number >= limits.min) and (limits.max is None or number <= limits.max)


app = typer.Typer(
    cls=CommandGroup,
    invoke_without_command=True,
    epilog="Start with `qmesh init` on the machine of the control process."
    " Exit codes: 0 done or as desired, 1 not as desired, 2 wrong input, 3 this machine refused,"
    " 4 the other side refused, such as the control node an invitation.",
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        print_stdout(f"qmesh {__version__}")
        raise typer.Exit


@app.callback()
def qmesh(
    ctx: typer.Context,
    state: Annotated[
        Path | None, typer.Option(help="The state directory; works with any command.", readable=False)
    ] = None,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A guarded WireGuard mesh for a cluster of Quilibrium node machines."""
    if state is not None:
        os.environ["QMESH_STATE"] = str(state)
    if ctx.invoked_subcommand is None:
        print_stdout(ctx.get_help())


def run(words: Sequence[str]) -> int:
    """Run a command line without the program's name; returns the exit code."""
    as_json = "--json" in words
    if not all(map(_is_utf8, words)):
        error = BadInput("an argument is not UTF-8 text", hint="if it is the name of a file, rename the file")
        return report_error(error, as_json=as_json)
    try:
        code = _skip_needless_conversion(typer.main.get_command(app)).main(
            list(words), prog_name="qmesh", standalone_mode=False
        )
    except _ClickException as error:
        from qmesh.cli import usage  # noqa: PLC0415 - only a mistake needs it

        return report_error(usage.build_usage_error(error, words, GROUPS), as_json=as_json)
    except typer.Abort:
        code = INTERRUPTED
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - printed, a bug too
        return report_exception(error, as_json=as_json)
    if code == INTERRUPTED:
        return report_interrupt(as_json=as_json)
    return code if isinstance(code, int) else 0


def _is_utf8(word: str) -> bool:
    """Whether it can be written down: Python has bytes that are not UTF-8 as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in word)
