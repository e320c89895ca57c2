"""The processes that live as long as their machine: the command line's libraries stay out of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from qmesh.cli.errors import report_exception


def _run_resident(name: str, state: Path) -> None:
    """Do what that command does until it is ended. Each process loads what it needs itself."""
    if name == "agent":
        from qmesh.agent.daemon.main import run_agent  # noqa: PLC0415 - see above

        run_agent(state)
    else:
        from qmesh.agent.daemon import late_imports  # noqa: PLC0415 - see above
        from qmesh.agent.preconditions import check_user  # noqa: PLC0415 - see above
        from qmesh.agent.rollback import run_rollback  # noqa: PLC0415 - see above
        from qmesh.host.state.directory import State  # noqa: PLC0415 - see above

        check_user("undo")
        late_imports.load_modules()
        run_rollback(State(state))


def run(name: str, state: Path) -> int:
    """Be one of them until a signal ends it; returns the exit code."""
    if name == "hold":  # as units of earlier versions start it
        exec_resident(name, state)
    from qmesh.host.log.log_handlers import configure_logging  # noqa: PLC0415 - see above
    from qmesh.host.log.log_outlets import NAME  # noqa: PLC0415 - see above
    from qmesh.host.log.machine_name import read_machine_name  # noqa: PLC0415 - see above

    os.chdir("/")  # the directory that it was typed in may be any user's, and may be unmounted one day
    configure_logging(state / NAME, read_machine_name(state))
    try:
        _run_resident(name, state)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - printed as every command's are
        return report_exception(error, as_json=False)
    return 0


def exec_resident(name: str, state: Path) -> NoReturn:
    """Become one of them, without the libraries that have read the command line: see `qmesh.cli.main`."""
    from qmesh.host.system import processes  # noqa: PLC0415 - see above

    words = processes.build_own_command(name, state)
    os.execv(words[0], words)  # noqa: S606 - no shell is wanted
