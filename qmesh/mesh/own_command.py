"""How qmesh starts itself: the one place that says so, for units and for processes."""

from __future__ import annotations

from collections.abc import Sequence


def build_command_line(
    python: str, *words: str, options: Sequence[str] = (), module: str = "qmesh"
) -> tuple[str, ...]:
    """The words that run a command of qmesh, in whichever directory and environment that is.

    -I keeps what Python imports to what root installed: `-m` alone has it look in the current directory
    first, and PYTHON* and the home directory's packages come before its own. Source: python(1), -I.

    python: the interpreter that has qmesh, absolute.
    words: the command with its arguments.
    options: the interpreter's others.
    module: what of qmesh is the program.
    """
    return (python, *options, "-I", "-m", module, *words)
