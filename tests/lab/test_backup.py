"""The control node is not for ever: another machine takes its place, and its members go on (E3, E6)."""

import base64
import json

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    NODE_CONFIG,
    STATE,
    checked,
    dial,
    facts,
    invite,
    make_control,
    make_member,
    qmesh,
    refusal,
    start_workers,
    stop_agent,
    what_is_there,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

JUMP = 1_000_000
BACKUP = "/root/control.backup"


def carry(source: Machine, target: Machine, path: str = BACKUP) -> None:
    """Copy a file from one machine to another."""
    text = source.run(["base64", path]).stdout
    target.run(["sh", "-c", 'umask 077; base64 -d >"$1"', "sh", path], input=text)


def destroy(machine: Machine) -> None:
    """No packet leaves it any more, nor comes."""
    machine.run(["ip", "link", "delete", "eth0"])


def new_hardware(lab: Lab, backup_of: Machine, ipv4: str = "192.168.0.200") -> Machine:
    """A machine with the control node's backup, its config.yml, and perhaps its address; that one is gone."""
    machine = lab.machine("new-a", ipv4)
    carry(backup_of, machine)
    machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    destroy(backup_of)
    # As most systems do when they come up: others learn by it who has the address now.
    machine.run(["bash", "-c", "echo >/dev/udp/192.168.0.201/9"])
    return machine


def holds(machine: Machine, revision: int) -> bool:
    """Whether a member has that membership by itself: nothing is run there that would ask for it."""
    signed = json.loads(machine.read(f"{STATE}/membership.json"))
    return bool(json.loads(base64.b64decode(signed["payload"]))["revision"] == revision)


def reaches(source: Machine, address: str, port: int) -> bool:
    script = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
    return source.run(["python", "-c", script, address, str(port)], check=False).returncode == 0


def test_e3_e6_members_go_on_untouched_with_a_control_node_that_was_restored(lab):
    control = make_control(lab)
    members = make_member(lab, control, 201, 4), make_member(lab, control, 202, 2)
    used = members[0].read("/root/invitation")
    late = lab.machine("machine-d", "192.168.0.203")
    thief = lab.machine("thief", "192.168.0.204")
    thief.write("/root/invitation", used, 0o600)
    invite(control, late)
    start_workers(members[0], "4..7", "--careless")
    members[0].start(["python", "-m", "http.server", "8000"])
    taken = facts(control, "backup", BACKUP)
    assert (taken["revision"], taken["machines"], taken["withdrawn"]) == (3, 3, ["machine-d"])
    qmesh(control, "set", "machine-c", "--workers", "3")  # what the backup knows nothing of
    for member in members:
        assert facts(member, "status")["revision"] == 4
    new = new_hardware(lab, control)

    done = facts(new, "restore", BACKUP, "--plain", "--config", CONFIG)
    revision = 3 + JUMP
    assert (done["name"], done["address"], done["revision"]) == ("control", "10.77.0.1", revision)
    assert [(each["name"], each["cores"]) for each in done["machines"]] == [
        ("machine-b", {"first": 4, "count": 4}),
        ("machine-c", {"first": 8, "count": 2}),
    ]
    joining = [machine.start(["qmesh", "join", "invitation"]) for machine in (late, thief)]

    wait_until(lambda: all(holds(member, revision) for member in members), seconds=90)
    qmesh(new, "render-config", "--write")
    assert dial(new)[3:7] == [f"core {core} on machine-b" for core in range(4, 8)]
    assert reaches(members[1], "192.168.0.201", 8000)
    assert not reaches(members[1], "192.168.0.201", 40003)
    assert not reaches(members[1], "10.77.0.2", 40003)
    assert not reaches(new, "192.168.0.201", 40003)
    assert checked(members[1])["findings"] == []
    for each in joining:
        assert each.wait(90) == 4, each.error_output()
    log = facts(new, "log")["events"][-2:]
    assert [(each["what"], each["machine"], each["revision"]) for each in log] == [
        ("invitation-withdrawn", "machine-d", 3),
        ("restored", "control", revision),
    ]
    fresh = make_member(lab, new, 205, 1)
    assert facts(fresh, "status")["revision"] == revision + 1


@pytest.mark.long
def test_an_old_backup_over_a_newer_world_at_another_address(lab):
    control = make_control(lab)
    called = lab.machine("machine-b", "192.168.0.201")
    invite(control, called, "--workers", "4", "--endpoint", "192.168.0.201:51820")
    qmesh(called, "join", "invitation")
    qmesh(control, "backup", BACKUP)
    newer = make_member(lab, control, 202, 2)
    stop_agent(called)  # who hears that it is removed closes its tunnel
    qmesh(control, "remove", "machine-b")
    new = new_hardware(lab, control, "192.168.0.210")
    qmesh(called, "apply")

    done = qmesh(new, "restore", BACKUP, "--plain", "--config", CONFIG, "--endpoint", "192.168.0.210")
    assert "machine-b  active  10.77.0.2  cores 4-7" in done.stdout
    assert "machine-c" not in done.stdout
    assert "the old machine must never run again" in done.stderr
    assert "dial the old control node's address" not in done.stderr  # machine-b can be called
    # The restored node calls who has an endpoint, and so tells where it is now.
    wait_until(lambda: facts(new, "status")["machines"][1]["last_handshake"] is not None, seconds=60)
    assert facts(called, "status")["revision"] == 2 + JUMP

    assert facts(newer, "status")["revision"] < JUMP
    qmesh(newer, "uninstall", "--delete-state")
    invite(new, newer, "--workers", "2")
    assert json.loads(qmesh(newer, "join", "invitation", "--config", CONFIG, "--json").stdout)["cores"] == {
        "first": 8,
        "count": 2,
    }
    assert facts(newer, "status")["machines"][0]["endpoint"] == "192.168.0.210:51820"


@pytest.mark.long  # at any write: tests/agent/test_restore.py
def test_e4_a_restore_that_is_killed_while_it_applies_goes_on(lab):
    control = make_control(lab)
    qmesh(control, "backup", BACKUP)
    new = new_hardware(lab, control)
    restoring = new.start(["qmesh", "restore", BACKUP, "--plain", "--config", CONFIG])
    wait_until(lambda: "inet qmesh\n" in new.run(["nft", "list", "tables"]).stdout)
    restoring.kill()
    restoring.wait()
    assert facts(new, "restore", BACKUP, "--plain", "--config", CONFIG)["revision"] == 1 + JUMP
    assert facts(new, "plan")["steps"] == []
    wait_until(lambda: "members are served" in new.read(f"{STATE}/agent.log"), seconds=30)


@pytest.fixture
def fresh(lab):
    """A control node whose backup is on a machine that is in no mesh."""
    control = make_control(lab)
    qmesh(control, "backup", BACKUP)
    machine = lab.machine("new-a", "192.168.0.210")
    carry(control, machine)
    return control, machine


@pytest.mark.long  # tests/mesh/test_backup_file.py, tests/agent/test_restore.py
def test_what_is_no_whole_backup_is_refused_with_nothing_written(fresh):
    control, new = fresh
    before = what_is_there(new)
    new.run(["sh", "-c", f"head -c -1 {BACKUP} >cut"])
    assert "damaged or incomplete" in refusal(new, "restore", "cut", code=2)
    assert "not a qmesh backup" in refusal(new, "restore", "/etc/hostname", code=2)
    for machine in fresh:
        machine.write("/root/words", "correct horse\n", 0o600)
    new.write("/root/other", "wrong\n", 0o600)
    qmesh(control, "backup", "/root/sealed", "--passphrase-file", "words")
    carry(control, new, "/root/sealed")
    assert "no terminal" in refusal(new, "restore", "sealed", code=2)
    assert "passphrase" in refusal(new, "restore", "sealed", "--passphrase-file", "other", code=2)
    assert what_is_there(new)["state"] == before["state"] == ""
    done = facts(new, "restore", "sealed", "--passphrase-file", "words", "--no-apply")
    assert done["revision"] == 1 + JUMP
    after = what_is_there(new)
    for what in ("links", "rules", "processes"):
        assert after[what] == before[what]


@pytest.mark.long  # tests/agent/test_restore.py
def test_a_machine_on_which_it_cannot_be_is_refused_and_left_as_it_is(fresh):
    control, new = fresh
    assert "already" in refusal(control, "restore", BACKUP, "--plain", code=2)
    ways = {
        "ip link add qmesh0 type bridge": ("ip link delete qmesh0", "interface qmesh0"),
        "ip route add 10.77.0.0/20 dev eth0": ("ip route delete 10.77.0.0/20", "collides"),
        "nft add table inet qmesh": ("nft delete table inet qmesh", "table inet qmesh exists"),
    }
    for make, (end, what) in ways.items():
        new.run(make.split())
        before = what_is_there(new)
        assert what in refusal(new, "restore", BACKUP, "--plain", code=2)
        assert what_is_there(new) == before
        new.run(end.split())
    script = "import socket, time; s = socket.socket(type=2); s.bind(('', 51820)); print('ready', flush=1)"
    listening = new.start(["python", "-c", f"{script}; time.sleep(60)"])
    listening.wait_for("ready")
    assert "UDP port 51820" in refusal(new, "restore", BACKUP, "--plain", code=2)
    listening.stop()
    assert what_is_there(new)["state"] == ""


def test_a_backup_is_private_whole_and_replaces_nothing_else(fresh):
    control, new = fresh
    assert control.run(["stat", "-c%a", BACKUP]).stdout == "600\n"
    done = qmesh(control, "backup", BACKUP)
    assert "NOT encrypted" in done.stdout
    assert "anyone who has it can take the mesh over" in done.stderr
    control.write("/root/notes", "mine")
    assert "is not a qmesh backup" in refusal(control, "backup", "notes", code=2)
    assert control.read("/root/notes") == "mine"
    assert "no directory" in refusal(control, "backup", "nowhere/backup", code=2)
    assert "do not go together" in qmesh(control, "backup", "-", "--json", code=2).stderr
    control.run(["sh", "-c", "umask 077; qmesh backup - | cat >piped; cmp -n 16 piped control.backup"])
    piped = control.run(["sh", "-c", "qmesh restore - --plain <piped"], check=False)
    assert "already" in piped.stderr
    assert "chmod 600" in control.run(["sh", "-c", "umask 022; qmesh backup - >wide"]).stderr
    assert "in no mesh" in refusal(new, "backup", "x", code=2)
    told = control.run(["script", "-qec", "qmesh backup -", "/dev/null"], check=False)
    assert told.returncode == 2
    assert "cannot be printed on a terminal" in told.stdout
    key = control.read(f"{STATE}/private.key").strip()
    assert key in control.run(["cat", "-v", "piped"]).stdout
    assert key not in done.stdout + done.stderr


def at_a_terminal(machine: Machine, line: str, typed: str) -> tuple[int, str]:
    """A command that is typed at a terminal, and what is typed when it asks."""
    done = machine.run(["script", "-qec", line, "/dev/null"], check=False, input=typed)
    return done.returncode, done.stdout


def test_a_backup_that_was_swapped_is_not_restored_without_a_word(fresh):
    control, new = fresh
    new.write("/root/words", "correct horse\n", 0o600)
    nothing = what_is_there(new)

    said = refusal(new, "restore", BACKUP, "--passphrase-file", "words", code=2)
    assert "not encrypted, though a passphrase was given" in said
    said = refusal(new, "restore", BACKUP, code=2)
    assert "--plain" in said
    assert facts(control, "status")["mesh"] in said  # what it is of is shown
    assert "1 machines: control" in said
    assert f"public key {facts(control, 'status')['machines'][0]['public_key']}" in said
    assert "do not go together" in refusal(
        new, "restore", BACKUP, "--plain", "--passphrase-file", "words", code=2
    )
    code, said = at_a_terminal(new, f"qmesh restore {BACKUP} --no-apply", "\n")
    assert code == 2
    assert "Restore it? [y/N]" in said
    assert what_is_there(new) == nothing

    code, said = at_a_terminal(new, f"qmesh restore {BACKUP} --no-apply", "y\n")
    assert code == 0, said
    assert facts(new, "status")["mesh"] == facts(control, "status")["mesh"]
