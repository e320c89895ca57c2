"""Commands that root is told to type about a path on which another user may put something else meanwhile.

By a link on the way he would lend root's hand: `chmod`, `umount`, `mkdir -p` and a shell's `>` follow each,
and `chown -h` all but the last. So what he has the right to do is typed with his rights, and changes nothing
that is not his. What only root can do is done in the directory that was looked at, by the kernel's number of
it, wherever the path leads by then. Where the path is root's alone, a command has nothing more.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Final

from qmesh.host.system import node_user

CLOSE: Final = "chmod 600 {}"
"""So that only its owner reads a file."""
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def build_command(template: str, path: Path, *, needs_root: bool = False) -> str:
    """A command to type, with the path in the place of `{}`.

    needs_root: whether its owner could not do it. What is done at the last part of the path must follow no
    link there, or that part can't be replaced, as a mount point can't.
    """
    found = None if os.geteuid() else _find_changeable(path.absolute().parent)
    if found is None:
        return template.replace("{}", shlex.quote(str(path)))
    place, status = found
    if status.st_uid and not needs_root:
        typed = template.replace("{}", shlex.quote(str(path.absolute())))
        return f"{_build_rights(status.st_uid)} {typed}"
    is_it = f'[ "$(stat -c %d:%i .)" = {status.st_dev}:{status.st_ino} ]'
    typed = template.replace("{}", shlex.quote(f"./{path.absolute().relative_to(place)}"))
    return f"(cd -P {shlex.quote(str(place))} && {is_it} && {typed})"


def build_giving_command(template: str, path: Path, owner: int) -> str:
    """The same, once the file is that owner's, whose the directory is."""
    return build_command(f"chown -h {owner} {{}} && {_build_rights(owner)} {template}", path, needs_root=True)


def _build_rights(user: int) -> str:
    """The words before a command by which it has a user's rights and no others. Source: setpriv(1)."""
    return f"setpriv --reuid={user} --regid={node_user.find_group(user)} --clear-groups"


def _find_changeable(directory: Path) -> tuple[Path, os.stat_result] | None:
    """The directory, or what there is of the way to it; None where all of that is root's alone."""
    is_roots, last = True, None
    for part in (*reversed(directory.parents), directory):
        try:
            found = part.lstat()
        except OSError:
            break
        # In a directory with the sticky bit nobody moves what is root's: that is the part below it.
        is_kept = last is None or not last[1].st_mode & _OTHERS_WRITE or bool(last[1].st_mode & stat.S_ISVTX)
        is_roots = is_roots and is_kept and found.st_uid == 0
        last = part, found
    is_roots = is_roots and last is not None and not last[1].st_mode & _OTHERS_WRITE
    return None if is_roots else last
