"""`qmesh check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, print_answer
from qmesh.cli.terminal import print_stdout
from qmesh.errors import BadInput, Interrupted, QmeshError, describe_unexpected_error

if TYPE_CHECKING:
    from qmesh.agent.commands.check import Report
    from qmesh.host.state.directory import State

EXAMPLES = ("qmesh check", "qmesh check --fix", "qmesh check --all --json", "qmesh check --plugin")


def command(
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Fix what is qmesh's own to fix, say what was done, and check again."),
    ] = False,
    all_machines: Annotated[
        bool, typer.Option("--all", help="On the control node: have all machines check themselves, too.")
    ] = False,
    plugin: Annotated[
        bool,
        typer.Option("--plugin", help="One line and exit code 0, 1, 2 or 3, as monitoring plugins have."),
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Check this machine: keys, tunnel, guard, listeners and config.yml.

    Without --fix it changes nothing. Exit code 0 when there is no error, 1 otherwise; every finding names the
    command that fixes it.

    --fix runs the commands that need no decision and restart nothing of the node: `qmesh apply`,
    `qmesh render-config --write`, `chmod 600` of secret files, and a new start of the agent.
    """
    from qmesh.cli import check_text
    from qmesh.host.state.directory import State

    if fix and all_machines:
        raise BadInput("--fix and --all do not go together", hint="run `qmesh check --fix` on each machine")
    if plugin:
        if fix or as_json:
            raise BadInput("--plugin goes together with --all only", hint="leave the other option out")
        raise typer.Exit(_run_as_plugin(State(state), all_machines=all_machines))
    if fix:
        from qmesh.agent.audit.own_fixes import check_and_fix

        fixed = check_and_fix(State(state))
        print_answer(fixed, as_json=as_json, text=check_text.build_fixed_lines)
        report: Report = fixed
    else:
        report = _check(State(state), all_machines=all_machines)
        print_answer(report, as_json=as_json, text=check_text.build_report_lines)
    if not report.is_fine:
        raise typer.Exit(1)


def _check(state: State, *, all_machines: bool) -> Report:
    from qmesh.agent.commands.check import check

    if not all_machines:
        return check(state)
    from qmesh.agent.audit.fleet import check_all

    return check_all(state)


def _run_as_plugin(state: State, *, all_machines: bool) -> int:
    """Print the one line; the exit code. What goes wrong is its third kind: nothing is known."""
    from qmesh.cli import check_text

    try:
        status = check_text.summarize_for_plugin(_check(state, all_machines=all_machines))
    except Interrupted:
        raise
    except QmeshError as error:
        status = check_text.describe_failure_for_plugin(f"{error.message}; {error.hint}")
    except Exception as error:  # noqa: BLE001 - a monitor has no use for anything else
        status = check_text.describe_failure_for_plugin(
            f"qmesh itself failed: {describe_unexpected_error(error)}"
        )
    print_stdout(status.line)
    return status.code
