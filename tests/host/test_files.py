from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmesh.errors import MachineRefused, NeedsRoot, StateUnreadable
from qmesh.host import files
from qmesh.host.system import disk_reserve
from tests.support.own_machine import small_disk
from tests.support.waiting import Deadline, some_time

NOBODY = 65534

lab = pytest.mark.lab
own_machine = pytest.mark.usefixtures("own_machine")


@contextlib.contextmanager
def working(work: Callable[[int], object]) -> Iterator[None]:
    """Another process that does `work` over and over, counting, until it is killed half way.

    It has done it once when this begins.
    """
    begun, begins = os.pipe()
    identifier = os.fork()
    if identifier == 0:
        with contextlib.suppress(BaseException):
            os.umask(0)
            work(0)
            os.write(begins, b"x")
            for number in range(1, 10**9):
                work(number)
        os._exit(1)
    os.close(begins)
    try:
        with os.fdopen(begun, "rb") as reading:
            assert reading.read(1) == b"x"
        yield
    finally:
        os.kill(identifier, signal.SIGKILL)
        _, status = os.waitpid(identifier, 0)
    assert os.WIFSIGNALED(status), "the other process did not work until it was killed"


def modes_in(directory: Path) -> dict[str, int]:
    """Name and mode of every file, temporary ones too, that is there when it is looked at."""
    found = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found[entry.name] = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
    return found


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def owned(path: Path, owner: int, group: int | None = None) -> Path:
    os.chown(path, owner, owner if group is None else group, follow_symlinks=False)
    return path


def test_what_was_written_is_read(tmp_path):
    for octets in (b"", b"one", bytes(range(256)) * 5000):
        files.write(tmp_path / "file", octets)

        assert files.read(tmp_path / "file") == octets
        assert names_in(tmp_path) == ["file"]


def test_nothing_there_reads_as_none(tmp_path):
    assert files.read(tmp_path / "file") is None
    assert files.read(tmp_path / "no" / "file") is None
    assert files.read_mode(tmp_path / "file") is None


def test_a_file_whose_writer_is_killed_is_the_old_or_the_new_and_never_a_part(tmp_path):
    path = tmp_path / "file"
    versions = [bytes([letter]) * 300_000 for letter in b"abcdefgh"]
    seen = set()
    files.write(path, versions[0])
    for _ in range(25):
        with working(lambda number: files.write(path, versions[number % len(versions)])):
            some_time(0.001, 0.03)
        octets = files.read(path)

        assert octets in versions
        seen.add(octets[:1])

    assert len(seen) > 1, "no writer got as far as to write"
    # What a killed process leaves behind nobody else may read.
    assert set(modes_in(tmp_path).values()) == {0o600}


def test_a_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "file"
    versions = [bytes([letter]) * (100_000 + letter) for letter in b"abcdefgh"]
    files.write(path, versions[0])
    seen: set[bytes | None] = set()
    deadline = Deadline(10)
    with working(lambda number: files.write(path, versions[number % len(versions)])):
        while len(seen) < 5:
            octets = files.read(path)
            assert octets in versions
            seen.add(octets)
            assert not deadline.is_over(), "the writer was not seen to write"


def test_e1_a_private_file_is_0600_from_its_first_byte(tmp_path):
    path = tmp_path / "private.key"
    temporaries = 0
    modes: set[int] = set()
    deadline = Deadline(20)

    def anew(number: int) -> None:
        files.write(path, b"secret" * 20_000)
        path.unlink()

    with working(anew):
        while temporaries < 30:
            found = modes_in(tmp_path)
            modes.update(found.values())
            temporaries += any(name != path.name for name in found)
            assert not deadline.is_over(), "no file was seen while it was written"

    assert modes == {0o600}


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o400])
def test_the_mode_is_as_asked_whatever_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        files.write(tmp_path / "file", b"octets", mode=mode)
    finally:
        os.umask(before)

    assert files.read_mode(tmp_path / "file") == mode


def test_a_wider_file_is_replaced_by_a_private_one(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o666)
    files.write(tmp_path / "file", b"new")

    assert files.read_mode(tmp_path / "file") == 0o600


def test_a_link_at_the_target_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "other").write_bytes(b"somebody else's")
    for target in ("other", "nowhere"):
        (tmp_path / "file").unlink(missing_ok=True)
        (tmp_path / "file").symlink_to(target)
        files.write(tmp_path / "file", b"ours")

        assert not (tmp_path / "file").is_symlink()
        assert files.read(tmp_path / "file") == b"ours"
    assert (tmp_path / "other").read_bytes() == b"somebody else's"
    assert names_in(tmp_path) == ["file", "other"]


def test_another_hard_link_keeps_what_it_had(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "other").hardlink_to(tmp_path / "file")
    files.write(tmp_path / "file", b"new")

    assert (tmp_path / "other").read_bytes() == b"old"


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: (path / "in").mkdir(parents=True)])
def test_where_a_directory_is_nothing_can_be_written_and_nothing_is_left(tmp_path, make):
    make(tmp_path / "file")

    with pytest.raises(MachineRefused, match="could not be written: Is a directory") as refused:
        files.write(tmp_path / "file", b"octets")

    assert "nothing was changed" in refused.value.hint
    assert names_in(tmp_path) == ["file"]


def test_without_its_directory_a_file_is_refused(tmp_path):
    with pytest.raises(MachineRefused, match="No such file or directory"):
        files.write(tmp_path / "no" / "file", b"octets")


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(MachineRefused, match="too long"):
        files.write(tmp_path / ("x" * 250), b"octets")

    assert names_in(tmp_path) == []


def test_an_interrupted_write_leaves_no_temporary(tmp_path, monkeypatch):
    files.write(tmp_path / "file", b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("_write_all", "sync_directory"):
        with monkeypatch.context() as patch:
            patch.setattr(files, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                files.write(tmp_path / "file", b"new")

        assert names_in(tmp_path) == ["file"]
    assert files.read(tmp_path / "file") == b"new"


@lab
@own_machine
def test_a_full_disk_is_refused_and_the_old_file_is_as_it_was():
    with small_disk() as disk:
        files.write(disk / "file", b"old" * 1000)
        with pytest.raises(MachineRefused, match="could not be written: No space left") as refused:
            files.write(disk / "file", b"new" * 100_000)

        assert "full disk" in refused.value.hint
        assert files.read(disk / "file") == b"old" * 1000
        assert names_in(disk) == ["file"]


@lab
@own_machine
def test_a_read_only_disk_is_refused():
    with small_disk() as disk:
        files.write(disk / "file", b"old")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)

        with pytest.raises(MachineRefused, match="could not be written: Read-only file system"):
            files.write(disk / "file", b"new")
        with pytest.raises(MachineRefused, match="could not be removed: Read-only file system"):
            files.remove(disk / "file")
        assert files.read(disk / "file") == b"old"


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    # A socket's path has at most 107 octets, so it is made elsewhere.
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/socket")
        Path(directory, "socket").rename(path)


def a_link(path: Path) -> None:
    (path.parent / "real").write_bytes(b"octets")
    path.symlink_to("real")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_large_file(path: Path) -> None:
    path.write_bytes(b"x" * 1001)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (a_link, "symbolic links"),
        (a_dangling_link, "symbolic links"),
        (a_fifo, "is not a regular file"),
        (a_socket, "No such device or address"),
        (Path.mkdir, "is not a regular file"),
        (a_large_file, "is larger than 1000 bytes"),
    ],
)
def test_what_is_no_plain_file_of_a_decent_size_is_not_read_and_not_nothing(tmp_path, make, why):
    make(tmp_path / "file")
    before = len(list(Path("/proc/self/fd").iterdir()))

    with pytest.raises(StateUnreadable, match=f"cannot be read: .*{why}") as unreadable:
        files.read(tmp_path / "file", limit=1000)

    assert unreadable.value.hint
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_of_just_the_limit_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 1000)

    assert files.read(tmp_path / "file", limit=1000) == b"x" * 1000


def test_a_file_below_a_file_is_not_nothing(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StateUnreadable, match="Not a directory"):
        files.read(tmp_path / "file" / "below")
    with pytest.raises(StateUnreadable, match="Not a directory"):
        files.read_mode(tmp_path / "file" / "below")


@lab
@own_machine
def test_a_file_that_this_user_may_not_read_asks_for_root():
    path = Path("/run/file")
    files.write(path, b"octets")
    os.seteuid(NOBODY)
    try:
        with pytest.raises(NeedsRoot, match="/run/file cannot be read by this user"):
            files.read(path)
    finally:
        os.seteuid(0)


def test_a_links_own_mode_is_told_and_not_its_targets(tmp_path):
    files.write(tmp_path / "real", b"")
    (tmp_path / "link").symlink_to("real")

    assert files.read_mode(tmp_path / "real") == 0o600
    assert files.read_mode(tmp_path / "link") == 0o777


def test_a_file_is_removed_and_one_that_is_gone_is_fine(tmp_path):
    (tmp_path / "file").touch()
    for _ in range(2):
        files.remove(tmp_path / "file")

        assert names_in(tmp_path) == []
    files.remove(tmp_path / "no" / "file")


def test_to_remove_what_is_not_there_costs_no_write(tmp_path, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    files.remove(tmp_path / "file")
    assert synced == []
    (tmp_path / "file").touch()
    files.remove(tmp_path / "file")
    assert len(synced) == 1


def test_a_link_is_removed_and_its_target_stays(tmp_path):
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    files.remove(tmp_path / "link")

    assert names_in(tmp_path) == ["real"]


def test_a_directory_is_not_removed(tmp_path):
    (tmp_path / "file").mkdir()

    with pytest.raises(MachineRefused, match="could not be removed"):
        files.remove(tmp_path / "file")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_private_directory_is_0700_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.make_private_directory(tmp_path / "a" / "b")
        files.make_private_directory(tmp_path / "a" / "b")
    finally:
        os.umask(before)

    assert files.read_mode(tmp_path / "a" / "b") == 0o700
    assert files.read_mode(tmp_path / "a") == 0o755 & ~umask, "nobody else can put another in its place"


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o770, 0o701, 0o1777])
def test_a_directory_that_others_enter_is_closed(tmp_path, mode):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    files.make_private_directory(tmp_path / "state")

    assert files.read_mode(tmp_path / "state") == 0o700


def a_file(path: Path) -> None:
    path.write_bytes(b"")


def a_link_to_a_directory(path: Path) -> None:
    (path.parent / "real").mkdir(mode=0o755)
    path.symlink_to("real")


@pytest.mark.parametrize("make", [a_file, a_link, a_dangling_link, a_link_to_a_directory, a_fifo])
def test_what_is_no_directory_is_no_private_one(tmp_path, make):
    make(tmp_path / "state")

    with pytest.raises(MachineRefused) as refused:
        files.make_private_directory(tmp_path / "state")

    assert "--state" in refused.value.hint
    assert not (tmp_path / "real").is_dir() or files.read_mode(tmp_path / "real") == 0o755


@lab
def test_somebody_elses_directory_is_no_private_one(tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    owned(tmp_path / "state", NOBODY)

    with pytest.raises(MachineRefused, match="belongs to another user"):
        files.make_private_directory(tmp_path / "state")

    assert files.read_mode(tmp_path / "state") == 0o755


@lab
@own_machine
def test_a_private_directory_where_this_user_may_write_nothing_is_refused():
    Path("/run/roots").mkdir(mode=0o755)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(MachineRefused, match="could not be made: Permission denied"):
            files.make_private_directory(Path("/run/roots/state"))
    finally:
        os.seteuid(0)


def test_a_directory_with_however_many_entries_is_not_held_in_memory(tmp_path):
    """Its owner, who may be any user, makes as many names of one file as he likes."""
    (tmp_path / "one").touch()
    for number in range(5000):
        os.link(tmp_path / "one", tmp_path / f"{'long' * 40}-{number}")
    for look in (
        f"files.remove_temporary_files({tmp_path!r}, 'config.yml')",
        f"node_user.find_foreign_path({tmp_path!r}, {os.getuid()})",
    ):
        program = (
            "import tracemalloc; from pathlib import Path, PosixPath; from qmesh.host import files;"
            "from qmesh.host.system import node_user;"
            f"tracemalloc.start(); {look}; print(tracemalloc.get_traced_memory()[1])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert int(done.stdout) < 1_000_000, "the table of interned names may grow once"


def changed_together(directory: Path) -> dict[Path, bytes | Path | None]:
    """A file that is made, one that takes another's place, one that goes, and one that is replaced last."""
    files.write(directory / "next", b"next")
    files.write(directory / "private", b"private")
    files.write(directory / "gone", b"gone")
    files.write(directory / "last", b"old")
    return {
        directory / "first": b"first",
        directory / "private": directory / "next",
        directory / "gone": None,
        directory / "never": None,
        directory / "last": b"new",
    }


AFTER = {"first": b"first", "private": b"next", "last": b"new"}


def contents_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_files_that_belong_together_are_changed_in_order_and_synced_once(tmp_path, monkeypatch):
    changes = changed_together(tmp_path)
    done: list[str] = []
    replace = os.replace

    def replaced(old: Path, new: Path) -> None:
        done.append(f"replace {new.name}")
        replace(old, new)

    def synced(number: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{number}').readlink()}")

    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "fsync", synced)
    files.replace_together(changes)

    order = [each if each.startswith("replace") else "sync" for each in done]
    assert order == ["sync", "sync", "replace first", "replace private", "replace last", "sync"]
    assert done[-1] == f"sync {tmp_path}"
    assert contents_of(tmp_path) == AFTER
    assert set(modes_in(tmp_path).values()) == {0o600}


@pytest.mark.parametrize("at", range(5))
def test_what_is_cut_off_between_them_is_some_of_them_in_order_and_can_be_done_again(
    tmp_path, monkeypatch, at
):
    changes = changed_together(tmp_path)
    before = contents_of(tmp_path)
    left = at

    def cut(real: Callable[..., object]) -> Callable[..., object]:
        def cutting(*words: object, **rest: object) -> object:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return real(*words, **rest)

        return cutting

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync"):
            patch.setattr(os, name, cut(getattr(os, name)))
        with pytest.raises(KeyboardInterrupt):
            files.replace_together(changes)
    found = contents_of(tmp_path)
    assert (found["last"], "gone" in found) == (b"old", at < 4)
    assert ("first" in found) == (at > 2)
    assert found == before or at > 2  # whatever is not on the disk yet has changed nothing
    assert names_in(tmp_path) == sorted(found)  # and no temporary file is left

    if "next" not in found:
        changes.pop(tmp_path / "private")
    files.replace_together(changes)
    assert contents_of(tmp_path) == AFTER


@lab
@own_machine
def test_a_disk_that_is_full_for_one_of_them_changes_none():
    with small_disk() as disk:
        changes = changed_together(disk)
        before = contents_of(disk)
        changes[disk / "last"] = b"new" * 100_000

        with pytest.raises(MachineRefused, match="could not be written: No space left") as refused:
            files.replace_together(changes)

        assert "first and private and last in" in refused.value.message
        assert contents_of(disk) == before

        # What is named like the reserve is none in a directory of somebody else's.
        (disk / disk_reserve.NAMES[0]).write_bytes(b"his")
        with pytest.raises(MachineRefused, match=r"last in /home/alice could not be written"):
            files.replace_together(changes, named=Path("/home/alice"))
        assert (disk / disk_reserve.NAMES[0]).read_bytes() == b"his"
