"""Commands that root is told to type about a path on which another user may put something else meanwhile.

By a link on the way he would lend root's hand: `chmod`, `umount`, `mkdir -p` and a shell's `>` follow each,
and `chown -h` all but the last. So what he has the right to do is typed with his rights, and changes nothing
that is not his. What only root can do is done in the directory that was looked at, by the kernel's number of
it, wherever the path leads by then. Where the path is root's alone, a command has nothing more.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from qmesh.host.owned_path import find_changeable_place
from qmesh.host.system import node_user

CLOSE: Final = "chmod 600 {}"
"""So that only its owner reads a file."""


def build_command(template: str, path: Path, *, needs_root: bool = False) -> str:
    """A command to type, with the path in the place of `{}`.

    needs_root: whether its owner could not do it. What is done at the last part of the path must follow no
    link there, or that part can't be replaced, as a mount point can't.
    """
    found = find_changeable_place(path.absolute().parent)
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
