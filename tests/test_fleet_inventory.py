"""The Ansible collection as text: what is wrong with an inventory is said before any server is asked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qmesh import __version__
from tests.support.checkout import CHECKOUT
from tests.support.lab.fleet import COLLECTION, link_collection
from tests.support.waiting import patience

PLAYBOOKS = ("site", "upgrade", "remove")
PAGE = (CHECKOUT / "docs/fleet.md").read_text(encoding="utf-8")
CONTROL: dict[str, Any] = {"fra-1": {"qmesh_endpoint": "203.0.113.5"}}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "HOME": str(folder),
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(folder),
        "ANSIBLE_NOCOLOR": "1",
        "LANG": "C.UTF-8",
    }
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment, cwd=folder, timeout=patience(120)
    )


def play(folder: Path, control: dict[str, Any], workers: dict[str, Any], *options: str) -> str:
    """What a run says that must end before the first connection."""
    link_collection(folder)
    groups = {"qmesh_control": {"hosts": control}, "qmesh_workers": {"hosts": workers}}
    # As ssh ends where there is no server: Ansible calls the host unreachable then.
    (folder / "ssh").write_text("#!/bin/sh\nexit 255\n", encoding="utf-8")
    (folder / "ssh").chmod(0o755)
    tree = {"all": {"vars": {"ansible_ssh_executable": f"{folder}/ssh"}, "children": groups}}
    (folder / "inventory.yml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    done = run(folder, "ansible-playbook", "-i", "inventory.yml", *options)
    assert done.returncode == 2, done.stdout + done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert "UNREACHABLE" not in said
    return said


def test_the_playbooks_are_playbooks(tmp_path):
    link_collection(tmp_path)
    names = [f"qmesh.fleet.{name}" for name in PLAYBOOKS]
    done = run(tmp_path, "ansible-playbook", "-i", "localhost,", "--syntax-check", *names)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_inventory_that_cannot_become_a_mesh_is_refused_with_all_that_is_wrong(tmp_path):
    workers = {"hel_2.example.org": {}, "ams-3": {}, "ams": {"qmesh_name": "ams-3"}, "fra-1": {}}
    said = play(tmp_path, {**CONTROL, "fra-2": {}}, workers, "qmesh.fleet.site")
    assert "Nothing was done" in said
    assert "exactly one host: it has 2" in said
    assert "In both qmesh_control and qmesh_workers: fra-1." in said
    assert "not machine names: hel_2.example.org. Set qmesh_name" in said
    assert "Two hosts have one name: ams-3." in said


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"qmesh_worker_count": "many"},
            "qmesh_worker_count' is of type str and we were unable to convert to int",
        ),
        ({"qmesh_worker_cuont": 3}, "No role takes qmesh_worker_cuont."),
    ],
)
def test_a_variable_that_no_role_takes_is_refused_with_the_name_of_the_host(tmp_path, variables, said):
    text = play(tmp_path, CONTROL, {"hel-2": variables, "ams-3": {}}, "qmesh.fleet.site")
    assert said in text
    assert re.findall(r"fatal: \[([^]]+)\]", text) == ["hel-2"]


def test_a_name_of_digits_is_a_name(tmp_path):
    """YAML takes it for a number, which is in no order with the others."""
    workers = {"hel-2": {"qmesh_name": 7}, "ams-3": {}, "nbg-4": {"qmesh_name": "7"}}
    said = play(tmp_path, CONTROL, workers, "qmesh.fleet.site")
    assert "Two hosts have one name: 7." in said


def test_an_upgrade_that_would_install_nothing_of_what_is_named_is_refused(tmp_path):
    """As with the inventory that a control node prints, and the package's name."""
    said = play(tmp_path, CONTROL, {"hel-2": {"qmesh_package_file": "/x.deb"}}, "qmesh.fleet.upgrade")
    assert "Nothing was upgraded: qmesh_package_file says what to install, and nothing how." in said


def test_nothing_is_done_either_where_hosts_go_on_by_themselves(tmp_path):
    """As where an operator's other plays are to be fast: with that strategy nothing stops a play for all."""
    (tmp_path / "ansible.cfg").write_text("[defaults]\nstrategy = free\n", encoding="utf-8")
    said = play(tmp_path, CONTROL, {"hel-2": {"qmesh_worker_cuont": 3}, "ams-3": {}}, "qmesh.fleet.site")
    assert "No role takes qmesh_worker_cuont." in said


def test_a_machine_that_is_in_the_inventory_is_not_removed(tmp_path):
    said = play(tmp_path, CONTROL, {"hel-2": {}}, "qmesh.fleet.remove", "-e", "qmesh_remove=hel-2")
    assert "Still in the inventory, so that the next run would bring them back: hel-2" in said


def read_specifications() -> dict[str, Any]:
    """By variable, what the roles say of it."""
    found: dict[str, Any] = {}
    for path in COLLECTION.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            found |= entry["options"]
    return found


def test_the_page_has_each_variable_and_no_other():
    cells = re.findall(r"^\| (`qmesh_[^|]*)\|", PAGE, re.MULTILINE)
    written = set(re.findall(r"qmesh_\w+", "".join(cells)))
    assert written == {*read_specifications(), "qmesh_batch", "qmesh_remove"}


def test_each_role_says_what_it_takes():
    roles = {path.name for path in COLLECTION.glob("roles/*")}
    assert roles >= {"install", "control", "member", "node_units", "upgrade"}
    assert {path.parents[1].name for path in COLLECTION.glob("roles/*/meta/argument_specs.yml")} == roles


@pytest.mark.long
@pytest.mark.parametrize("linter", ["ansible-lint", "yamllint"])
def test_the_linters_find_nothing(tmp_path, linter):
    tools = run(tmp_path, str(CHECKOUT / "packaging/inside/tools"), "ansible")
    assert tools.returncode == 0, tools.stderr
    folder = tmp_path / "ansible_collections/qmesh/fleet"
    shutil.copytree(COLLECTION, folder)
    # ansible-lint runs programs that are beside it.
    script = f"cd {folder} && PATH={tools.stdout.strip()}:$PATH exec {linter} {'--strict .'}"
    done = run(tmp_path, "sh", "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_collection_can_be_built_and_installed(tmp_path):
    built = run(tmp_path, "ansible-galaxy", "collection", "build", str(COLLECTION))
    assert built.returncode == 0, built.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    assert archive.name == f"qmesh-fleet-{__version__}.tar.gz"
    done = run(tmp_path, "ansible-galaxy", "collection", "install", "--offline", "-p", "there", str(archive))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there/ansible_collections/qmesh/fleet/playbooks/site.yml").is_file()
