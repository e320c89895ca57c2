"""One message to one receiver, and what came of it, within some seconds, whatever the receiver does."""

from __future__ import annotations

import os
import posixpath
import signal
import stat
import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec

from qmesh.errors import BadInput, QmeshError
from qmesh.host.disk_timeout import run_in_time
from qmesh.host.node_program.group_confinement import build_confined_command, can_confine
from qmesh.host.notifications.delivery_result import DeliveryResult
from qmesh.host.owned_path import DirectoryUse, PathMissing, open_without_links
from qmesh.host.system.limited_child import ChildLimits, run_limited_child
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.notifications.formats import Request
from qmesh.mesh.notifications.url import WebUrl
from qmesh.mesh.own_command import build_command_line
from qmesh.mesh.printable import escape_line
from qmesh.mesh.values import quote_text

SEND_S: Final = 20.0
"""Seconds for a request, with the start of its process."""
PROGRAM_S: Final = 30.0
"""Seconds that a program has."""
_MOST_MEMORY: Final = 1 << 30
_MOST_DATA: Final = 256 << 20
"""Of a program: a quarter of what slows down the agent's unit as a whole, and so the agent."""
_MOST_SHOWN: Final = 200
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS: Final = 40
_MOST_SCRIPTS: Final = 4
"""Scripts that are read by scripts: the kernel runs no more."""
_MOST_FIRST_LINE: Final = 256
_USE: Final = DirectoryUse("--notify-command", "the program that is told")
_SENDER: Final = "qmesh.host.notifications.http_sender"


class HttpOutcome(msgspec.Struct, frozen=True):
    """What the sending process prints."""

    status: Annotated[int, msgspec.Meta(ge=0, lt=1000)] | None = None
    reason: str = ""
    location: str = ""
    body: str = ""
    error: str = ""


def send_by_http(request: Request, url: WebUrl) -> DeliveryResult:
    """Send a request. url: what of it is secret is in nothing that this returns."""
    words = build_command_line(sys.executable, module=_SENDER)
    try:
        limits = ChildLimits(SEND_S, memory=_MOST_MEMORY)
        ended = run_limited_child(words, msgspec.json.encode(request), limits)
    except OSError as error:
        return DeliveryResult(is_delivered=False, text=f"no process could be started: {error.strerror}")
    if ended.code is None:
        return DeliveryResult(is_delivered=False, text=f"no answer within {SEND_S:.0f} s")
    return judge_answer(ended.output, ended.code, url)


def judge_answer(printed: bytes, code: int, url: WebUrl) -> DeliveryResult:
    """What the sending process printed, in words. code: with which it ended."""
    try:
        outcome = decode_json(printed, HttpOutcome)
    except Malformed:
        return DeliveryResult(is_delivered=False, text=f"the sending process ended with code {code}")
    said = _show(url.remove_secrets(outcome.body))
    if outcome.status is None:
        return DeliveryResult(is_delivered=False, text=_show(url.remove_secrets(outcome.error)))
    words = _show(f"{outcome.status} {url.remove_secrets(outcome.reason)}").strip()
    if 200 <= outcome.status < 300:
        return DeliveryResult(is_delivered=True, text=f"delivered: {words}", said=said)
    if 300 <= outcome.status < 400:
        where = _show(outcome.location) or "elsewhere"
        return DeliveryResult(
            is_delivered=False, text=f"{words}: it redirects to {where}, which is not followed", said=said
        )
    return DeliveryResult(is_delivered=False, text=f"it answers {words}", said=said)


def _show(text: str) -> str:
    """What others wrote, in one line."""
    line = escape_line(" ".join(text.split()))
    return line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]}..."


def run_program(path: str, message: str) -> DeliveryResult:
    """Run a program with a message on its standard input; 0 means that it has taken it."""
    try:
        words: tuple[str, ...] = (find_program_file(path),)
        # It can begin no session of its own, so that one signal ends all that it starts.
        words = build_confined_command(words) if can_confine() else words
        ended = run_limited_child(words, message.encode(), ChildLimits(PROGRAM_S, data=_MOST_DATA))
    except QmeshError as error:
        return DeliveryResult(is_delivered=False, text=error.message)
    except OSError as error:
        return DeliveryResult(is_delivered=False, text=f"it could not be run: {error.strerror}")
    lines = ended.output.decode("utf-8", "replace").strip().splitlines()
    said = _show(lines[-1]) if lines else ""
    if ended.code is None:
        return DeliveryResult(
            is_delivered=False, text=f"it did not end within {PROGRAM_S:.0f} s, and was killed", said=said
        )
    if ended.code < 0:
        name = signal.Signals(-ended.code).name if -ended.code in set(signal.Signals) else str(-ended.code)
        return DeliveryResult(is_delivered=False, text=f"it was ended by {name}", said=said)
    if ended.code:
        return DeliveryResult(is_delivered=False, text=f"it ended with code {ended.code}", said=said)
    return DeliveryResult(is_delivered=True, text="delivered: it ended with code 0", said=said)


def find_program_file(path: str) -> str:
    """The program without links, where only root can have made it what it is; of a script also what reads it.

    It is run with root's rights: whoever can write it, or a directory on the way to it, would have them.
    Raises BadInput, and MachineRefused where its disk does not answer.
    """
    return run_in_time(Path(path), lambda: _find_program_file(path))


def _find_program_file(path: str, most_scripts: int = _MOST_SCRIPTS) -> str:
    place = Path(path)
    try:
        for _ in range(_MOST_LINKS):
            with open_without_links(place.parent, _USE) as directory:
                place = directory.path / place.name
            _refuse_changeable(path, place.parent, *place.parent.parents)
            if not place.is_symlink():
                break
            place = Path(posixpath.normpath(place.parent / place.readlink()))
        status = place.lstat()
    except (OSError, PathMissing):
        raise BadInput(
            f"{quote_text(path)} is not there", hint="pass the absolute path of a program"
        ) from None
    if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IXUSR:
        raise BadInput(
            f"{quote_text(path)} is not a program", hint="run `chmod u+x` on it, if it is a script"
        )
    _refuse_changeable(path, place)
    interpreter = _read_interpreter(place)
    if interpreter is not None:
        if not interpreter.startswith("/") or not most_scripts:
            raise BadInput(
                f"{quote_text(path)} is a script, and what it names in its first line is not a program",
                hint="write it as `#!/bin/sh`, with the absolute path of a program of root's",
            )
        _find_program_file(interpreter, most_scripts - 1)
    return str(place)


def _read_interpreter(place: Path) -> str | None:
    """What the kernel runs in a script's place; None where it is none. Source: execve(2)."""
    with place.open("rb") as file:
        first, _, _ = file.read(_MOST_FIRST_LINE).partition(b"\n")
    words = first[2:].split() if first.startswith(b"#!") else None
    return None if words is None else os.fsdecode(words[0]) if words else ""


def _refuse_changeable(path: str, *places: Path) -> None:
    """Raise BadInput where others than root can change a program, or a directory and those above it."""
    for number, place in enumerate(places):
        found = place.stat()
        # With the sticky bit, others may only add to a directory that is further up.
        is_kept = number > 0 and bool(found.st_mode & stat.S_ISVTX)
        if found.st_uid not in {0, os.geteuid()} or (found.st_mode & _OTHERS_WRITE and not is_kept):
            raise BadInput(
                f"others than root can change {quote_text(str(place))}, and {quote_text(path)} would be run"
                " as root",
                hint="move the program to a directory of root's, such as /usr/local/bin, and run"
                " `chown root` and `chmod go-w` on it",
            )
