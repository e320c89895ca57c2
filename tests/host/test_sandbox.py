"""How far each unit's processes are shut in, as systemd itself judges it; and as whom the node runs."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest

from qmesh.errors import BadInput
from qmesh.host.state.directory import State
from qmesh.host.system import node_user, systemd
from qmesh.mesh.systemd.units import render_unit_files
from tests.support.checkout import CHECKOUT
from tests.support.unit_scores import OF_NODE, find_analyzer, open_units, read_score, write_units

MOST = {
    "qmesh.service": 4.0,
    "qmesh-hold.service": 4.0,
    "qmesh-guard.service": 4.0,
    "qmesh-undo.service": 4.0,
    "qmesh-control.service": 3.5,
    "qmesh-worker@1.service": 3.5,
}
VERSION_ON_PAGE = "252"


def scores_on_page() -> dict[str, tuple[str, str]]:
    """What SECURITY.md has for each unit: without restrictions, and with them."""
    text = (CHECKOUT / "SECURITY.md").read_text(encoding="utf-8")
    assert f"As systemd {VERSION_ON_PAGE} " in text
    rows = re.findall(r"^\| `(\S+)` \|.*\| ([0-9.]+) \| ([0-9.]+) \|$", text, re.MULTILINE)
    return {name: (before, now) for name, before, now in rows}


def test_the_page_has_every_unit():
    assert set(scores_on_page()) == {name.replace("@1", "@") for name in MOST}


@pytest.fixture(scope="module")
def units(tmp_path_factory) -> Path:
    """Every unit, in a directory."""
    directory: Path = tmp_path_factory.mktemp("units")
    write_units(directory)
    return directory


def test_all_of_them_are_judged(units):
    assert set(MOST) == {path.name for path in units.glob("*.service")}


@pytest.mark.parametrize("name", MOST)
def test_systemd_says_of_a_unit_that_it_is_shut_in(units, name, tmp_path):
    found = find_analyzer()
    if found is None:
        pytest.skip("this machine cannot: it has no systemd-analyze")
    analyze, version = found
    score = read_score(analyze, units / name)
    assert float(score) <= MOST[name]
    if version == VERSION_ON_PAGE:  # each version counts a little differently
        open_units(units, tmp_path)
        before = read_score(analyze, tmp_path / name)
        assert scores_on_page()[name.replace("@1", "@")] == (before, score)


@pytest.mark.parametrize("name", OF_NODE)
def test_systemd_says_of_a_users_node_that_it_is_shut_in_further(name, tmp_path):
    found = find_analyzer()
    if found is None:
        pytest.skip("this machine cannot: it has no systemd-analyze")
    write_units(tmp_path, user="alice")
    score = read_score(found[0], tmp_path / name)
    assert float(score) <= 3.0
    if found[1] == VERSION_ON_PAGE:
        assert f"the last two are {score}." in (CHECKOUT / "SECURITY.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MOST)
def test_a_process_leaves_no_image_of_its_memory(units, name):
    assert "\nLimitCORE=0\n" in (units / name).read_text()


def users_home(path: Path, *owned: tuple[str, int]) -> Path:
    """Directories below a path, each with its owner; the last of them."""
    where = path
    for name, owner in owned:
        where /= name
        where.mkdir()
        os.chown(where, owner, owner)
    return where


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize(
    ("owned", "user"),
    [
        ((("node", 0), (".config", 0)), 0),
        ((("home", 0), ("alice", 1000), ("node", 1000), (".config", 1000)), 1000),
        ((("node", 0), (".config", 1000)), 1000),
        ((("alice", 1000), ("node", 1001), (".config", 1001)), 1001),
        ((("alice", 1000), ("node", 1000), (".config", 0)), 1000),  # she can put her own in its place
        ((("alice", 1000), ("node", 0), (".config", 0)), 1000),
    ],
)
def test_the_node_runs_as_whoever_can_say_what_it_does(owned, user):
    assert node_user.find_node_user(users_home(Path("/run"), *owned)) == user


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_users_link_to_what_is_roots_makes_nobody_root():
    home = users_home(Path("/run"), ("alice", 1000))
    users_home(Path("/run"), ("roots", 0), (".config", 0))
    for name, target in ((".config", "/run/roots/.config"), ("node", "/run/roots")):
        (home / name).symlink_to(target)
        os.chown(home / name, 1000, 1000, follow_symlinks=False)

    assert node_user.find_node_user(home / ".config") == 1000
    assert node_user.find_node_user(home / "node" / ".config") == 1000


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_what_is_not_there_is_of_whoever_will_make_it():
    home = users_home(Path("/run"), ("alice", 1000))

    assert node_user.find_node_user(home / "node" / ".config") == 1000
    assert node_user.find_node_user(Path("/run/no/such")) == 0


def test_a_user_is_named_as_systemd_takes_it():
    assert node_user.resolve_user_name(0) == "root"
    nobody = pwd.getpwnam("nobody")
    assert node_user.resolve_user_name(nobody.pw_uid) == "nobody"
    unknown = max(set(range(60000)) - {each.pw_uid for each in pwd.getpwall()})
    with pytest.raises(BadInput, match=f"user number {unknown}"):
        node_user.resolve_user_name(unknown)


@pytest.mark.parametrize("name", ["Alice", "alice.b", "al ice", "%u", "-x", "a\nUser=root", "0", "7"])
def test_a_user_with_a_name_that_is_not_every_systemds_is_named_by_number(name, monkeypatch):
    monkeypatch.setattr(
        pwd, "getpwuid", lambda number: pwd.struct_passwd((name, "x", number, 7, "", "/", ""))
    )
    assert node_user.resolve_user_name(1007) == "1007"


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_what_is_another_users_in_the_nodes_directory_is_found():
    config = users_home(Path("/run"), ("alice", 1000), (".config", 1000))
    users_home(config, ("store", 1000))
    assert node_user.find_foreign_path(config, 1000) is None

    (config / "link").symlink_to("/etc")
    os.chown(config / "link", 1000, 1000, follow_symlinks=False)
    assert node_user.find_foreign_path(config, 1000) is None

    (config / "store" / "000001.sst").touch()
    assert node_user.find_foreign_path(config, 1000) == config / "store" / "000001.sst"
    assert node_user.find_foreign_path(config, 0) == config


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_the_units_of_a_users_node_run_as_that_user():
    config = users_home(Path("/run"), ("alice", 65534), (".config", 65534))
    where = systemd.build_unit_paths(
        State(Path("/run/state")), config_directory=str(config), program="/bin/true"
    )

    assert where.user == "nobody"
    for name, text in render_unit_files(where, is_control=True, cores=range(1, 2)).items():
        assert ("\nUser=nobody\n" in text) == (name in {"qmesh-control.service", "qmesh-worker@.service"})
