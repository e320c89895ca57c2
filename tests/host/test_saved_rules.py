"""Files with saved rules, as they lie on a disk."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from qmesh.host import start_scripts
from qmesh.host.firewall import saved_rules
from qmesh.host.firewall.saved_rules import read_saved_rules
from tests.support.rulesets import OTHERS, SAVED


@pytest.fixture(autouse=True)
def nothing_usual(monkeypatch):
    """This machine's own files are none of the test's."""
    monkeypatch.setattr(saved_rules, "USUAL", ())
    monkeypatch.setattr(start_scripts, "START_SCRIPTS", ())


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


def test_the_command_for_json_takes_out_the_tables_and_nothing_else(tmp_path):
    """As `nft -j list ruleset` prints them, on one line; the file keeps its mode and its links."""
    path, link = tmp_path / "it's saved.json", tmp_path / "other name"
    mine = [
        {"metainfo": {"version": "1.1.3", "json_schema_version": 1}},
        {"table": {"family": "ip", "name": "qmesh", "handle": 4}},
        {"chain": {"family": "inet", "table": "mine", "name": "qmesh", "handle": 5}},
        {"rule": {"family": "inet", "table": "mine", "chain": "qmesh", "expr": [{"accept": None}]}},
    ]
    own = [
        {"table": {"family": "inet", "name": "qmesh-held ", "handle": 1, "flags": "owner"}},
        {"set": {"family": "inet", "name": "askers", "table": "qmesh-held ", "type": "ipv4_addr"}},
        {"table": {"family": "inet", "name": "qmesh", "handle": 2}},
        {"chain": {"family": "inet", "table": "qmesh", "name": "arrived_at", "handle": 3}},
    ]
    path.write_text(json.dumps({"nftables": [*mine[:2], *own, *mine[2:]]}))
    path.chmod(0o640)
    link.hardlink_to(path)
    ((each,), _) = read_saved_rules([str(path)], Path("/nowhere"))
    assert (set(each.tables), each.is_json) == ({"qmesh", "qmesh-held"}, True)

    subprocess.run(["sh", "-c", each.cure], check=True)

    assert json.loads(link.read_text()) == {"nftables": mine}
    assert path.stat().st_mode & 0o777 == 0o640
    assert found(path) == []


def test_what_a_script_a_unit_or_a_crontab_loads_is_looked_through(tmp_path, monkeypatch):
    saved = [tmp_path / name for name in ("a.nft", "b.nft", "c.nft", "d.nft")]
    for each in saved:
        each.write_text(SAVED)
    for name, text in (
        ("rc.local", f"#!/bin/sh\n/usr/sbin/nft -f {saved[0]} || true\n"),
        ("mine.service", f"[Service]\nExecStart=/usr/sbin/nft --stateless --file {saved[1]}\n"),
        ("crontab", f'@reboot root nft -ef "{saved[2]}"\n'),
        ("script", f"nft -f - <{saved[3]}\n"),
        ("long", "#" * (65 << 10) + f"\nnft -f {saved[0]}\n"),
    ):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(start_scripts, "START_SCRIPTS", (str(tmp_path / name),))
        expected = {"rc.local": 0, "mine.service": 1, "crontab": 2, "script": 3}.get(name)
        assert found() == ([] if expected is None else [str(saved[expected])]), name


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
    assert unread == (f"{large} cannot be read: the files with rules have more than 64 MiB",)

    monkeypatch.setattr(saved_rules, "_MOST_FILES", 1)
    saved, unread = read_saved_rules([str(small), str(large)], Path("/nowhere"))
    assert [each.path for each in saved] == [str(small)]
    assert unread == ("there are more files with rules than 1",)
