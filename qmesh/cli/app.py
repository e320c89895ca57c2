"""Which commands there are; each is loaded when it is used, so that `qmesh --help` is quick."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import typer.core
import typer.main

from qmesh import __version__
from qmesh.cli.errors import log_to_stderr, report_error, report_exception, report_interrupt
from qmesh.cli.terminal import print_stdout
from qmesh.errors import BadInput, Interrupted

COMMANDS: Final = {
    "init": "Make a mesh; this machine is its control node.",
    "invite": "Make a one-use invitation for a new machine.",
    "join": "Make this machine a member, with an invitation.",
    "admit": "Make a machine a member that asked by a file, and write the answer.",
    "set": "Change a machine, or with no NAME the whole mesh.",
    "pause": "Take a machine out of the node's list, for repair; it stays a member.",
    "resume": "Take a paused machine into the node's list again.",
    "remove": "Take a machine out of the mesh.",
    "rotate-key": "Give this worker machine a new WireGuard key.",
    "handover": "Make another member the control node.",
    "import": "Propose how a cluster that runs already becomes a mesh.",
    "plan": "Show the steps that `apply` would take.",
    "apply": "Make this machine as desired, guard first.",
    "confirm": "Keep what `apply --confirm` did.",
    "undo": "Put back what `apply --confirm` did and nobody confirms.",
    "down": "Take the tunnel down; the guard stays.",
    "agent": "Keep this machine as desired, and serve members on the control node.",
    "hold": "Hold the guard's second table, which no flush of the ruleset takes away.",
    "render-config": "Write the worker list into the node's config.yml.",
    "check": "Audit keys, tunnel, guard, listeners and config.yml.",
    "status": "Show every machine of the mesh, and which workers answer.",
    "log": "Show who joined and what changed, and when.",
    "backup": "Write the control node into one file, for `qmesh restore`.",
    "restore": "Make this machine the control node that a backup is of.",
    "units": "Write systemd units for the agent, the boot guard and the node.",
    "ready": "Wait until a core's worker can start, or listens; its systemd unit asks.",
    "export": "Show this machine's tunnel or guard, or the mesh, as other tools read it.",
    "uninstall": "Take qmesh off this machine, and tell what is open then.",
}
"""The first line of each command's docstring, by name, in the order in which a user meets them."""

INTERRUPTED: Final = Interrupted.exit_code
# Typer brings its own click, or uses the one that is installed: its version decides.
_ClickException: Final[Any] = typer.BadParameter.__mro__[2]


class CommandGroup(typer.core.TyperGroup):
    """The commands by name. Asked for one it gives a stub with its summary, until that one is run."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        summary = COMMANDS.get(cmd_name)
        return summary and typer.core.TyperCommand(cmd_name, help=summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, stub, rest = super().resolve_command(ctx, args)
        return name, stub and load_command(str(name)), rest


def load_command(name: str) -> Any:
    """The command of that name, loaded."""
    module = importlib.import_module(f"qmesh.cli.commands.{name.replace('-', '_')}")
    alone = typer.Typer(add_completion=False)
    examples = "\n\n".join(f"  {example}" for example in module.EXAMPLES)
    alone.command(name, epilog=f"Examples:\n\n{examples}")(module.command)
    return _skip_needless_conversion(typer.main.get_command(alone))


def _skip_needless_conversion(command: Any) -> Any:
    """The command, converting only what needs it: for that, typer loads pydantic, a tenth of a second."""
    for param in command.get_params(typer.Context(command)):  # --help among them
        if not param.multiple and param.nargs == 1:
            param.process_value = _wrap_process_value(param, param.process_value)
    return command


def _wrap_process_value(param: Any, convert: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """As the parameter processes a value, but for what was not given, and for text that is to be text."""
    is_text = getattr(getattr(param, "type_descriptor", None), "annotation", None) is str

    def process(context: Any, value: Any) -> Any:
        is_missing = value is None and param.required
        is_as_wanted = value is None or value is param.default or (is_text and isinstance(value, str))
        if is_missing or not is_as_wanted:
            return convert(context, value)
        return value if param.callback is None else param.callback(context, param, value)

    return process


app = typer.Typer(
    cls=CommandGroup,
    invoke_without_command=True,
    epilog="Start with `qmesh init` on the machine of the control process."
    " Exit codes: 0 as desired, 1 not so, 2 bad input, 3 this machine refused, 4 enrolment refused.",
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        print_stdout(f"qmesh {__version__}")
        raise typer.Exit


@app.callback()
def qmesh(
    ctx: typer.Context,
    state: Annotated[
        Path | None,
        typer.Option(help="The state directory, for any command.", show_default=False, readable=False),
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
    log_to_stderr(quiet=as_json)
    if not all(map(_is_utf8, words)):
        error = BadInput("an argument is no text of UTF-8", hint="rename what it names, and say that")
        return report_error(error, as_json=as_json)
    try:
        code = _skip_needless_conversion(typer.main.get_command(app)).main(
            list(words), prog_name="qmesh", standalone_mode=False
        )
    except _ClickException as error:
        return report_error(_build_usage_error(error, words), as_json=as_json)
    except typer.Abort:
        code = INTERRUPTED
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - printed, a bug too
        return report_exception(error, as_json=as_json)
    if code == INTERRUPTED:
        return report_interrupt(as_json=as_json)
    return code if isinstance(code, int) else 0


def _is_utf8(word: str) -> bool:
    """Whether it can be written down: Python has octets that are no UTF-8 as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


def _build_usage_error(error: Any, words: Sequence[str]) -> BadInput:
    name = next((word for word in words if word in COMMANDS), "")
    message = " ".join(error.format_message().split()).rstrip(".")
    return BadInput(message, hint=f"see `qmesh {name} --help`" if name else "see `qmesh --help`")
