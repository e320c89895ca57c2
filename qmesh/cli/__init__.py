"""The hall: parse, call one function, print, exit."""

import sys

from qmesh import __version__


def main() -> None:
    """The program `qmesh`."""
    if sys.argv[1:] == ["--version"]:
        print(f"qmesh {__version__}")  # noqa: T201 - before anything that takes time to load
        return
    from qmesh.cli.hall import run  # noqa: PLC0415 - see above

    sys.exit(run(sys.argv[1:]))
