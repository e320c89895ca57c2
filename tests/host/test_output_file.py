"""Files that are handed out: for root alone, and where they were wanted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qmesh.cli import app
from qmesh.cli.output_file import refuse_output_file, write_line
from qmesh.errors import BadInput, MachineRefused
from qmesh.host import files
from qmesh.host.output_file import write_new_output, write_output
from qmesh.host.page.listen import open_page_socket
from qmesh.host.system import disk_reserve
from tests.support.own_machine import small_disk

USER = 1000
HOME, VICTIM = Path("/run/alice"), Path("/run/victim")
WRITE = {
    "an export": lambda path: write_new_output(path, b"octets"),
    "a backup": lambda path: write_output(path, b"octets"),
    "an invitation": lambda path: write_line(path, "text"),
    "before one is made": lambda path: refuse_output_file(path, begins=b"b", what="backup"),
}


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_new_file_is_private_and_never_takes_anothers_place(tmp_path):
    write_new_output(tmp_path / "new", b"secret")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("new", "link", ".", "none/new", "new/new"):
        with pytest.raises(BadInput):
            write_new_output(tmp_path / name, b"other")
    assert (tmp_path / "new").read_bytes() == b"secret"
    assert names_in(tmp_path) == ["link", "new"]


def furnish() -> None:
    """A user's home, and a directory of root's to which a link there leads; he has one of his own too."""
    for directory, owner in ((HOME, USER), (VICTIM, 0), (HOME / "own", USER)):
        directory.mkdir(mode=0o755)
        os.chown(directory, owner, owner)
    (HOME / "link").symlink_to(VICTIM)


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("what", WRITE)
def test_a_users_link_leads_what_root_writes_nowhere(what, monkeypatch):
    furnish()
    monkeypatch.chdir(HOME)
    for path in (HOME / "link/file", Path("link/file"), Path("own/../link/file")):
        with pytest.raises(BadInput, match="in a directory that others than root can change") as refused:
            WRITE[what](path)
        assert "the directory that the link leads to" in refused.value.hint
    assert names_in(VICTIM) == []

    for path in (HOME / "own/file", VICTIM / "file"):  # the positive controls
        WRITE[what](path)
    written = [] if what == "before one is made" else ["file"]
    assert names_in(HOME / "own") == names_in(VICTIM) == written
    for name in written:
        status = (HOME / "own" / name).stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_link_of_roots_own_is_followed():
    furnish()
    Path("/run").chmod(0o755)
    Path("/run/here").symlink_to(VICTIM)
    write_output(Path("/run/here/file"), b"octets")
    assert names_in(VICTIM) == ["file"]


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_what_is_named_like_the_reserve_is_kept_in_a_directory_that_is_not_qmeshs():
    with small_disk() as disk:
        reserve = disk / disk_reserve.NAMES[0]
        reserve.write_bytes(b"his" * 10_000)
        with pytest.raises(MachineRefused, match="No space left"):
            write_output(disk / "backup", b"new" * 15_000)
        assert names_in(disk) == [reserve.name]
        files.write(disk / "state", b"new" * 15_000)  # as in the state directory, where it is ours
        assert names_in(disk) == ["state"]


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_r1_units_are_written_where_only_root_can_change_them(capsys):
    furnish()
    Path("/run").chmod(0o755)
    Path("/run/systems").symlink_to(VICTIM)
    for place, why in (
        (
            HOME / "own",
            "others than root can change /run/alice/own, and what units there say is done as root",
        ),
        (HOME, "others than root can change /run/alice"),
        (HOME / "link", "in a directory that others than root can change"),
    ):
        assert app.run(["units", "--write", str(place), "--state", "/run/none"]) == 2
        assert why in capsys.readouterr().err
    for place in (VICTIM, Path("/run/systems")):  # a link of root's own
        assert app.run(["units", "--write", str(place), "--state", "/run/none"]) == 2
        assert "in no mesh" in capsys.readouterr().err


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_users_link_leads_a_socket_of_roots_nowhere():
    furnish()
    with pytest.raises(BadInput, match="in a directory that others than root can change"):
        open_page_socket(HOME / "link/page.sock")
    assert names_in(VICTIM) == []
    listening, remove = open_page_socket(HOME / "own/page.sock")
    with listening:
        assert names_in(HOME / "own") == ["page.sock"]
        remove()
