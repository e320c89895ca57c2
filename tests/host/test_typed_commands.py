"""What root is told to type, when the owner of the directory puts something else on the way meanwhile."""

from __future__ import annotations

import ast
import os
import re
import shlex
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmesh.errors import BadInput, MachineRefused
from qmesh.host import config_directory
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.output_file import open_output_directory
from qmesh.host.typed_commands import CLOSE, build_command
from tests.support.skips import CANNOT

USER = 1001
NAME = "config.yml"
HOME = Path("/run/home/alice")
NODE = HOME / "the node"
CONFIG = NODE / ".config"
VICTIM = Path("/run/victim")
QMESH = Path(__file__).parents[2] / "qmesh"

lab = pytest.mark.lab
own_machine = pytest.mark.usefixtures("own_machine")


def run(line: str, user: int = 0) -> int:
    done = subprocess.run(
        ["/bin/sh", "-u", "-c", line], check=False, user=user, group=user, extra_groups=[], cwd="/"
    )
    return done.returncode


def as_user(line: str) -> None:
    assert run(line, USER) == 0


def furnish() -> None:
    """A user's home with a node's directory, and one of root's with a file of the same name."""
    VICTIM.mkdir(mode=0o755)
    (VICTIM / ".config").mkdir(mode=0o755)
    (VICTIM / ".config" / NAME).write_bytes(b"root's own\n")
    (VICTIM / ".config" / NAME).chmod(0o644)
    HOME.mkdir(parents=True)
    os.chown(HOME, USER, USER)
    as_user(f"umask 022; mkdir -p {shlex.quote(str(CONFIG))}; echo old > {shlex.quote(str(CONFIG / NAME))}")


def picture() -> list[tuple[str, int, int, bytes]]:
    """All of the victim: names, modes, owners and contents."""
    parts = sorted([VICTIM, *VICTIM.rglob("*")])
    seen = [(part, part.lstat()) for part in parts]
    return [
        (str(part), found.st_mode, found.st_uid, part.read_bytes() if part.is_file() else b"")
        for part, found in seen
    ]


SWAPS = {
    "the directory": f"mv '{CONFIG}' {HOME}/spare; ln -s {VICTIM}/.config '{CONFIG}'",
    "a directory on the way": f"mv '{NODE}' {HOME}/spare; ln -s {VICTIM} '{NODE}'",
    "the file": f"cd '{CONFIG}'; mv {NAME} spare; ln -s {VICTIM}/.config/{NAME} {NAME}",
}


def close_file() -> str:
    return config_directory.build_closing_command(ConfigDirectory(CONFIG, USER), NAME)


def close_roots_file() -> str:
    os.chown(CONFIG / NAME, 0, 0)
    return close_file()


def give_file() -> str:
    os.chown(CONFIG / NAME, 0, 0)
    (CONFIG / NAME).chmod(0o600)
    with pytest.raises(BadInput, match="cannot be read by user 1001") as refused:
        config_directory.read(ConfigDirectory(CONFIG, USER), NAME)
    return typed(refused.value.hint)


def take_link_away() -> str:
    return build_command("rm {}", CONFIG / NAME)


def make_directory() -> str:
    with pytest.raises(BadInput) as refused, open_output_directory(CONFIG / "new/deep/backup"):
        pass
    return typed(refused.value.hint)


def open_directory() -> str:
    CONFIG.chmod(0o555)
    with pytest.raises(MachineRefused, match="takes no new files of user 1001") as refused:
        config_directory.write(ConfigDirectory(CONFIG, USER), NAME, b"new", instead_of=b"old\n")
    return typed(refused.value.hint)


def fill_file() -> str:
    return build_command("echo new > {}", CONFIG / NAME, needs_root=True)


def typed(hint: str) -> str:
    """The first command of a hint, as it is typed."""
    return hint.split("`")[1]


def owner_and_mode() -> tuple[int, int]:
    found = (CONFIG / NAME).lstat()
    return found.st_uid, stat.S_IMODE(found.st_mode)


COMMANDS: dict[str, tuple[Callable[[], str], Callable[[], bool]]] = {
    "close a file": (close_file, lambda: owner_and_mode() == (USER, 0o600)),
    "close a file that is root's": (close_roots_file, lambda: owner_and_mode() == (USER, 0o600)),
    "give a file": (give_file, lambda: owner_and_mode() == (USER, 0o600)),
    "remove a file": (take_link_away, lambda: not (CONFIG / NAME).exists()),
    "make a directory": (make_directory, lambda: (CONFIG / "new/deep").lstat().st_uid == USER),
    "open a directory": (open_directory, lambda: stat.S_IMODE(CONFIG.lstat().st_mode) == 0o755),
}


@lab
@own_machine
@pytest.mark.parametrize("name", COMMANDS)
def test_r1_what_is_typed_in_a_users_directory_does_what_it_says(name):
    furnish()
    build, is_done = COMMANDS[name]
    before = picture()
    assert run(build()) == 0
    assert is_done()
    assert picture() == before


@lab
@own_machine
@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("name", COMMANDS)
def test_r1_what_is_typed_follows_no_link_that_a_user_put_there_meanwhile(name, swap):
    furnish()
    build, _ = COMMANDS[name]
    before = picture()
    line = build()
    as_user(f"chmod u+wx '{CONFIG}'; {SWAPS[swap]}")
    run(line)
    assert picture() == before


@lab
@own_machine
@pytest.mark.parametrize("swap", [name for name in SWAPS if name != "the file"])
def test_r1_what_only_root_can_do_is_done_in_the_directory_that_was_looked_at(swap):
    """At a mount point, which nobody replaces in its directory."""
    furnish()
    for place in (CONFIG, VICTIM / ".config"):
        if run(f"mount --bind '{place / NAME}' '{place / NAME}'"):
            pytest.skip(f"{CANNOT}mount here")
    obstacle = config_directory.find_write_obstacle(ConfigDirectory(CONFIG, USER), NAME)
    assert obstacle is not None
    lines = (
        typed(obstacle.hint),
        build_command("echo new > {}", CONFIG / NAME, needs_root=True),
        build_command("chown -R nobody {}", CONFIG, needs_root=True),
    )
    before = picture(), is_mounted(VICTIM / ".config" / NAME)
    as_user(SWAPS[swap])
    for line in lines:
        run(line)
    assert (picture(), is_mounted(VICTIM / ".config" / NAME)) == before
    as_user(f"rm '{CONFIG if swap == 'the directory' else NODE}'")
    as_user(f"mv {HOME}/spare '{CONFIG if swap == 'the directory' else NODE}'")
    assert [run(line) for line in (*lines[1:], lines[0])] == [0, 0, 0]  # the positive control
    assert not is_mounted(CONFIG / NAME)
    assert (CONFIG / NAME).read_text() == "new\n"


def is_mounted(path: Path) -> bool:
    return f" {str(path).replace(' ', chr(92) + '040')} " in Path("/proc/self/mountinfo").read_text()


@lab
@own_machine
def test_a_path_that_only_root_can_change_is_typed_as_it_is():
    furnish()
    file = VICTIM / ".config" / NAME
    assert build_command(CLOSE, file) == f"chmod 600 {file}"
    assert build_command("chattr -i {}", file, needs_root=True) == f"chattr -i {file}"
    sticky = Path("/run/sticky")
    (sticky / "it's").mkdir(parents=True)
    sticky.chmod(0o1777)  # as /tmp: there nobody moves what is root's
    assert build_command(CLOSE, sticky / "it's/key") == "chmod 600 '/run/sticky/it'\"'\"'s/key'"
    for place in (HOME / "roots", Path("/run/shared")):  # root's, and moved or filled by others as they like
        place.mkdir()
        place.chmod(0o777 if place.name == "shared" else 0o755)
        assert build_command(CLOSE, place / "key").startswith(f"(cd -P {place} && [ ")


_TYPED = re.compile(
    r"(?:^|[`(]|&& )(?:chmod|chown|chattr|umount|mount|rm|rmdir|mkdir|mv|cp|ln|cat|tee|touch|truncate)"
    r"(?: \S+)* $"
)
"""The words of a command at whose end a path is put."""
ROOTS_OWN = {
    "host/readers/place.py": "a directory of root's in /run",
    "mesh/imports/commands.py": "an invitation, in the directory in which the operator is",
    "mesh/audit/node/obstacles.py": "a file of root's in /run",
    "mesh/audit/findings.py": "a file without a command of its own, as no machine is looked at there",
    "agent/audit/own_fixes.py": "what was done is named so",
}


def list_commands_with_paths() -> Iterator[tuple[str, str]]:
    """Each text of qmesh's in which a command stands right before a value, but for templates."""
    for file in sorted(QMESH.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr) and "{{}}" not in ast.unparse(node):
                for before, after in zip(node.values, node.values[1:], strict=False):
                    words = before.value if isinstance(before, ast.Constant) else ""
                    if isinstance(after, ast.FormattedValue) and _TYPED.search(str(words)):
                        yield str(file.relative_to(QMESH)), str(words)


def test_r1_each_command_about_a_path_that_is_printed_is_made_in_one_place():
    found = dict(list_commands_with_paths())
    assert found.keys() == ROOTS_OWN.keys(), found
