"""A function or a command in a process of its own, without the start of a program."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qmesh.cli import main


def run_forked(work: Callable[[], Any], *, user: int | None = None, groups: Sequence[int] = ()) -> Any:
    """What a function returns there, by way of JSON.

    user: whose process it is, with these groups; None for ours.
    """
    take, give = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(take)
            if user is not None:
                os.setgroups(groups)
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            with os.fdopen(give, "wb") as answer:
                answer.write(json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(give)
    with os.fdopen(take, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return json.loads(said)


def type_command(
    *words: str, given: str = "", directory: str | Path = "/"
) -> subprocess.CompletedProcess[str]:
    """What `qmesh` with these words says, typed in that directory where nothing but PATH is set.

    It runs the program's own `main`; a start would take most of the time.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(given.encode())
        files[0].seek(0)
        child = os.fork()
        if child == 0:
            _be_command(words, directory, [file.fileno() for file in files])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in files[1:]:
            file.seek(0)
        said = [file.read().decode() for file in files[1:]]
    return subprocess.CompletedProcess(["qmesh", *words], code, *said)


def _be_command(words: Sequence[str], directory: str | Path, streams: Sequence[int]) -> None:
    code = 99
    try:
        for number, (name, mode) in enumerate((("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb"))):
            os.dup2(streams[number], number)
            raw = io.FileIO(number, mode, closefd=False)
            buffer = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
            setattr(sys, name, io.TextIOWrapper(buffer, encoding="utf-8"))
        os.chdir(directory)
        os.environ.clear()
        os.environ["PATH"] = "/usr/bin:/bin"
        sys.argv = ["qmesh", *words]
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 99
    except BaseException:  # noqa: BLE001 - nothing may go back into pytest from here
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
