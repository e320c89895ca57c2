"""The processes of the node on this machine, by their command lines. Source: proc(5).

A process of any other user could have any command line: only those count that are root's or the node's
user's, with all four of their user numbers.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from qmesh.errors import QmeshError
from qmesh.host import config_directory
from qmesh.host.config_directory import ConfigDirectory

DEFAULT_DIRECTORY: Final = ".config"
"""Where the node has its config.yml, unless it is told otherwise: in its working directory."""
PROCESSES: Final = Path("/proc")
_CONFIG: Final = "config.yml"
_MOST_WORDS: Final = 64 * 1024
"""Bytes of a command line that are read."""
_NAME: Final = re.compile("node|quil")
"""What a program's name has in it, or its script's, that counts where no directory is named."""
_MOST_PATHS: Final = 16
"""Paths that are looked up: each may be on a disk that does not answer."""


class ProgramPlace(NamedTuple):
    """Where a program is opened, and what it is called: the same for all processes that run it."""

    path: Path
    name: str


class RunningNode(NamedTuple):
    """A process of the node. core: 0 is the control process.

    programs: the file that it runs, as `/proc/N/exe`, which is that file also where another is in its place
    by now; and the script, where that file is an interpreter.
    """

    number: int
    core: int
    programs: tuple[ProgramPlace, ...]


def list_running_nodes(directory: ConfigDirectory) -> list[RunningNode]:
    """Those that run with this config directory, the control process first, then by core."""
    users = {0, 0 if directory.owner is None else directory.owner}
    known: dict[str, bool] = {str(directory.path): True}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or may not be looked at
            own = parse_users((process / "status").read_bytes())
            if len(own) == 1 and own <= users and int(process.name) != os.getpid():
                each = _read_running_node(process, directory, known)
                if each is not None:
                    found.append(each)
    return sorted(found, key=lambda each: (each.core, each.number))


def find_other_nodes(directory: ConfigDirectory, numbers: Iterable[int]) -> dict[int, str]:
    """Of these processes those that run a node with another config directory; each with that directory.

    One that may be in a container counts only where its directory is this machine's too, and no copy.
    """
    found = {}
    for number in numbers:
        process = PROCESSES / str(number)
        with contextlib.suppress(OSError):  # it ended, or may not be looked at
            words = _read_words(process)
            place = _find_config_place(process, words) if _has_node_name(words) else None
            if place is None or place == str(directory.path):
                continue
            seen, same = (
                _identify(Path(f"{process}/root{place}") / _CONFIG),
                _identify(directory.path / _CONFIG),
            )
            if seen in {None, same} or seen != _identify(Path(place) / _CONFIG):
                continue
            users = parse_users((process / "status").read_bytes())
            if len(users) == 1 and users <= {0, Path(place).stat().st_uid}:
                found[number] = place
    return found


def _identify(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where nothing is."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def parse_users(status: bytes) -> set[int]:
    """A process's real, effective, saved and file system's user, of what proc(5) has as status."""
    numbers = re.search(rb"^Uid:\s+(\d{1,10})\s+(\d{1,10})\s+(\d{1,10})\s+(\d{1,10})$", status, re.MULTILINE)
    return set() if numbers is None else set(map(int, numbers.groups()))


def _read_running_node(
    process: Path, directory: ConfigDirectory, known: dict[str, bool]
) -> RunningNode | None:
    words = _read_words(process)
    place = _find_config_place(process, words)
    if place is None or not _leads_to(place, directory, known):
        return None
    core = find_option(words, "core") or "0"
    if not re.fullmatch("[0-9]{1,5}", core, re.ASCII):
        return None
    return RunningNode(int(process.name), int(core), tuple(_list_programs(process, words)))


def _read_words(process: Path) -> list[str]:
    with (process / "cmdline").open("rb") as file:
        return parse_words(file.read(_MOST_WORDS))


def _find_config_place(process: Path, words: list[str]) -> str | None:
    """The config directory that a command line names, as the process sees it; None where it is no node's."""
    told = find_option(words, "config", "c")
    if told is None and not _has_node_name(words):
        return None
    place = DEFAULT_DIRECTORY if told is None else told
    if not place.startswith("/"):
        place = posixpath.join(str((process / "cwd").readlink()), place)
    return posixpath.normpath(place)


def _has_node_name(words: list[str]) -> bool:
    return any(_NAME.search(posixpath.basename(word)) for word in words[:3])


def parse_words(cmdline: bytes) -> list[str]:
    """A process's command line, of what proc(5) has as cmdline."""
    return cmdline.decode("utf-8", "surrogateescape").split("\0")[:-1]


def find_option(words: Sequence[str], *names: str) -> str | None:
    """The value of an option on a command line, the last where it stands twice; None where it does not.

    As the node's programs take it: with one dash or two, with `=` or as the next word.
    """
    value = None
    for at, word in enumerate(words[1:], 1):
        for name in names:
            if word in {f"-{name}", f"--{name}"} and at + 1 < len(words):
                value = words[at + 1]
            elif word.startswith((f"-{name}=", f"--{name}=")):
                value = word.partition("=")[2]
    return value


def _leads_to(place: str, directory: ConfigDirectory, known: dict[str, bool]) -> bool:
    """Whether a path is that of the directory, maybe through links. known: what was looked up already."""
    if place not in known and len(known) < _MOST_PATHS:
        known[place] = False
        with contextlib.suppress(QmeshError):
            found = config_directory.find(Path(place))
            known[place] = found is not None and found.path == directory.path
    return known.get(place, False)


def _list_programs(process: Path, words: Sequence[str]) -> Iterator[ProgramPlace]:
    running = process / "exe"
    try:
        yield ProgramPlace(running, str(running.readlink()))
    except PermissionError:  # the agent may not look at each one; then it is as the command line says
        if words[0].startswith("/"):
            yield ProgramPlace(Path(words[0]), words[0])
    # Source: execve(2), interpreter scripts: the interpreter, an argument at most, the script.
    script = next((word for word in words[1:3] if word.startswith("/")), None)
    if script is not None and script != words[0]:
        yield ProgramPlace(Path(script), script)
