"""The hall: parse, call one function, print, exit."""

import gc
import os
import resource
import sys
from pathlib import Path
from typing import Final, NoReturn

from qmesh import __version__
from qmesh.cli.streams import prepare_streams, report_lost_output

_GARBAGE: Final = 200_000
"""Objects that are made before Python looks for garbage: more than a command and a large mesh have."""


def main() -> NoReturn:
    """The program `qmesh`."""
    prepare_streams()
    _forbid_core_dumps()
    words = sys.argv[1:]
    code = report_lost_output(_run(words), as_json="--json" in words)
    gc.freeze()  # all of it goes with the process: Python would look through it for garbage, three times
    sys.exit(code)


def _forbid_core_dumps() -> None:
    """Have no file made of the memory of this process, or of one that it starts: keys are in it."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def _run(words: list[str]) -> int:
    if os.environ.get("_QMESH_COMPLETE") == "machines":  # the installed completions: nobody types it
        from qmesh.host.machine_names import list_offered_names  # noqa: PLC0415 - and nothing of typer

        for name in list_offered_names():
            print(name)  # noqa: T201 - a Tab cannot wait for more
        return 0
    match words:
        case ["--version"]:
            print(f"qmesh {__version__}")  # noqa: T201 - before anything that takes time to load
            return 0
        case ["agent" | "hold" | "undo" as name, "--state", directory] if Path(directory).is_absolute():
            from qmesh.cli import entrypoints  # noqa: PLC0415 - and nothing of typer, for all its life

            return entrypoints.run(name, Path(directory))
        case ["ready", core, "--config", directory, "--timeout", seconds, *rest] if (
            _is_number(core) and _is_number(seconds) and rest in ([], ["--listening"])
        ):
            from qmesh.cli import ready_entrypoint  # noqa: PLC0415 - a hundred cores may start at once

            return ready_entrypoint.run(int(core), Path(directory), float(seconds), listening=bool(rest))
        case _:
            gc.set_threshold(_GARBAGE)
            from qmesh.cli import app  # noqa: PLC0415 - see above

            return app.run(words)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 6
