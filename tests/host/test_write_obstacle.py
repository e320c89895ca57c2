"""What keeps a file from being replaced, as the kernel has it: mounts, attributes, rights."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from qmesh.errors import MachineRefused
from qmesh.host import config_directory, files
from qmesh.host.config_directory import ConfigDirectory, find, find_write_obstacle
from qmesh.host.files import FileChange
from tests.support.skips import CANNOT

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

USER = 1001
NAME = "config.yml"
OLD, NEW = b"old: 1\n", b"new: 1\n"


def run(line: str) -> None:
    subprocess.run(["sh", "-ec", line], check=True)


def make_node(owner: int) -> Path:
    """A node's directory on a disk of its own, with a config."""
    disk = Path("/run/disk")
    disk.mkdir()
    run(f"mount -t tmpfs -o size=1m,mode=755 tmpfs {disk}")
    place = disk / "it's"
    place.mkdir()
    (place / NAME).write_bytes(OLD)
    for each in (place, place / NAME):
        os.chown(each, owner, owner)
    return place


def write_all_or_one(directory: ConfigDirectory, *, is_all: bool) -> None:
    if is_all:
        config_directory.write_all(directory, [FileChange(NAME, NEW, OLD)])
    else:
        config_directory.write(directory, NAME, NEW, instead_of=OLD)


def refusal(place: Path, *, is_all: bool) -> MachineRefused:
    """How both ways of writing say that it cannot be done; nothing is left beside the file."""
    directory = find(place)
    assert directory is not None
    obstacle = find_write_obstacle(directory, NAME)
    assert obstacle is not None
    before = sorted(each.name for each in place.iterdir())
    with pytest.raises(MachineRefused) as refused:
        write_all_or_one(directory, is_all=is_all)
    assert obstacle.reason in refused.value.message
    assert refused.value.hint == f"{obstacle.hint}; nothing was changed"
    assert sorted(each.name for each in place.iterdir()) == before
    assert (place / NAME).read_bytes() == OLD
    return refused.value


def command(hint: str) -> str:
    """The first command of a hint, as it is typed."""
    return hint.split("`")[1]


OBSTACLES = {
    "a mount point": ("mount --bind {file} {file}", "config.yml is a mount point"),
    "a file that is mounted read-only": (
        "mount --bind {file} {file}; mount -o remount,bind,ro {file}",
        "mounted read-only",
    ),
    "a file system that is read-only": ("mount -o remount,ro {disk}", "mounted read-only"),
    "a directory that is mounted read-only": (
        "mount --bind {place} {place}; mount -o remount,bind,ro {place}",
        "mounted read-only",
    ),
    "an immutable file": ("chattr +i {file}", "config.yml is immutable"),
    "a file that only grows": ("chattr +a {file}", "config.yml is append-only"),
    "an immutable directory": ("chattr +i {place}", "is immutable"),
    "a directory that only grows": ("chattr +a {place}", "is append-only"),
}


@pytest.mark.parametrize("owner", [0, USER])
def test_each_obstacle_is_named_before_anything_is_written_and_its_command_removes_it(owner):
    place = make_node(owner)
    names = {key: shlex.quote(str(path)) for key, path in (("place", place), ("file", place / NAME))}
    for setting, words in OBSTACLES.values():
        try:
            run(setting.format(disk=place.parent, **names))
        except subprocess.CalledProcessError:
            if "chattr" in setting:
                pytest.skip(f"{CANNOT}set attributes of files here")
            raise
        first, second = (refusal(place, is_all=is_all) for is_all in (False, True))
        assert words in first.message
        assert (first.message, first.hint) == (second.message, second.hint)
        run(command(first.hint))
        directory = find(place)
        assert directory is not None
        if "{file}; mount" in setting:  # a second one is behind the first
            run(command(refusal(place, is_all=False).hint))
        assert find_write_obstacle(directory, NAME) is None, setting
        assert config_directory.write(directory, NAME, NEW, instead_of=OLD) == (place / NAME, True)
        config_directory.write(directory, NAME, OLD, instead_of=NEW)
        (place / f"{NAME}.bak").unlink()


def test_a_directory_that_takes_no_new_files_of_its_owner_is_named():
    place = make_node(USER)
    place.chmod(0o555)
    refused = refusal(place, is_all=False)
    assert f"takes no new files of user {USER}" in refused.message
    run(command(refused.hint))
    directory = find(place)
    assert directory is not None
    assert find_write_obstacle(directory, NAME) is None
    assert find_write_obstacle(directory, "not-there.yml") is None
    assert find_write_obstacle(ConfigDirectory(place / "gone", 0), NAME) is None


def test_what_the_disk_refuses_itself_is_explained_by_its_reason():
    place = make_node(0)
    file = place / NAME
    for setting, way_out in (
        ("mount --bind {0} {0}", "umount"),
        ("mount -o remount,ro {1}", "mount -o remount,rw"),
        ("chattr +i {0}", "chattr -i"),
    ):
        run(setting.format(shlex.quote(str(file)), place.parent))
        with pytest.raises(MachineRefused) as refused:
            files.write(file, NEW)
        assert command(refused.value.hint).startswith(way_out)
        run(command(refused.value.hint))
        files.write(file, NEW)
    (place / f"{NAME}.bak").write_bytes(OLD)
    run(f"chattr +i {shlex.quote(str(place / NAME))}.bak")
    with pytest.raises(MachineRefused) as refused:
        files.replace_all(place, place, [FileChange(NAME, OLD, NEW)])
    assert command(refused.value.hint) == f"chattr -i {shlex.quote(str(place / NAME) + '.bak')}"
    assert file.read_bytes() == NEW
    run(command(refused.value.hint))
