"""The node's directory, when its owner is who attacks: a user without root, on a machine of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmesh.errors import BadInput, MachineRefused, QmeshError, StateUnreadable
from qmesh.host import config_directory, disk_timeout, owned_path
from qmesh.host.config_directory import MAX_OCTETS, ConfigDirectory, find, read, read_stamp, write
from tests.support.fuse import mount_fuse
from tests.support.own_machine import small_disk
from tests.support.waiting import some_time, wait_until

USER, OTHER = 1001, 1002
NAME = "config.yml"
HOME = Path("/run/home/alice")
NODE = HOME / "node"
CONFIG = NODE / ".config"
VICTIM = Path("/run/victim")
ROOTS = Path("/run/roots")
"""Root's, with a link to the victim."""
SECRET = b"root's own\n"

lab = pytest.mark.lab
own_machine = pytest.mark.usefixtures("own_machine")


def as_user(script: str, user: int = USER) -> None:
    """Run a shell script without root's rights."""
    subprocess.run(
        ["/bin/sh", "-e", "-u", "-c", script], check=True, user=user, group=user, extra_groups=[], cwd="/"
    )


def furnish() -> ConfigDirectory:
    """A user's home with a node's directory, and one of root's with a file that is nobody else's to read."""
    Path("/run").chmod(0o755)
    VICTIM.mkdir(mode=0o700)
    (VICTIM / NAME).write_bytes(SECRET)
    (VICTIM / NAME).chmod(0o600)
    ROOTS.mkdir()
    (ROOTS / ".config").symlink_to(VICTIM)
    HOME.mkdir(parents=True)
    os.chown(HOME, USER, USER)
    as_user(f"umask 077; mkdir -p {CONFIG}; echo old > {CONFIG}/{NAME}")
    return ConfigDirectory(CONFIG, USER)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def is_untouched(directory: Path = VICTIM) -> bool:
    return names_in(directory) == [NAME] and (directory / NAME).read_bytes() == SECRET


def attempts(directory: ConfigDirectory) -> Iterator[Callable[[], object]]:
    """All that qmesh does with a directory that it remembers."""
    yield lambda: read(directory, NAME)
    yield lambda: read_stamp(directory, NAME)
    yield lambda: write(directory, NAME, b"new\n", instead_of=b"old\n")
    yield lambda: write(directory, NAME, b"new\n", instead_of=SECRET)
    yield lambda: write(directory, NAME, b"new\n", instead_of=None)
    yield lambda: config_directory.read_disk_space(directory)


def all_refused(directory: ConfigDirectory, message: str) -> None:
    for attempt in attempts(directory):
        with pytest.raises(BadInput, match=message):
            attempt()
    assert is_untouched()


@lab
@own_machine
@pytest.mark.parametrize(("place", "target"), [(CONFIG, VICTIM), (NODE, ROOTS)])
def test_a_users_link_in_place_of_the_directory_leads_root_nowhere(place, target):
    furnish()
    as_user(f"mv {place} {HOME}/spare; ln -s {target} {place}")
    message = f"is a link to '{target}', in a directory that others than root can change"
    for owner in (USER, 0, None):
        all_refused(ConfigDirectory(CONFIG, owner), message)
    with pytest.raises(BadInput, match=message) as refused:
        find(CONFIG)
    assert "pass the directory that the link leads to with --config" in refused.value.hint


@lab
@own_machine
def test_also_a_link_of_roots_own_is_refused_where_a_user_may_put_it():
    """Root's link lies in the user's home; he calls it as he likes."""
    directory = furnish()
    (HOME / "roots").symlink_to(VICTIM)
    as_user(f"mv {CONFIG} {HOME}/spare; mv {HOME}/roots {CONFIG}")
    all_refused(ConfigDirectory(directory.path, None), "is a link")


@lab
@own_machine
@pytest.mark.parametrize("target", ["/run/data", "data", "../run/data", "/run/more"])
def test_a_link_that_only_root_can_have_put_there_is_followed(target):
    furnish()
    Path("/run/more").symlink_to("data")
    Path("/run/home").rename("/run/data")
    Path("/run/home").symlink_to(target)
    found = find(CONFIG)
    assert found == ConfigDirectory(Path("/run/data/alice/node/.config"), USER)
    assert read(found, NAME) == (b"old\n", 0o600)


@lab
@own_machine
def test_links_without_end_are_refused():
    furnish()
    Path("/run/round").symlink_to("round")
    with pytest.raises(BadInput, match="too many symbolic links"):
        find(Path("/run/round/node"))


@lab
@own_machine
def test_another_owners_directory_in_its_place_is_refused_until_it_is_named_again():
    directory = furnish()
    VICTIM.rename(NODE / "roots")  # root's, below the user's: he may rename it
    as_user(f"mv {CONFIG} {NODE}/spare; mv {NODE}/roots {CONFIG}")
    for attempt in attempts(directory):
        with pytest.raises(BadInput, match="belonged to user 1001, and belongs to user 0 now") as refused:
            attempt()
        assert "--config" in refused.value.hint
    assert is_untouched(CONFIG)
    assert find(CONFIG) == ConfigDirectory(CONFIG, 0)


@lab
@own_machine
def test_a_file_is_read_as_the_directorys_owner_and_not_as_root():
    directory = furnish()
    (VICTIM / NAME).chmod(0o640)  # root's group is none of the owner's
    (CONFIG / NAME).unlink()
    (CONFIG / NAME).hardlink_to(VICTIM / NAME)
    os.setgroups([0])  # as in root's login
    for attempt in (lambda: read(directory, NAME), lambda: write(directory, NAME, b"new", instead_of=SECRET)):
        with pytest.raises(
            BadInput, match="cannot be read by user 1001, the owner of the directory"
        ) as refused:
            attempt()
        assert "chown" not in refused.value.hint  # which would give him the victim
    assert is_untouched()
    assert names_in(CONFIG) == [NAME]

    (CONFIG / NAME).unlink()
    (CONFIG / NAME).write_bytes(SECRET)
    (CONFIG / NAME).chmod(0o600)
    with pytest.raises(BadInput, match="cannot be read by user 1001") as refused:
        read(directory, NAME)
    assert "&& chown -h 1001 ./config.yml)`" in refused.value.hint


@lab
@own_machine
def test_what_the_owner_may_not_write_root_does_not_write_for_him():
    directory = furnish()
    os.chown(CONFIG, USER, USER)
    CONFIG.chmod(0o555)
    with pytest.raises(MachineRefused, match="takes no new files of user 1001, its owner"):
        write(directory, NAME, b"new\n", instead_of=b"old\n")
    assert names_in(CONFIG) == [NAME]
    assert (CONFIG / NAME).read_bytes() == b"old\n"


@lab
@own_machine
def test_what_is_written_is_the_owners():
    directory = furnish()
    assert write(directory, NAME, b"new\n", instead_of=b"old\n") == (CONFIG / NAME, True)
    assert write(directory, NAME, b"new\n", instead_of=b"old\n") == (CONFIG / NAME, False)
    assert names_in(CONFIG) == [NAME, f"{NAME}.bak"]
    for name, octets in ((NAME, b"new\n"), (f"{NAME}.bak", b"old\n")):
        found = (CONFIG / name).stat()
        assert ((CONFIG / name).read_bytes(), found.st_uid) == (octets, USER)
        assert not stat.S_IMODE(found.st_mode) & 0o077
    (CONFIG / NAME).unlink()
    write(directory, NAME, b"newer\n", instead_of=None)
    assert (CONFIG / NAME).stat().st_uid == USER
    assert stat.S_IMODE((CONFIG / NAME).stat().st_mode) == 0o600


@lab
@own_machine
@pytest.mark.parametrize(("mode", "kept"), [(0o600, 0o600), (0o644, 0o600), (0o660, 0o600), (0o440, 0o400)])
def test_in_roots_directory_a_replaced_file_keeps_its_owner_and_is_his_alone(mode, kept):
    furnish()
    (VICTIM / NAME).chmod(mode)
    os.chown(VICTIM / NAME, USER, OTHER)
    write(ConfigDirectory(VICTIM, 0), NAME, b"new", instead_of=SECRET)
    for name, octets in ((NAME, b"new"), (f"{NAME}.bak", SECRET)):
        found = (VICTIM / name).stat()
        assert (VICTIM / name).read_bytes() == octets
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, OTHER, kept)


@lab
@own_machine
def test_a_file_that_is_right_is_closed_to_others_and_else_stays():
    directory = furnish()
    (CONFIG / NAME).chmod(0o644)
    before = (CONFIG / NAME).stat().st_ino
    assert config_directory.read_mode(directory, NAME) == 0o644
    assert write(directory, NAME, b"old\n", instead_of=b"old\n") == (CONFIG / NAME, False)
    assert config_directory.read_mode(directory, NAME) == 0o600
    assert (CONFIG / NAME).stat().st_ino == before
    assert names_in(CONFIG) == [NAME]
    os.chown(CONFIG / NAME, OTHER, OTHER)
    (CONFIG / NAME).chmod(0o644)
    write(directory, NAME, b"old\n", instead_of=b"old\n")  # not its owner's to close
    assert config_directory.read_mode(directory, NAME) == 0o644
    assert config_directory.read_mode(directory, "keys.yml") is None
    config_directory.close_to_others(directory, "keys.yml")
    (CONFIG / "keys.yml").write_bytes(b"keys")
    os.chown(CONFIG / "keys.yml", USER, USER)
    (CONFIG / "keys.yml").chmod(0o644)
    config_directory.close_to_others(directory, "keys.yml")
    assert config_directory.read_mode(directory, "keys.yml") == 0o600


@lab
@own_machine
def test_a_group_that_the_owner_is_not_in_gets_nothing():
    directory = furnish()
    os.chown(CONFIG / NAME, USER, OTHER)
    (CONFIG / NAME).chmod(0o660)
    write(directory, NAME, b"new\n", instead_of=b"old\n")
    assert stat.S_IMODE((CONFIG / NAME).stat().st_mode) == 0o600


@lab
@own_machine
def test_only_the_thread_that_works_there_has_the_owners_rights():
    """Nobody else's look at the machine is as that user, and he may end nothing of root's."""
    furnish()
    found: dict[str, object] = {}

    def work() -> None:
        with owned_path.act_as_user(USER):
            try:
                (VICTIM / NAME).read_bytes()
            except PermissionError:
                found["here"] = "refused"
            status = Path(f"/proc/self/task/{threading.get_native_id()}/status").read_text("ascii")
            found["uids"] = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid"))
            worker.append(threading.get_native_id())
            inside.set()
            checked.wait()
        found["after"] = (VICTIM / NAME).read_bytes()

    worker: list[int] = []
    inside, checked = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    assert (VICTIM / NAME).read_bytes() == SECRET
    for task in (os.getpid(), *worker):  # dash's `kill` has no other way to say which one
        refused = subprocess.run(
            ["/bin/sh", "-c", f"kill -KILL {task}"], user=USER, check=False, capture_output=True, cwd="/"
        )
        assert refused.returncode != 0
    checked.set()
    thread.join()
    assert found == {"here": "refused", "uids": ["0", "0", "0", str(USER)], "after": SECRET}


def make_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: it never ends
    path.chmod(0o666)


def link_through_a_link(path: Path) -> None:
    (path.parent / "way").symlink_to(VICTIM)
    path.symlink_to(f"way/{NAME}")


STRANGE: dict[str, Callable[[Path], object]] = {
    "fifo": lambda path: os.mkfifo(path, 0o666),
    "device": make_device,
    "directory": Path.mkdir,
    "link to the shadow": lambda path: path.symlink_to("/etc/shadow"),
    "link to root's": lambda path: path.symlink_to(VICTIM / NAME),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(NAME),
    "link through a link": link_through_a_link,
}


@lab
@own_machine
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_of_the_owners_is_refused_and_not_opened(kind):
    directory = furnish()
    (CONFIG / NAME).unlink()
    STRANGE[kind](CONFIG / NAME)
    for path in CONFIG.iterdir():
        os.chown(path, USER, USER, follow_symlinks=False)
    for attempt in list(attempts(directory))[:5]:
        with pytest.raises((BadInput, StateUnreadable), match=r"is a link to|is not a regular file"):
            attempt()
    assert is_untouched()


@lab
@own_machine
@pytest.mark.parametrize(
    ("octets", "fits"), [(MAX_OCTETS, True), (MAX_OCTETS + 1, False), (6_000_000, False)]
)
def test_a_file_is_read_to_a_mebibyte(octets, fits):
    directory = furnish()
    (CONFIG / NAME).write_bytes(b"#" * octets)
    if fits:
        assert read(directory, NAME) == (b"#" * octets, 0o600)
        return
    with pytest.raises(StateUnreadable, match=f"larger than {MAX_OCTETS} bytes"):
        read(directory, NAME)


@lab
@own_machine
@pytest.mark.parametrize("owner", [0, USER])
def test_a_link_to_a_file_of_the_same_owner_is_followed(owner):
    furnish()
    place = Path("/run/elsewhere")
    place.mkdir()
    os.chown(place, owner, owner)
    real = place / "real.yml"
    real.write_bytes(b"old\n")
    real.chmod(0o600)
    os.chown(real, owner, owner)
    directory = ConfigDirectory(VICTIM if owner == 0 else CONFIG, owner)
    (directory.path / NAME).unlink()
    (directory.path / NAME).symlink_to(real)
    os.chown(directory.path / NAME, owner, owner, follow_symlinks=False)

    assert read(directory, NAME) == (b"old\n", 0o600)
    assert write(directory, NAME, b"new\n", instead_of=b"old\n") == (real, True)
    assert (directory.path / NAME).is_symlink()
    assert (real.read_bytes(), real.stat().st_uid) == (b"new\n", owner)
    assert names_in(place) == ["real.yml", "real.yml.bak"]


@lab
@own_machine
@pytest.mark.parametrize("whose", ["link", "file", "directory"])
def test_a_link_is_refused_where_anything_of_it_is_another_users(whose):
    directory = furnish()
    place = Path("/run/elsewhere")
    place.mkdir()
    (place / NAME).write_bytes(SECRET)
    (CONFIG / NAME).unlink()
    (CONFIG / NAME).symlink_to(place / NAME)
    everything = {"link": CONFIG / NAME, "file": place / NAME, "directory": place}
    for what, path in everything.items():
        os.chown(path, OTHER if what == whose else USER, USER, follow_symlinks=False)
    for attempt in list(attempts(directory))[:5]:
        with pytest.raises(BadInput, match="not a file of the same owner"):
            attempt()
    assert is_untouched(place)


@lab
@own_machine
def test_the_old_backup_and_a_link_in_its_place_are_replaced():
    directory = furnish()
    as_user(f"ln -s {VICTIM}/{NAME} {CONFIG}/{NAME}.bak")
    write(directory, NAME, b"new\n", instead_of=b"old\n")
    assert (CONFIG / f"{NAME}.bak").read_bytes() == b"old\n"
    assert is_untouched()


@lab
@own_machine
def test_what_was_changed_meanwhile_is_not_replaced():
    directory = furnish()
    for instead_of in (b"other", None):
        with pytest.raises(BadInput, match="was changed by another program meanwhile"):
            write(directory, NAME, b"new", instead_of=instead_of)
    assert names_in(CONFIG) == [NAME]


@lab
@own_machine
def test_where_no_directory_is_nothing_is_found_and_nothing_written():
    furnish()
    as_user(f"rm -r {CONFIG}")
    for owner in (USER, None):
        directory = ConfigDirectory(CONFIG, owner)
        assert (find(CONFIG), read(directory, NAME), read_stamp(directory, NAME)) == (None, None, None)
        with pytest.raises(MachineRefused, match="there is no directory"):
            write(directory, NAME, b"new", instead_of=None)
    as_user(f"echo > {CONFIG}")
    with pytest.raises(BadInput, match="is not a directory"):
        find(CONFIG)


_CAP_SETGID, _CAP_SETUID = 6, 7


def drop_capabilities(*numbers: int) -> None:
    """Source: capset(2), version 3: two sets of three 32-bit words."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for number in numbers:
        for word in range(3):
            sets[word] &= ~(1 << number)
    assert libc.capset(header, sets) == 0


@lab
@own_machine
def test_what_is_no_path_from_the_root_on_is_refused():
    furnish()
    os.chdir(HOME)
    for path in ("", ".", "node", "../run", "/run\0/home"):
        for attempt in attempts(ConfigDirectory(Path(path), None)):
            with pytest.raises(BadInput, match="is not an absolute path"):
                attempt()
    with pytest.raises(BadInput, match="cannot be opened: File name too long"):
        find(Path("/run") / ("x" * 300))


@lab
@own_machine
def test_where_a_users_rights_cannot_be_taken_nothing_is_done():
    """As in a container that may not become somebody else."""
    directory = furnish()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            drop_capabilities(_CAP_SETUID, _CAP_SETGID)
            with pytest.raises(MachineRefused, match="cannot take the rights of user 1001"):
                read(directory, NAME)
            with pytest.raises(MachineRefused, match="cannot take the rights of user 1001"):
                write(directory, NAME, b"new\n", instead_of=b"old\n")
            code = 0
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert names_in(CONFIG) == [NAME]


@contextlib.contextmanager
def working(*words: str) -> Iterator[None]:
    """A user's program that goes on all the while."""
    process = subprocess.Popen(["/bin/sh", "-c", *words], user=USER, group=USER, extra_groups=[], cwd="/")
    try:
        yield
    finally:
        process.kill()
        process.wait()


EXCHANGE = f"while :; do mv {{0}} {HOME}/spare; ln -s {{1}} {{0}}; rm {{0}}; mv {HOME}/spare {{0}}; done"


@lab
@own_machine
@pytest.mark.parametrize(
    ("exchanged", "link"), [(CONFIG, VICTIM), (NODE, ROOTS), (CONFIG / NAME, VICTIM / NAME)]
)
@pytest.mark.parametrize("times", [30, pytest.param(1000, marks=pytest.mark.long)])
def test_a_directory_that_is_exchanged_at_any_moment_leads_nowhere_else(exchanged, link, times):
    """Its owner has a link to a place of root's put there and taken away, as fast as can be."""
    directory = furnish()
    number = done = 0
    with working(EXCHANGE.format(exchanged, link)):
        while done < times:
            number += 1
            with contextlib.suppress(QmeshError):
                content = read(directory, NAME)
                if content is None:
                    continue
                assert content.octets != SECRET
                write(directory, NAME, b"%d\n" % number, instead_of=content.octets)
                done += 1
    assert is_untouched()
    assert {path.lstat().st_uid for path in HOME.rglob("config.yml*")} == {USER}


@lab
@own_machine
def test_a_file_that_grows_while_it_is_read_ends():
    directory = furnish()
    with working(f"while :; do head -c 100000 /dev/zero >> {CONFIG}/{NAME}; done"):
        wait_until(lambda: (CONFIG / NAME).stat().st_size > MAX_OCTETS, seconds=30)
        for _ in range(20):
            with pytest.raises(StateUnreadable, match="larger than"):
                read(directory, NAME)


@lab
@own_machine
@pytest.mark.parametrize("place", [CONFIG, NODE, HOME, CONFIG / NAME])
def test_a_file_system_that_a_user_mounted_is_asked_for_nothing(monkeypatch, place):
    monkeypatch.setattr(disk_timeout, "_hanging", {})  # another test's may be there
    directory = furnish()
    mount_fuse(place, user=USER, is_file=place == CONFIG / NAME)
    for attempt in list(attempts(directory))[:5]:
        with pytest.raises(BadInput, match="is a file system that a user mounted"):
            attempt()
    assert not disk_timeout._hanging


@lab
@own_machine
def test_a_disk_that_does_not_answer_is_waited_for_once_and_not_for_long(monkeypatch):
    directory = furnish()
    mount_fuse(CONFIG, user=0)  # by root: like the disk of a network that is away
    assert disk_timeout.WAIT_S < 5  # what waits for it is named within ten seconds, and is not to be
    monkeypatch.setattr(disk_timeout, "WAIT_S", 0.2)
    monkeypatch.setattr(config_directory, "WRITE_S", 0.2)
    with pytest.raises(MachineRefused, match=r"the disk of /run/home/alice/node/\.config does not answer"):
        read(directory, NAME)
    threads = threading.active_count()
    for attempt in attempts(directory):
        with pytest.raises(MachineRefused, match="does not answer"):
            attempt()
    assert threading.active_count() == threads


@lab
@own_machine
@pytest.mark.parametrize(("octets", "left"), [(50_000, []), (20_000, ["config.yml.bak"])])
def test_a_full_disk_leaves_the_nodes_file_alone(octets, left):
    with small_disk() as disk:
        old = b"old" * (octets // 3)
        (disk / NAME).write_bytes(old)
        with pytest.raises(MachineRefused, match=r"config\.yml.* could not be written: No space left"):
            write(ConfigDirectory(disk, 0), NAME, b"new" * 10_000, instead_of=old)
        for name in [NAME, *left]:
            assert (disk / name).read_bytes() == old
        assert names_in(disk) == [NAME, *left]


def test_a_killed_replacement_loses_nothing(tmp_path):
    directory = ConfigDirectory(tmp_path, os.geteuid())
    versions = [bytes([letter]) * 100_000 for letter in b"abcdefgh"]
    (tmp_path / NAME).write_bytes(versions[0])
    for _ in range(10):
        identifier = os.fork()
        if identifier == 0:
            with contextlib.suppress(BaseException):
                for number in range(10**9):
                    content = read(directory, NAME)
                    assert content
                    write(directory, NAME, versions[number % 8], instead_of=content.octets)
            os._exit(1)
        some_time(0.001, 0.03)
        os.kill(identifier, signal.SIGKILL)
        os.waitpid(identifier, 0)
        for name in (NAME, f"{NAME}.bak"):
            with contextlib.suppress(FileNotFoundError):
                assert (tmp_path / name).read_bytes() in versions
