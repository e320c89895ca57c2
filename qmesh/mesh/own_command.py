"""How qmesh starts itself: the one place that says so, for units and for processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_KEPT: Final = frozenset({"LANG", "LANGUAGE", "PATH", "TZ"})
_KEPT_PREFIXES: Final = ("LC_", "QMESH_")


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


def build_holder_line(
    python: str, program: str, state: str, *, options: Sequence[str] = ()
) -> tuple[str, ...]:
    """The same for the process that holds the guard, which is to take as little memory as it can.

    -S passes over the site's packages and what they run at each start; the program, a file of qmesh that root
    installed, adds the one place that it needs. `-m` would load half as much again as all of the process.
    Paths are UTF-8 in each locale. Source: python(1), -I, -S, -X utf8.

    program: that file. state: the state directory. Both are absolute.
    """
    return (python, *options, "-X", "utf8", "-I", "-S", program, "--state", state)


def build_environment(own: Mapping[str, str]) -> dict[str, str]:
    """What a process that outlives its command has of that one's environment, as systemd would give it.

    That is language, time zone and PATH. All else is of whoever typed the command, or of the user from whom
    root came by `su`: where libraries find more code of theirs (LD_*, OPENSSL_*), where temporary files are,
    and passwords.
    """
    return {name: value for name, value in own.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
