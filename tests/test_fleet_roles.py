"""What the Ansible roles run, and on which machine, with a stand-in for qmesh: no server and no root."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab.fleet import FINE, Played, link_collection, run_playbook
from tests.support.lab.machines import TOOLS

CHANGES = re.compile(
    r"^(\S+): (init|invite|join|apply|confirm|remove|restart|render-config --write)(.*)$", re.MULTILINE
)

ANSWERS_WITH_FACTS = """#!/usr/bin/python3 -I
import json, subprocess, sys

done = subprocess.run(["/usr/bin/python3", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
try:
    print(json.dumps(json.loads(done.stdout) | {"ansible_facts": FACTS}))
except ValueError:
    print(done.stdout, end="")
sys.exit(done.returncode)
"""
"""The Python of a machine that somebody has taken over."""


class Fleet:
    """An inventory of folders, each with the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, dict[str, Any]] = {"fra-1": {}, "hel-2": {"qmesh_worker_count": 2}, "ams-3": {}}
        link_collection(folder)
        for name in self.hosts:
            (folder / name).mkdir()
            shutil.copy(TOOLS / "pretended_qmesh.py", folder / name / "qmesh")

    def play(self, playbook: str, *options: str, code: int = 0, **variables: str) -> Played:
        common = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_remote_tmp": str(self.folder / "remote"),
            "ansible_python_interpreter": "/usr/bin/python3",
            "qmesh_config": "/nowhere",
        }
        program = {name: {"qmesh_program": f"{self.folder}/{name}/qmesh"} for name in self.hosts}
        hosts = {name: {**program[name], **given} for name, given in self.hosts.items()}
        groups = {
            "qmesh_control": {"hosts": {"fra-1": hosts.pop("fra-1")}},
            "qmesh_workers": {"hosts": hosts},
        }
        inventory = {"all": {"vars": common, "children": groups}}
        played = run_playbook(
            self.folder, inventory, *options, f"qmesh.fleet.{playbook}", seconds=120, **variables
        )
        assert played.code == code, played.text
        return played

    def take_over(self, name: str, **facts: Any) -> None:
        """Have a machine tell facts with whatever it answers."""
        python = self.folder / "answers-with-facts"
        python.write_text(ANSWERS_WITH_FACTS.replace("FACTS", repr(facts)), encoding="utf-8")
        python.chmod(0o755)
        self.hosts[name]["ansible_python_interpreter"] = str(python)

    def changes(self) -> list[tuple[str, str]]:
        """By machine what was run that changes something, in order; it is forgotten."""
        commands = self.folder / "commands"
        found = CHANGES.findall(commands.read_text(encoding="utf-8"))
        commands.unlink()
        return [(host, command) for host, command, _ in found]


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def test_each_machine_is_invited_joins_and_is_confirmed_once(fleet):
    del fleet.hosts["ams-3"]
    (fleet.folder / "fra-1/not-started").touch()
    fleet.hosts["hel-2"]["qmesh_node_files"] = "false"  # as `-e` and an inventory in INI give it
    played = fleet.play("site", "-vvv")
    assert "--node-files" not in (fleet.folder / "commands").read_text("utf-8")
    changes = fleet.changes()
    assert changes[:7] == [
        *(("fra-1", "init"), ("fra-1", "apply"), ("fra-1", "confirm"), ("fra-1", "invite")),
        *(("hel-2", "join"), ("hel-2", "apply"), ("hel-2", "confirm")),
    ]
    # Side by side.
    assert sorted(changes[7:]) == [(name, "render-config --write") for name in ("fra-1", "hel-2")]
    assert "qmesh1SECRET" not in played.text
    # It is not the collection that starts the node.
    assert "control-silent: something; fix: systemctl start" in played.text


@pytest.mark.long
def test_a_second_run_changes_nothing(fleet):
    """Also where a machine that has never had a node fetches its files."""
    config = fleet.folder / "ams-3/node/.config"
    fleet.hosts["ams-3"] |= {"qmesh_node_files": True, "qmesh_config": str(config)}
    fleet.play("site")
    assert config.joinpath("config.yml").exists()
    fleet.changes()
    assert set(fleet.play("site").hosts.values()) == {FINE}
    assert fleet.changes() == []


@pytest.mark.long
def test_a_dry_run_runs_nothing_that_changes_and_says_what_would_be_run(fleet):
    fleet.hosts["ams-3"]["qmesh_worker_count"] = 0  # which qmesh refuses
    played = fleet.play("site", "--check", "--diff")
    assert fleet.changes() == []
    assert "would run qmesh init --name fra-1 --config /nowhere" in played.text
    assert "would run qmesh invite hel-2 --expires 30m --workers 2 on fra-1" in played.text
    assert "would run qmesh invite ams-3 --expires 30m --workers 0 on fra-1" in played.text


@pytest.mark.long
def test_a_place_is_given_again_and_a_name_changed_only_when_asked(fleet):
    fleet.play("site")
    (fleet.folder / "ams-3/state.json").unlink()
    fleet.changes()
    refused = fleet.play("site", code=2)
    assert "-e qmesh_replace=ams-3" in refused.text
    assert [name for name, each in refused.hosts.items() if each != FINE] == ["ams-3"]
    assert fleet.changes() == []
    fleet.play("site", "-e", "qmesh_replace=hel-2,ams-3")
    assert fleet.changes()[:2] == [("fra-1", "invite"), ("ams-3", "join")]

    (fleet.folder / "helsinki").symlink_to("hel-2")
    fleet.hosts["helsinki"] = fleet.hosts.pop("hel-2")
    refused = fleet.play("site", code=2)
    assert "set qmesh_name to hel-2" in refused.text
    assert "qmesh_remove" not in refused.text
    fleet.hosts["helsinki"]["qmesh_name"] = "hel-2"
    assert set(fleet.play("site").hosts.values()) == {FINE}


@pytest.mark.long
def test_a_member_is_removed_only_when_it_is_named_and_out_of_the_inventory(fleet):
    fleet.play("site")
    fleet.changes()
    assert "Still in the inventory" in fleet.play("remove", "-e", "qmesh_remove=ams-3", code=2).text
    del fleet.hosts["ams-3"]
    assert "-e qmesh_remove=ams-3" in fleet.play("site").text
    assert fleet.changes() == []
    fleet.play("remove", "-e", "qmesh_remove=ams-3")
    assert fleet.changes() == [("fra-1", "remove")]
    again = fleet.play("remove", "-e", "qmesh_remove=ams-3")
    assert again.changed == 0
    assert "nothing was removed for it: ams-3" in again.text


@pytest.mark.long
def test_no_mesh_is_made_beside_that_of_the_machines_which_a_run_leaves_out(fleet):
    """The control node was installed again. They are looked at: one is off, one says what it likes."""
    fleet.play("site")
    (fleet.folder / "fra-1/state.json").unlink()
    fleet.changes()
    (fleet.folder / "ssh").write_text("#!/bin/sh\nexit 255\n", encoding="utf-8")
    (fleet.folder / "ssh").chmod(0o755)
    fleet.hosts["ams-3"] |= {"ansible_connection": "ssh", "ansible_ssh_executable": f"{fleet.folder}/ssh"}
    refused = fleet.play("site", "--limit", "fra-1", code=2)
    assert "This machine is in no mesh, but these are members of one: hel-2." in refused.text
    assert fleet.changes() == []

    (fleet.folder / "hel-2/state.json").unlink()
    fleet.take_over("hel-2", qmesh_network="of hel-2", control_options=["of hel-2"])
    fleet.play("site", "--limit", "fra-1")
    assert "of hel-2" not in (fleet.folder / "commands").read_text("utf-8")
    assert fleet.changes()[0] == ("fra-1", "init")


@pytest.mark.long
def test_where_a_join_ends_without_a_word_it_is_said_how(fleet):
    (fleet.folder / "hel-2/killed").touch()
    played = fleet.play("site", code=2)
    assert re.search(r'fatal: \[hel-2\].*"msg": "[^"]', played.text)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["linear", "free"])
def test_an_upgrade_ends_with_the_control_node_and_stops_at_a_machine_that_is_not_well(
    fleet, strategy, monkeypatch
):
    """Whatever strategy the operator has for plays of his own."""
    monkeypatch.setenv("ANSIBLE_STRATEGY", strategy)
    fleet.play("site")
    fleet.changes()
    assert fleet.play("upgrade").changed == 0
    (fleet.folder / "hel-2/ill").touch()
    stopped = fleet.play("upgrade", "-e", "qmesh_batch=1", code=2, PRETENDED_VERSION="9.0")
    assert "foreign-drop (it): something; fix: nft delete rule" in stopped.text
    assert fleet.changes() == [("ams-3", "restart")]

    (fleet.folder / "hel-2/ill").unlink()
    fleet.play("upgrade", PRETENDED_VERSION="9.0")
    assert fleet.changes() == [(name, "restart") for name in ("ams-3", "hel-2", "fra-1")]


@pytest.mark.long
def test_an_upgrade_is_refused_where_the_inventory_has_another_control_node_than_the_mesh(fleet):
    """As after a handover, with the inventory of before."""
    fleet.play("site")
    fleet.changes()
    mesh = json.loads((fleet.folder / "registry.json").read_text("utf-8"))
    (fleet.folder / "registry.json").write_text(json.dumps({"hel-2": mesh.pop("hel-2"), **mesh}), "utf-8")
    refused = fleet.play("upgrade", "-e", "qmesh_batch=2", code=2, PRETENDED_VERSION="9.0")
    assert "this machine is hel-2, and the control node is hel-2. Put hel-2, and no other," in refused.text
    assert fleet.changes() == []


@pytest.mark.long
@pytest.mark.parametrize("variable", ["ANSIBLE_KEEP_REMOTE_FILES", "ANSIBLE_DEBUG"])
def test_no_invitation_is_made_where_ansible_would_write_it_down(fleet, variable):
    played = fleet.play("site", code=2, **{variable: "1"})
    assert "was not made" in played.text
    assert [name for name, command in fleet.changes() if command == "invite"] == []


@pytest.mark.long
def test_what_a_machine_answers_gets_no_file_of_the_operators(fleet):
    secret = fleet.folder / "id_ed25519"
    secret.write_text("the operator's", encoding="utf-8")
    (fleet.folder / "hel-2/qmesh").unlink()
    fleet.take_over("hel-2", qmesh_install_method="pipx", qmesh_wheel=str(secret))
    fleet.hosts["hel-2"]["qmesh_install_method"] = "package"
    played = fleet.play("site", code=2)
    assert "This machine told Ansible facts with the names of variables of qmesh" in played.text
    assert "Bring the wheel" not in played.text


@pytest.mark.long
def test_what_a_machine_answers_is_not_run_on_the_control_node(fleet):
    """Neither what is only the roles' own, nor what the inventory may say and does not."""
    made = fleet.folder / "made"
    fleet.take_over(
        "hel-2", member_control_program="/usr/bin/touch", member_invite_options=[str(made)], machine_name="x"
    )
    fleet.play("site")
    assert not made.exists()
    assert {host for host, command in fleet.changes() if command == "join"} == {"hel-2", "ams-3"}


@pytest.mark.long
def test_what_a_machine_answers_gets_it_no_other_invitation(fleet):
    fleet.take_over("hel-2", qmesh_node_files=True, qmesh_replace="ams-3", qmesh_name="ams-3")
    assert "told Ansible facts" in fleet.play("site", code=2).text
    assert "hel-2" not in str(fleet.changes())
