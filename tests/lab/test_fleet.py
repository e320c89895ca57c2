"""The Ansible collection on bare servers: real Ansible over real OpenSSH."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest

from tests.support.lab.cluster import CONFIG, NODE_CONFIG, facts, files_with, peers_of, qmesh
from tests.support.lab.fleet import FINE, Operator, make_fleet
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.services import start_services
from tests.support.lab.systemd import control_group, start_systemd
from tests.support.node_identity import IDENTITY, KEY_STORE
from tests.support.waiting import comes_true, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.long]

SOON_S = 30
INVITATION = "qmesh1"
"""How one begins."""
CLOSES_SSH = """\
table inet closes {
    chain in {
        type filter hook input priority 0
        tcp dport 22 ct state new drop
    }
}
"""
REPLACED = "/root/bin/qmesh"
"""Before the real command on a server's PATH."""


@pytest.fixture
def lab():
    with Lab() as lab:
        yield lab


@pytest.fixture
def say(capsys):
    def print_figures(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")  # noqa: T201 - figures that are asked for

    return print_figures


def members_of(control: Machine) -> set[str]:
    return {each["name"] for each in facts(control, "status")["machines"]}


def errors_of(machine: Machine) -> dict[str, str]:
    """What was seen, by the code of each."""
    found = facts(machine, "check", code=None)["findings"]
    return {
        each["code"]: f"{each['subject']}: {each['seen']}" for each in found if each["severity"] == "error"
    }


def assert_whole(machines: Iterable[Machine]) -> None:
    """That all are in one mesh, guarded, and `check` finds no error."""
    control, *others = machines
    assert members_of(control) == {machine.name for machine in (control, *others)}
    for machine in (control, *others):
        assert_well(machine)
        machine.run(["nft", "list", "table", "inet", "qmesh"])


def assert_well(machine: Machine) -> None:
    """What was begun last may not answer yet, where all machines share a processor."""
    found: dict[str, str] = {}

    def is_well() -> bool:
        found.clear()
        found.update(errors_of(machine))
        return not found

    comes_true(is_well, SOON_S)
    assert found == {}, machine.name


def assert_nothing_changes(operator: Operator, *options: str) -> None:
    played = operator.play("site", *options)
    assert set(played.hosts.values()) == {FINE}, played.text


def replace_program(machine: Machine, cases: str) -> None:
    """Have some commands do something else or more; cases: as for a shell, of the command's first word."""
    text = f'#!/bin/sh\ncase "$1" in {cases} esac\nPATH="${{PATH#*:}}" exec qmesh "$@"\n'
    machine.write(REPLACED, text, 0o755)


def assert_nothing_is_said_or_left(text: str, operator: Operator, machines: list[Machine]) -> None:
    """No invitation is in that text, on a disk or in a process, and no key in the text."""
    assert INVITATION not in text
    for machine in machines:
        for name in ("private.key", "preshared.key"):
            if machine.path(f"/var/lib/qmesh/{name}").exists():
                assert machine.read(f"/var/lib/qmesh/{name}").strip() not in text
    for machine in (operator.machine, *machines):
        assert files_with(machine, INVITATION) == set()


def test_bare_servers_become_a_mesh_and_no_secret_is_said_or_left():
    """With all that Ansible can say, and a journal on each server. A second run changes nothing."""
    with control_group() as group, Lab() as lab:
        operator, machines = make_fleet(lab, workers=1, start=lambda each: start_systemd(each, group))

        played = operator.play("site", "-vvvvv")

        assert_whole(machines)
        assert_nothing_is_said_or_left(played.text, operator, machines)
        for machine in machines:
            journal = machine.run(["journalctl", "--no-pager", "-o", "verbose"]).stdout
            assert "ansible" in journal
            assert INVITATION not in journal
        assert_nothing_changes(operator)


def test_ten_bare_servers_become_a_cluster_and_a_second_run_changes_nothing(lab, say):
    """With units and config.yml."""
    operator, machines = make_nodes(lab, workers=9)
    began = time.monotonic()
    operator.play("site", "--forks", "10")
    first = time.monotonic()
    assert_whole(machines)
    again = time.monotonic()
    assert_nothing_changes(operator, "--forks", "10")
    say(f"10 bare machines to a guarded mesh: {first - began:.0f} s; again: {time.monotonic() - again:.0f} s")
    assert_nothing_changes(operator, "--check", "--diff")
    for machine in machines:
        assert machine.path("/etc/systemd/system/qmesh-workers.target").exists()


def test_a_new_host_joins_and_one_that_is_taken_out_stays_until_it_is_asked_for(lab):
    operator, machines = make_nodes(lab, workers=2)
    operator.play("site")

    gone = operator.hosts["qmesh_workers"].pop("srv-2")
    new = add_server(lab, operator, 3)
    played = operator.play("site")
    assert "srv-2" in members_of(machines[0])
    assert "srv-2" in played.text
    assert "qmesh_remove" in played.text
    assert_whole([*machines, new])

    assert operator.play("remove", "-e", "qmesh_remove=srv-1", code=2).changed == 0
    assert operator.play("remove", "-e", "qmesh_remove=srv-2").changed
    operator.play("site")
    assert_whole([*machines[:2], new])
    assert operator.play("remove", "-e", "qmesh_remove=srv-2").changed == 0
    operator.hosts["qmesh_workers"]["srv-2"] = gone
    operator.play("site")
    assert_whole([*machines, new])


def make_nodes(lab: Lab, *, workers: int) -> tuple[Operator, list[Machine]]:
    """Bare servers with a node's program and its config.yml, and an inventory that names both."""
    operator, machines = make_fleet(lab, workers=workers)
    for machine in machines:
        start_services(machine)
        machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
        machine.write("/usr/local/bin/node", "#!/bin/sh\nexec sleep infinity\n", 0o755)
    operator.variables |= {"qmesh_config": CONFIG, "qmesh_node_program": "/usr/local/bin/node"}
    return operator, machines


def test_the_inventory_of_the_page_gives_each_machine_the_node_files_and_units(lab):
    """With a node that nobody has started, and whose files are on the control node only."""
    operator, machines = make_fleet(lab, workers=1)
    for machine in machines:
        start_services(machine)
        machine.write("/usr/local/bin/node", "#!/bin/sh\nexec sleep infinity\n", 0o755)
    control, member = machines
    control.write(f"{CONFIG}/config.yml", IDENTITY, 0o600)
    control.write(f"{CONFIG}/keys.yml", KEY_STORE, 0o600)
    operator.variables |= {
        "qmesh_config": CONFIG,
        "qmesh_node_program": "/usr/local/bin/node",
        "qmesh_node_files": True,
    }
    operator.hosts["qmesh_control"]["srv-0"]["qmesh_node"] = "2.1-rust"
    operator.hosts["qmesh_workers"]["srv-1"]["qmesh_announce"] = member.ipv4

    played = operator.play("site")

    assert "control-silent" in played.text
    assert member.read(f"{CONFIG}/keys.yml") == KEY_STORE
    assert member.path("/etc/systemd/system/qmesh-workers.target").exists()
    assert_nothing_changes(operator)
    assert_nothing_changes(operator, "--check", "--diff")


def add_server(lab: Lab, operator: Operator, number: int) -> Machine:
    machine = lab.machine(f"srv-{number}", f"203.0.113.{number + 5}")
    operator.give_server(machine)
    start_services(machine)
    machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    operator.hosts["qmesh_workers"][machine.name] = {"ansible_host": machine.ipv4, "qmesh_worker_count": 2}
    return machine


def test_a_run_that_is_killed_in_the_middle_of_the_joins_is_made_whole_by_the_next(lab, say):
    operator, machines = make_fleet(lab, workers=9)
    running = operator.start("site", "--forks", "10")
    wait_until(lambda: any(machine.processes("qmesh join") for machine in machines), 120)

    operator.machine.kill()

    assert running.wait(10) < 0
    joined = members_of(machines[0])
    began = time.monotonic()
    operator.play("site", "--forks", "10")
    say(f"killed with {len(joined)} of 10 in the mesh; again: whole in {time.monotonic() - began:.0f} s")
    assert_whole(machines)
    assert_nothing_changes(operator)
    for machine in (operator.machine, *machines):
        assert files_with(machine, INVITATION) == set()


def test_a_machine_that_fails_stops_no_other_and_the_next_run_ends_what_it_began(lab):
    """One is off at the beginning, and one loses its power in the middle of its join."""
    operator, machines = make_fleet(lab, workers=3)
    _, off, falling, well = machines
    off.kill()
    running = operator.start("site", "-e", "ansible_timeout=5")
    wait_until(lambda: bool(falling.processes("qmesh join")), 120)
    falling.kill()
    assert running.wait(200) in {2, 4}
    assert_well(well)
    for machine in (off, falling):
        operator.start_sshd(machine)

    operator.play("site")

    assert_whole(machines)


def test_a_join_that_the_control_node_knows_and_the_machine_does_not_is_gone_on_with(lab):
    """As where the power goes after the redemption: the machine has the key that the mesh knows, no more."""
    operator, machines = make_fleet(lab, workers=1)
    operator.play("site")
    cut_off = machines[1]
    cut_off.kill("qmesh|wireguard-go")
    cut_off.run(["sh", "-c", "cd /var/lib/qmesh && rm -f machine.json membership.json preshared.key"])
    cut_off.run(["mount", "--bind", "/dev/null", "/usr/bin/wg"])  # which no package needs

    operator.play("site")

    assert_whole(machines)


def test_the_place_of_a_member_is_given_only_when_asked(lab):
    operator, machines = make_fleet(lab, workers=2)
    operator.play("site")
    reinstalled = machines[1]
    before = peers_of(machines[0])
    qmesh(reinstalled, "uninstall", "--delete-state")

    refused = operator.play("site", code=2)
    assert refused.hosts["srv-1"].failed == 1
    assert refused.hosts["srv-2"] == FINE
    assert "qmesh_replace=srv-1" in refused.text
    assert peers_of(machines[0]) == before

    operator.play("site", "-e", "qmesh_replace=srv-1")
    assert_whole(machines)
    assert_nothing_changes(operator, "-e", "qmesh_replace=srv-1")

    operator.hosts["qmesh_workers"]["renamed"] = operator.hosts["qmesh_workers"].pop("srv-2")
    refused = operator.play("site", code=2)
    assert refused.hosts["renamed"].failed == 1
    assert "set qmesh_name to srv-2" in " ".join(refused.text.split())
    operator.hosts["qmesh_workers"]["renamed"]["qmesh_name"] = "srv-2"
    assert_nothing_changes(operator)


def test_an_invitation_is_not_made_where_ansible_would_write_it_down(lab):
    operator, machines = make_fleet(lab, workers=1)
    ways = [
        ((), {"ANSIBLE_KEEP_REMOTE_FILES": "1"}),
        ((), {"ANSIBLE_DEBUG": "1"}),
        (("-e", "ansible_pipelining=false"), {}),
    ]
    for options, variables in ways:
        played = operator.play("site", *options, code=2, env=variables)
        assert "was not made" in " ".join(played.text.split())
        assert facts(machines[0], "invite", "--list")["invitations"] == []
        assert_nothing_is_said_or_left(played.text, operator, machines)


def test_a_dry_run_on_bare_servers_changes_nothing_and_says_what_would_be_done(lab):
    operator, machines = make_fleet(lab, workers=1)

    played = operator.play("site", "--check", "--diff")

    for text in ("would run qmesh init --name srv-0", "would run qmesh invite srv-1"):
        assert text in played.text
    for machine in machines:
        assert list(machine.path("/var/lib/qmesh").iterdir()) == []


def test_a_machine_that_cannot_be_reached_after_the_change_rolls_itself_back(lab):
    """What it applies closes SSH, as a faulty set of rules would: nobody confirms."""
    operator, machines = make_fleet(lab, workers=2)
    cut_off = machines[1]
    cut_off.write("/root/closes-ssh", CLOSES_SSH)
    replace_program(cut_off, "apply) nft -f /root/closes-ssh || exit 99 ;;")

    played = operator.play("site", "-e", "qmesh_confirm_seconds=10 ansible_timeout=5", code=4)

    assert played.hosts["srv-1"].unreachable == 1
    assert_well(machines[2])
    wait_until(lambda: "change-undone" in errors_of(cut_off), 30)
    cut_off.run(["nft", "delete", "table", "inet", "closes"])
    cut_off.path(REPLACED).unlink()
    operator.play("site")
    assert_whole(machines)


def test_servers_without_ipv4_become_a_mesh(lab):
    operator, machines = make_fleet(lab, workers=2, ipv6=True)
    for machine in (operator.machine, *machines):
        machine.run(["ip", "-4", "address", "flush", "dev", "eth0"])
    operator.play("site")
    assert_whole(machines)


def test_who_logs_in_as_a_user_becomes_root_by_sudo(lab):
    operator, machines = make_fleet(lab, workers=1)
    for machine in machines:
        operator.give_user(machine, "anna")
    operator.variables["ansible_user"] = "anna"

    played = operator.play("site", "-vvv")

    assert_whole(machines)
    assert_nothing_is_said_or_left(played.text, operator, machines)
    assert_nothing_changes(operator)


def test_an_upgrade_goes_through_workers_first_and_stops_at_the_first_that_is_not_well(lab):
    """A server's program says that it is of another version than what runs, so it is told to restart."""
    operator, machines = make_fleet(lab, workers=4)
    operator.play("site")
    for machine in machines:
        replace_program(
            machine, "--version) exec echo qmesh 99.0 ;; restart) exec date +%s.%N >/root/upgraded ;;"
        )
    ill = machines[2]
    ill.kill("qmesh agent")

    assert operator.play("upgrade", code=2).hosts["srv-2"].failed == 1
    assert [machine.name for machine in machines if machine.path("/root/upgraded").exists()] == ["srv-1"]

    qmesh(ill, "apply")
    operator.play("upgrade")
    times = {machine.name: float(machine.read("/root/upgraded")) for machine in machines}
    assert max(times, key=lambda name: times[name]) == "srv-0"
    assert min(times, key=lambda name: times[name]) == "srv-1"
