"""Where the page is served: a port of loopback, or a Unix socket that is its user's alone."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from qmesh.errors import BadInput, MachineRefused
from qmesh.host.output_file import open_output_directory
from qmesh.host.typed_commands import build_command

HOST: Final = "127.0.0.1"
_BACKLOG: Final = 64
_MOST_NAME: Final = 80
"""Characters of a socket's name: its path by a descriptor has to fit into 107, as unix(7) has it."""


def open_page_port(port: int) -> socket.socket:
    """A socket that listens on loopback. port: 0 for any. Raises MachineRefused."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise MachineRefused(
            f"the page cannot be served at {HOST}:{port}: {error.strerror}",
            hint="pass another --port, or --port 0 for any that is free",
        ) from None
    return listening


class PageSocket(NamedTuple):
    """A Unix socket that listens. remove: removes its name, unless another file has that name now."""

    listening: socket.socket
    remove: Callable[[], None]


def open_page_socket(path: Path) -> PageSocket:
    """Make one, 0600. Nothing that is there is replaced.

    Raises BadInput where something is at that path, or no socket can be there; MachineRefused where this user
    may not make one.
    """
    if len(path.name.encode()) > _MOST_NAME or not path.name:
        raise BadInput(
            f"a socket cannot have the path {path}", hint="pass a path with a shorter name to --socket"
        )
    with contextlib.ExitStack() as unless_it_listens:
        directory = _open_directory(path)
        unless_it_listens.callback(os.close, directory)
        listening = unless_it_listens.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        before = os.umask(0o177)
        try:
            listening.bind(f"/proc/self/fd/{directory}/{path.name}")
        except OSError as error:
            raise _build_refusal(path, error) from None
        finally:
            os.umask(before)
        made = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
        listening.listen(_BACKLOG)
        unless_it_listens.pop_all()
    return PageSocket(listening, partial(_remove_socket, directory, path.name, (made.st_dev, made.st_ino)))


def _open_directory(path: Path) -> int:
    with open_output_directory(path) as place:
        return os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _build_refusal(path: Path, error: OSError) -> BadInput | MachineRefused:
    if error.errno == errno.EADDRINUSE:
        hint = "pass another path"
        if path.is_socket() and not path.is_symlink():  # no other file should be removed
            hint += f"; or, if no `qmesh page` uses it any longer, `{build_command('rm {}', path)}`"
        return BadInput(f"{path} exists already", hint=hint)
    return MachineRefused(
        f"no socket can be made at {path}: {error.strerror}",
        hint="pass to --socket a path in a directory of your own",
    )


def _remove_socket(directory: int, name: str, made: tuple[int, int]) -> None:
    with contextlib.suppress(OSError):
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISSOCK(found.st_mode) and (found.st_dev, found.st_ino) == made:
            os.unlink(name, dir_fd=directory)
