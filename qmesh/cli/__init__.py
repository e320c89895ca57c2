"""The hall: parse, call one function, print, exit."""

import sys
from pathlib import Path

from qmesh import __version__


def main() -> None:
    """The program `qmesh`."""
    match sys.argv[1:]:
        case ["--version"]:
            print(f"qmesh {__version__}")  # noqa: T201 - before anything that takes time to load
        case ["agent" | "hold" | "undo" as name, "--state", directory] if Path(directory).is_absolute():
            from qmesh.cli import entrypoints  # noqa: PLC0415 - and nothing of typer, for all its life

            sys.exit(entrypoints.run(name, Path(directory)))
        case ["ready", core, "--config", directory, "--timeout", seconds, *rest] if (
            _is_number(core) and _is_number(seconds) and rest in ([], ["--listening"])
        ):
            from qmesh.cli import ready_entrypoint  # noqa: PLC0415 - a hundred cores may start at once

            sys.exit(ready_entrypoint.run(int(core), Path(directory), float(seconds), listening=bool(rest)))
        case words:
            from qmesh.cli import app  # noqa: PLC0415 - see above

            sys.exit(app.run(words))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 6
