"""What a program answers to `--version`: run as the node's user, or as nobody, and never as root.

It could do anything that this user can do, which is what the node does anyway: it gets no descriptor, no
environment and no privilege, may write no file, and ends with all its children within some seconds, whatever
sessions they would have begun.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import Final

from qmesh.host.node_program.group_confinement import build_confined_command, can_confine
from qmesh.host.node_program.program_file import ProgramFile
from qmesh.host.system import heartbeat, node_user, programs
from qmesh.mesh.nodeconfig.program_version import (
    MAX_ANSWER,
    ProgramVersion,
    parse_file_name,
    parse_version_answer,
)

ANSWER_S: Final = 5.0
"""Seconds that an answer may take; on a slow disk the program has some hundred megabytes to be read first."""
_END_S: Final = 2.0
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_LIMITS: Final = ("--core=0:0", "--fsize=0:0", f"--cpu={ANSWER_S:.0f}:{ANSWER_S:.0f}")


def read_version(program: ProgramFile, owner: int) -> ProgramVersion | None:
    """What a program tells of itself: by its answer, or where it gives none that is understood, by its name.

    owner: the user number of the node's directory.
    """
    answer = ask_version(program, owner)
    return (None if answer is None else parse_version_answer(answer)) or parse_file_name(program.path.name)


def ask_version(program: ProgramFile, owner: int) -> str | None:
    """The answer of a program to `--version`, of `MAX_ANSWER` bytes at most; None where it was not asked.

    That is where others than root and the owner could have changed it, where the user may not run it, or
    where it can't be run without root's rights.
    """
    starter = _build_starter(owner)
    if starter is None or not program.may_be_run(owner):
        return None
    # Inherited under its number, and run by that: no name leads elsewhere meanwhile.
    words = [*starter, f"/proc/self/fd/{program.descriptor}", "--version"]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=programs.DIRECTORY,
            env=_ENVIRONMENT,
            pass_fds=[program.descriptor],
            start_new_session=True,
        )
    except OSError:
        return None
    assert process.stdout is not None, "it was asked for"
    with process.stdout as answer, heartbeat.allow_wait(ANSWER_S + _END_S):
        try:
            return _read_answer(answer.fileno()).decode("utf-8", "replace")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # One that waits for a file system of the user's own is not waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)


def _build_starter(owner: int) -> tuple[str, ...] | None:
    """The words before the program that take away what it should not have. Source: setpriv(1), prlimit(1)."""
    prlimit, setpriv = programs.find_program("prlimit"), programs.find_program("setpriv")
    if prlimit is None or setpriv is None or not can_confine():
        return None
    privileges = ["--no-new-privs", "--pdeathsig=KILL"]
    if os.geteuid() == 0:
        user = owner or node_user.NOBODY
        privileges += [f"--reuid={user}", f"--regid={node_user.find_group(user)}", "--clear-groups"]
    return build_confined_command((prlimit, *_LIMITS, setpriv, *privileges, "--"))


def _read_answer(descriptor: int) -> bytes:
    """All that comes until the other side closes, or as much as there is room and time for."""
    deadline = time.monotonic() + ANSWER_S
    found = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(found) < MAX_ANSWER and selector.select(max(0.0, deadline - time.monotonic())):
            octets = os.read(descriptor, MAX_ANSWER - len(found))
            if not octets:
                break
            found += octets
    return found
