from __future__ import annotations

import errno
import subprocess

import pytest

from qmesh.errors import MachineRefused
from qmesh.host import files
from qmesh.host.system import disk_reserve
from tests.support.own_machine import small_disk


def fill(directory) -> None:
    filling = ["dd", "if=/dev/zero", f"of={directory}/theirs", "bs=64k"]
    done = subprocess.run(filling, check=False, capture_output=True)
    assert b"No space left" in done.stderr


@pytest.mark.lab
def test_it_takes_its_room_while_there_is_enough(own_machine):
    with small_disk("24m") as small:
        assert disk_reserve.create_reserve(small)
        assert disk_reserve.create_reserve(small)
        for name in disk_reserve.NAMES:
            found = (small / name).stat()
            assert (found.st_size, found.st_mode & 0o777) == (disk_reserve.FILE_OCTETS, 0o600)
            assert found.st_blocks * 512 >= disk_reserve.FILE_OCTETS


@pytest.mark.lab
def test_a_write_on_a_full_disk_gives_it_up_and_is_done(own_machine):
    with small_disk("24m") as small:
        disk_reserve.create_reserve(small)
        files.write(small / "file", b"before")
        fill(small)
        files.write(small / "file", b"after" * 1000)

        assert (small / "file").read_bytes() == b"after" * 1000
        assert not disk_reserve.is_whole(small)
        assert not disk_reserve.create_reserve(small)
        (small / "theirs").unlink()
        assert disk_reserve.create_reserve(small)


@pytest.mark.lab
def test_without_it_a_full_disk_is_told_and_the_old_file_stays(own_machine):
    with small_disk("24m") as small:
        files.write(small / "file", b"before")
        fill(small)
        with pytest.raises(MachineRefused, match="No space left"):
            files.write(small / "file", b"after" * 1000)

        assert (small / "file").read_bytes() == b"before"


@pytest.mark.lab
def test_room_is_made_only_where_there_is_none(own_machine):
    with small_disk("24m") as small:
        disk_reserve.create_reserve(small)
        disk_reserve.release_if_full(small)
        assert disk_reserve.is_whole(small)
        fill(small)
        disk_reserve.release_if_full(small)
        assert not disk_reserve.is_whole(small)


def test_where_there_is_none_nothing_is_given_up(tmp_path):
    assert not disk_reserve.release_reserve(tmp_path)
    assert not disk_reserve.is_whole(tmp_path)


def test_no_link_is_followed(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / disk_reserve.NAMES[0]).symlink_to(tmp_path / "target")
    with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is looked at
        disk_reserve.create_reserve(tmp_path)

    assert refused.value.errno == errno.ELOOP
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / disk_reserve.NAMES[0]).is_symlink()
