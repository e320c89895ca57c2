"""Kill a command of qmesh at each of its durable writes in turn.

    python cut_off.py admit request --out answer

A durable write is a rename, a removal, a sync of a file or directory, or a commit of SQLite; the command
is killed just before the first, run again and killed before the second, and so on until it ends. What it
answers at last goes to standard output. Standard error has a line of JSON for each kill: what it came
before, and the ports that the guard closes then.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import qmesh.agent.commands.admit
import qmesh.agent.commands.join.offline  # noqa: F401 - loaded once, for all that are forked from here
from qmesh.cli import app
from qmesh.mesh.guard.parse import parse_table_header
from qmesh.mesh.ports.port_ranges import format_port_ranges


def main() -> None:
    for at in cut_offs(lambda: app.run(sys.argv[1:])):
        listed = subprocess.run(
            ["nft", "-s", "list", "table", "inet", "qmesh"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        guard = parse_table_header(listed)
        closed = "" if guard is None else format_port_ranges(guard.closed_ports)
        sys.stderr.write(json.dumps({"at": at, "closed": closed}) + "\n")


def cut_offs(call: Callable[[], object], *, afresh: Callable[[], None] | None = None) -> Iterator[str]:
    """Before which durable writes of `call` it was killed in turn, in processes of their own.

    afresh: puts all back before each; without it one begins with what the last left.
    Raises AssertionError when it ends by itself with an error, or an exit code that is one.
    """
    for number in itertools.count(1):
        if afresh is not None:
            afresh()
        at = _killed_before(number, call)
        if at is None:
            return
        yield at


def _killed_before(number: int, call: Callable[[], object]) -> str | None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            _count(number, writing)
            ended = call()
            code = ended if isinstance(ended, int) else 0
            sys.stdout.flush()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        at = told.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if at else 0), f"{at!r}, {status}"
    return at or None


def _count(number: int, writing: int) -> None:
    """Have this process killed before its durable write of that number."""
    numbers = itertools.count(1)

    def count(what: str) -> None:
        if next(numbers) == number:
            os.write(writing, what.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            count(f"{name} {arguments[0]}")
            return real(*arguments, **named)

        return call

    for name in ("replace", "rename", "unlink", "fsync"):
        setattr(os, name, counted(name))
    connect: Any = sqlite3.connect

    def connected(*arguments: Any, **named: Any) -> Any:
        connection = connect(*arguments, **named)
        connection.set_trace_callback(lambda text: count("commit") if text == "COMMIT" else None)
        return connection

    setattr(sqlite3, "connect", connected)  # noqa: B010 - mypy would not have it otherwise


if __name__ == "__main__":
    main()
