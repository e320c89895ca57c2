"""Files that are written together: all or none, as the directory's owner, whatever is done to them."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from qmesh.errors import BadInput, MachineRefused, StateUnreadable
from qmesh.host import files
from qmesh.host.config_directory import MAX_OCTETS, ConfigDirectory, write_all
from qmesh.host.files import FileChange
from tests.support.own_machine import small_disk
from tests.support.waiting import some_time

USER = 1001
KEYS, CONFIG = "keys.yml", "config.yml"

lab = pytest.mark.lab
own_machine = pytest.mark.usefixtures("own_machine")


def make_users_directory() -> ConfigDirectory:
    path = Path("/run/home/.config")
    Path("/run").chmod(0o755)
    path.mkdir(parents=True)
    os.chown(path, USER, USER)
    return ConfigDirectory(path, USER)


def as_user(script: str) -> None:
    subprocess.run(["/bin/sh", "-euc", script], check=True, user=USER, group=USER, extra_groups=[], cwd="/")


def both(octets: bytes, old: bytes | None = None) -> list[FileChange]:
    return [FileChange(name, octets + name.encode(), old and old + name.encode()) for name in (KEYS, CONFIG)]


def held(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@lab
@own_machine
def test_n1_both_are_0600_and_the_owners_and_the_old_ones_are_kept() -> None:
    directory = make_users_directory()
    os.umask(0)
    assert write_all(directory, both(b"old")) == (directory.path / KEYS, directory.path / CONFIG)
    (directory.path / KEYS).chmod(0o644)
    os.chown(directory.path / CONFIG, 0, 0)  # as root's editor leaves it
    (directory.path / CONFIG).chmod(0o644)
    write_all(directory, both(b"new", b"old"))
    assert held(directory.path) == {
        **{name: b"new" + name.encode() for name in (KEYS, CONFIG)},
        **{f"{name}.bak": b"old" + name.encode() for name in (KEYS, CONFIG)},
    }
    for path in directory.path.iterdir():
        found = path.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (USER, 0o600), path


@lab
@own_machine
def test_n1_what_is_there_already_stays_unless_others_can_read_it() -> None:
    directory = make_users_directory()
    write_all(directory, both(b"old"))
    before = (directory.path / KEYS).stat().st_ino
    assert write_all(directory, both(b"old", b"old")) == ()
    assert (directory.path / KEYS).stat().st_ino == before
    (directory.path / KEYS).chmod(0o640)
    assert write_all(directory, both(b"old", b"old")) == (directory.path / KEYS,)
    assert stat.S_IMODE((directory.path / KEYS).stat().st_mode) == 0o600


@lab
@own_machine
@pytest.mark.parametrize("name", [KEYS, CONFIG])
@pytest.mark.parametrize("whose", [USER, 0])
def test_n1_no_secret_is_written_through_a_link(name: str, whose: int) -> None:
    directory = make_users_directory()
    target = directory.path.parent / "target"
    target.write_bytes(b"mine")
    os.chown(target, whose, whose)
    (directory.path / name).symlink_to(target)
    os.chown(directory.path / name, whose, whose, follow_symlinks=False)
    with pytest.raises(BadInput, match=f"{name} is a link to '/run/home/target'") as refused:
        write_all(directory, both(b"new"))
    assert f"rm /run/home/.config/{name}" in refused.value.hint
    assert target.read_bytes() == b"mine"
    assert [path.name for path in directory.path.iterdir()] == [name]


@lab
@own_machine
@pytest.mark.parametrize(("kind", "error"), [("mkdir", StateUnreadable), ("mkfifo", StateUnreadable)])
def test_n1_what_is_no_file_is_not_replaced(kind: str, error: type[Exception]) -> None:
    directory = make_users_directory()
    as_user(f"{kind} {directory.path}/{CONFIG}")
    with pytest.raises(error, match="is not a regular file"):
        write_all(directory, both(b"new"))
    assert [path.name for path in directory.path.iterdir()] == [CONFIG]


@lab
@own_machine
def test_n1_what_was_changed_meanwhile_or_is_too_large_is_not_replaced() -> None:
    directory = make_users_directory()
    write_all(directory, both(b"old"))
    for old in (None, b"other"):
        with pytest.raises(BadInput, match=r"keys\.yml was changed by another program meanwhile"):
            write_all(directory, both(b"new", old))
    (directory.path / CONFIG).write_bytes(b"x" * (MAX_OCTETS + 1))
    with pytest.raises(StateUnreadable, match="larger than"):
        write_all(directory, both(b"new", b"old"))
    assert (directory.path / KEYS).read_bytes() == b"oldkeys.yml"
    assert len(list(directory.path.iterdir())) == 2


@lab
@own_machine
def test_n1_what_the_owner_may_not_write_root_does_not_write_for_him() -> None:
    directory = make_users_directory()
    directory.path.chmod(0o555)
    with pytest.raises(
        MachineRefused, match=r"keys\.yml cannot be replaced: .* takes no new files of user 1001"
    ):
        write_all(directory, both(b"new"))
    assert held(directory.path) == {}
    os.chown(directory.path, 0, 0)
    with pytest.raises(BadInput, match="belonged to user 1001, and belongs to user 0 now"):
        write_all(directory, both(b"new"))
    with pytest.raises(MachineRefused, match="there is no directory"):
        write_all(ConfigDirectory(Path("/run/none"), None), both(b"new"))


@lab
@own_machine
@pytest.mark.parametrize("octets", [70_000, 30_000, 20_000, 16_000])
def test_n1_a_full_disk_changes_neither(octets: int) -> None:
    """With room for one of the two, or for both and not for what they replace."""
    with small_disk() as disk:
        old = {name: f"old{name}".encode() for name in (KEYS, CONFIG)}
        for name, content in old.items():
            (disk / name).write_bytes(content)
        with pytest.raises(MachineRefused, match="could not be written: No space left") as refused:
            write_all(
                ConfigDirectory(disk, 0),
                [FileChange(name, b"x" * octets, old[name]) for name in (KEYS, CONFIG)]
                + [FileChange("more", b"x" * 40_000, None)],
            )
        assert "nothing was changed" in refused.value.hint
        assert held(disk) == old


def test_n1_one_that_cannot_be_replaced_has_the_others_restored(tmp_path: Path) -> None:
    (tmp_path / KEYS).write_bytes(b"old")
    (tmp_path / CONFIG).mkdir()
    changes = [
        FileChange("first", b"new", None),
        FileChange(KEYS, b"new", b"old"),
        FileChange(CONFIG, b"new", None),
    ]
    with pytest.raises(MachineRefused, match="Is a directory"):
        files.replace_all(tmp_path, tmp_path, changes)
    assert (tmp_path / KEYS).read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, KEYS, f"{KEYS}.bak"]


def test_n1_a_killed_writer_leaves_whole_files_in_their_order_and_no_copy_for_long(tmp_path: Path) -> None:
    """keys.yml is replaced first: config.yml is never newer than it."""
    directory = ConfigDirectory(tmp_path, os.geteuid())
    names = (KEYS, CONFIG)

    def version(number: int) -> bytes:
        return b"%08d" % number * 10_000

    write_all(directory, [FileChange(name, version(0), None) for name in names])
    begun = 0
    for _ in range(10):
        identifier = os.fork()
        if identifier == 0:
            with contextlib.suppress(BaseException):
                for number in range(begun, 10**8):
                    write_all(
                        directory, [FileChange(name, version(number + 1), version(number)) for name in names]
                    )
            os._exit(1)
        some_time(0.001, 0.03)
        os.kill(identifier, signal.SIGKILL)
        os.waitpid(identifier, 0)
        keys, config = ((tmp_path / name).read_bytes() for name in names)
        found = int(keys[:8]), int(config[:8])
        assert (keys, config) == (version(found[0]), version(found[1]))
        assert found[0] - found[1] in {0, 1}
        begun = found[0]
        # Said again, it is completed, and nothing of a secret is left over.
        write_all(directory, [FileChange(KEYS, keys, keys), FileChange(CONFIG, keys, config)])
        assert set(held(tmp_path)) <= {*names, *(f"{name}.bak" for name in names)}
