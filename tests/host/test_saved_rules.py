"""Files with saved rules, as they lie on a disk."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from qmesh.host.firewall import saved_rules
from qmesh.host.firewall.saved_rules import read_saved_rules
from tests.support.rulesets import OTHERS, SAVED


@pytest.fixture(autouse=True)
def nothing_usual(monkeypatch):
    """This machine's own files are none of the test's."""
    monkeypatch.setattr(saved_rules, "USUAL", ())


def found(*named: Path, own: Path = Path("/nowhere")) -> list[str]:
    saved, unread = read_saved_rules(map(str, named), own)
    assert unread == ()
    return [each.path for each in saved]


def test_the_command_that_is_named_takes_out_the_tables_and_nothing_else(tmp_path):
    path = tmp_path / "it's saved.conf"
    head, indented = "#!/usr/sbin/nft -f\nflush ruleset\n\n", SAVED.replace("\t", "    ")
    path.write_text(f"{head}{SAVED}{indented}{OTHERS}")
    ((each,), _) = read_saved_rules([str(path)], Path("/nowhere"))

    subprocess.run(["sh", "-c", each.cure], check=True)

    indented_others = OTHERS.replace("\t", "    ")
    assert path.read_text() == f"{head}{OTHERS}{indented_others}{OTHERS}"
    assert found(path) == []


def test_included_files_are_looked_through_each_once_whatever_links_lead_there(tmp_path):
    top, folder = tmp_path / "top.conf", tmp_path / "d"
    folder.mkdir()
    top.write_text(f'include "{folder}/*.nft"\ninclude "{top}"\ninclude "{tmp_path}"\n')
    (folder / "a.nft").write_text(SAVED)
    (folder / "b.nft").symlink_to("a.nft")
    (folder / "c.nft").symlink_to("c.nft")
    (folder / "d.nft").symlink_to("gone")
    (folder / "e.nft").write_text(OTHERS)
    os.mkfifo(folder / "f.nft")
    (folder / "g.nft").symlink_to(folder)
    link = tmp_path / "link.conf"
    link.symlink_to(top)

    assert found(link, top, tmp_path / "missing") == [str(folder / "a.nft")]


@pytest.mark.parametrize("written", ["./", "./.", "/", "/./", "//", "..", "*/..", "[", "./[a"])
def test_an_include_that_names_no_file_leads_to_none(tmp_path, written):
    top = tmp_path / "top.conf"
    top.write_text(f'include "{written}"\n{SAVED}')
    assert found(top) == [str(top)]


def test_the_guards_own_file_may_be_included(tmp_path):
    (tmp_path / "guard.nft").write_text(SAVED)
    top = tmp_path.parent / f"{tmp_path.name}.conf"
    top.write_text(f'include "{tmp_path}/guard.nft"\n')
    assert found(top, own=tmp_path) == []
    assert found(top) == [str(tmp_path / "guard.nft")]


def test_what_is_too_much_or_cannot_be_read_is_said(tmp_path, monkeypatch):
    small, large = tmp_path / "a", tmp_path / "b"
    small.write_text(SAVED)
    large.write_text(SAVED * 2)
    monkeypatch.setattr(saved_rules, "_MOST_OCTETS", len(SAVED) * 2)
    saved, unread = read_saved_rules([str(small), str(large)], Path("/nowhere"))
    assert [each.path for each in saved] == [str(small)]
    assert unread == (f"{large} cannot be read: the files with rules have more than 0 MiB",)

    monkeypatch.setattr(saved_rules, "_MOST_FILES", 1)
    saved, unread = read_saved_rules([str(small), str(large)], Path("/nowhere"))
    assert [each.path for each in saved] == [str(small)]
    assert unread == ("there are more files with rules than 1",)
