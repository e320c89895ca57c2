"""A node whose directory is a user's, who attacks by what he may do there; by qmesh's own commands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.lab.cluster import AGENT, NODE_CONFIG, STATE, checked, count, facts, qmesh, refusal
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

USER = 1001
HOME = "/tmp/alice"
CONFIG = f"{HOME}/.config"
VICTIM = "/root/victim"
LOG = f"{STATE}/agent.log"


def as_user(machine: Machine, script: str) -> None:
    """Run a shell script as the user, without root's rights."""
    words = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "sh", "-e", "-c"]
    machine.run([*words, f"umask 077; cd {HOME}; {script}"], timeout=60)


def a_machine(lab: Lab) -> Machine:
    """With a user's home, and a directory in it for a node."""
    machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    machine.run(["install", "-d", "-o", str(USER), "-g", str(USER), HOME])
    machine.write("/tmp/config.yml", NODE_CONFIG, 0o644)
    as_user(machine, "mkdir .config; cp /tmp/config.yml .config")
    return machine


def init(machine: Machine, *options: str, cwd: str = "/root", **env: str) -> str:
    """Found a mesh from a directory; what is said on the way."""
    words = "qmesh init --endpoint 192.168.0.200 --workers 3 --node 1.4 " + " ".join(options)
    return machine.run(["sh", "-c", f"cd {cwd} && exec {words}"], env=env).stderr


def settings(machine: Machine) -> Any:
    return json.loads(machine.read(f"{STATE}/machine.json"))


def in_log(machine: Machine, text: str) -> None:
    wait_until(lambda: text in machine.read(LOG), seconds=30)


@pytest.fixture
def control(lab):
    """A control node with the user's node, whose config.yml is in qmesh's hands."""
    machine = a_machine(lab)
    init(machine, f"--config {CONFIG}")
    qmesh(machine, "render-config", "--write")
    assert machine.read(f"{CONFIG}/config.yml").count("- /ip4/") == 3
    return machine


def test_a_users_link_in_place_of_config_has_root_edit_nothing_elsewhere(control):
    machine = control
    config = machine.read(f"{CONFIG}/config.yml")
    machine.run(["mkdir", "-m", "700", VICTIM])
    machine.write(f"{VICTIM}/config.yml", config, 0o600)
    as_user(machine, f"mv .config spare; ln -s {VICTIM} .config")
    facts(machine, "set", "control", "--workers", "5")
    in_log(machine, f"config.yml is not up to date with the mesh: {CONFIG} is a link to")
    assert "is a link" in refusal(machine, "render-config", "--write", code=2)
    assert "is a link" in refusal(machine, "render-config", "--write", "--config", CONFIG, code=2)
    qmesh(machine, "apply")
    (finding,) = [each for each in checked(machine, code=1)["findings"] if each["subject"].startswith(CONFIG)]
    assert "is a link" in finding["seen"]
    assert machine.read(f"{VICTIM}/config.yml") == config
    assert machine.run(["ls", "-A", VICTIM]).stdout == "config.yml\n"

    as_user(machine, "rm .config; mv spare .config; chmod 644 .config/config.yml")
    (open_to_all,) = (each for each in checked(machine, code=1)["findings"] if each["code"] == "config-mode")
    assert open_to_all["cure"].startswith("setpriv ")
    machine.run(["sh", "-c", open_to_all["cure"]])
    assert machine.run(["stat", "-c%a", f"{CONFIG}/config.yml"]).stdout == "600\n"
    wait_until(lambda: machine.read(f"{CONFIG}/config.yml").count("- /ip4/") == 5, seconds=30)
    owners = machine.run(["sh", "-c", f"stat -c %u {CONFIG} {CONFIG}/*"]).stdout.split()
    assert owners == [str(USER)] * 3


def test_another_users_config_where_somebody_happens_to_be_is_neither_taken_nor_remembered(lab):
    machine = a_machine(lab)
    said = init(machine, cwd=HOME)
    assert f"{CONFIG} is not used, as user {USER} owns it" in said
    assert "config_directory" not in settings(machine)
    done = machine.run(["sh", "-c", f"cd {HOME} && exec qmesh render-config --write"], check=False)
    assert done.returncode == 2
    assert "pass its directory with --config" in done.stderr
    qmesh(machine, "render-config", "--write", "--config", CONFIG)
    assert (settings(machine)["config_directory"], settings(machine)["config_owner"]) == (CONFIG, USER)


def test_the_config_of_who_typed_sudo_is_taken_with_its_owner(lab):
    machine = a_machine(lab)
    init(machine, cwd=HOME, SUDO_UID=str(USER))
    assert (settings(machine)["config_directory"], settings(machine)["config_owner"]) == (CONFIG, USER)


def test_a_link_at_the_current_directory_is_neither_taken_nor_remembered(lab):
    machine = a_machine(lab)
    machine.run(["mkdir", "-m", "700", VICTIM])
    machine.write(f"{VICTIM}/config.yml", NODE_CONFIG, 0o600)
    as_user(machine, f"mv .config spare; ln -s {VICTIM} .config")
    assert f"{CONFIG} is not used: {CONFIG} is a link to" in init(machine, cwd=HOME, SUDO_UID=str(USER))
    assert "config_directory" not in settings(machine)
    assert machine.run(["ls", "-A", VICTIM]).stdout == "config.yml\n"


@pytest.mark.long  # tests/agent/test_node_restarts.py
def test_whose_a_directory_is_that_an_earlier_version_remembered_is_asked_once(control):
    machine = control
    older = settings(machine)
    assert older.pop("config_owner") == USER
    machine.write(f"{STATE}/machine.json", json.dumps(older), 0o600)
    facts(machine, "set", "control", "--workers", "4")
    wait_until(lambda: machine.read(f"{CONFIG}/config.yml").count("- /ip4/") == 4, seconds=30)
    assert settings(machine) == {**older, "config_owner": USER}

    machine.run(["chown", "-R", "0:0", CONFIG])
    facts(machine, "set", "control", "--workers", "5")
    in_log(machine, f"{CONFIG} belonged to user {USER}, and belongs to user 0 now")
    qmesh(machine, "render-config", "--write", "--config", CONFIG)
    assert settings(machine)["config_owner"] == 0
    assert machine.read(f"{CONFIG}/config.yml").count("- /ip4/") == 5


HOSTILE = {
    "6 MB": ("yes '#' | head -c 6000000 > .config/config.yml", "is larger than 1048576 bytes"),
    "values": ("yes -- '- a' | head -n 30000 > .config/config.yml", "more than 20000 values"),
    "directives": (
        "seq 40000 | sed 's/.*/%TAG !&! tag:x/' > .config/config.yml",
        "more than 10 lines begin with %",
    ),
    "fifo": ("rm .config/config.yml; mkfifo .config/config.yml", "is not a regular file"),
    "shadow": ("ln -sf /etc/shadow .config/config.yml", "is a link to '/etc/shadow'"),
    "loop": ("mv .config spare; ln -s .config .config", f"{CONFIG} is a link to '.config'"),
}


# What is refused of which file: tests/host/test_config_directory.py.
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind in {"values", "fifo"} else pytest.mark.long) for kind in HOSTILE],
)
def test_no_file_of_a_users_keeps_the_agent_from_its_work(control, kind):
    machine = control
    script, said = HOSTILE[kind]
    as_user(machine, script)
    facts(machine, "set", "control", "--workers", "5")
    in_log(machine, said)
    for _ in range(5):
        machine.run(["nft", "delete table inet qmesh"])
        wait_until(lambda: "qmesh" in machine.run(["nft", "list tables"]).stdout.split(), seconds=5)
    assert said in json.dumps(checked(machine, code=1)["findings"])
    assert count(machine, AGENT) == 1
    assert "so the agent restarts" not in machine.read(LOG)
