"""`ready` as the units of the workers call it: the command line's libraries would take half of its time."""

from __future__ import annotations

from pathlib import Path

from qmesh.agent.commands.ready import ReadyResult, wait_until_listening, wait_until_startable
from qmesh.cli.errors import log_to_stderr, report_exception
from qmesh.cli.terminal import print_stdout


def wait_for_core(core: int, config: Path | None, timeout_s: float, *, listening: bool) -> ReadyResult:
    """Wait for what was asked for."""
    wanted = wait_until_listening if listening else wait_until_startable
    return wanted(core, config, timeout_s=timeout_s)


def render_ready_result(ready: ReadyResult) -> str:
    """The answer as a sentence."""
    if ready.address is None:
        return "the control process can start"
    does = "listens" if ready.listens else "can start"
    return f"core {ready.core} {does} on {ready.address} port {ready.port}"


def run(core: int, config: Path, timeout_s: float, *, listening: bool) -> int:
    """Wait, and say so; returns the exit code."""
    log_to_stderr()
    try:
        print_stdout(render_ready_result(wait_for_core(core, config, timeout_s, listening=listening)))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - printed as every command's are
        return report_exception(error, as_json=False)
    return 0
