"""`qmesh uninstall` without systemd: nothing of qmesh is left, and what others have stays."""

import json
import re

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    HOLDER,
    STATE,
    facts,
    find_only,
    make_control,
    make_member,
    qmesh,
    refusal,
    start_workers,
    stop_agent,
    what_is_there,
)
from tests.support.lab.machines import Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"
UNITS = "/etc/systemd/system"
METRICS = "/var/lib/prometheus/node-exporter"
HOLDER_IS_KILLED = "the holder is killed"


def is_there(machine: Machine, path: str) -> bool:
    return machine.run(["test", "-e", path], check=False).returncode == 0


def all_of_it(machine: Machine) -> dict[str, str]:
    """What qmesh could leave, byte for byte; less of /root, where the node is."""
    found = what_is_there(machine)
    more = {
        "state": f"find {STATE} | sort",
        "units": f"find {UNITS} | sort",
        "addresses": "ip -o address; ip route; ip -6 route",
        "sysctls": "sysctl -a 2>/dev/null | grep '^net' | grep -v 'neigh\\|nf_conntrack_count'",
        "sockets": "ss -Hlntu | sort; find /run/wireguard -mindepth 1 2>/dev/null || true",
    }
    del found["files"]
    return found | {name: machine.run(["sh", "-c", script]).stdout for name, script in more.items()}


def blank(lab) -> Machine:
    machine: Machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    machine.run(
        ["sh", "-c", f"echo 22,40001 >{RESERVED}; nft add table inet mine; umount {STATE}; rmdir {STATE}"]
    )
    return machine


def found_mesh(machine: Machine) -> None:
    machine.write(f"{CONFIG}/config.yml", "engine:\n  dataWorkerMultiaddrs: []\n", 0o600)
    node = ("--node", "1.4", "--config", CONFIG, "--endpoint", "192.168.0.200")
    qmesh(machine, "init", "--workers", "3", *node)


def test_nothing_is_left_and_what_others_have_stays(lab):
    machine = blank(lab)
    before = all_of_it(machine)
    found_mesh(machine)
    qmesh(machine, "render-config", "--write")
    qmesh(machine, "units", "--write", UNITS, "--program", "/bin/true")
    config = machine.read(f"{CONFIG}/config.yml")
    machine.run(["mkdir", "-p", METRICS])
    for name in ("qmesh.prom", "others.prom"):
        machine.write(f"{METRICS}/{name}", "# of an agent that has ended\n")
    qmesh(machine, "set", "--notify", "-", input="http://127.0.0.1:9/hook")
    # By then its first check of the machine has begun, which would outlive the agent for a moment.
    wait_until(lambda: is_there(machine, f"{STATE}/notifications.json"), 30)
    wait_until(lambda: not machine.processes("qmesh check"), 60)
    assert all_of_it(machine) != before

    answer = facts(machine, "uninstall", "--delete-state")

    assert all_of_it(machine) == before
    assert machine.read(RESERVED) == "22,40001\n"
    (left,) = answer["reserved"]
    assert (left["ports"], left["by"]) == ([40001], "another program; no file here names that list")
    assert machine.read(f"{CONFIG}/config.yml") == config
    assert machine.run(["ls", "-A", METRICS]).stdout == "others.prom\n"
    assert f"{UNITS}/nftables.service.d/qmesh.conf" in answer["deleted"]
    assert STATE in answer["deleted"]
    assert (answer["kept"], answer["open_ports"]) == ([], [40000, 40001, 40002])
    assert qmesh(machine, "uninstall").stdout == "nothing to do: this machine has nothing of qmesh\n"


def test_it_says_who_listens_where_it_is_open_now(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    workers = start_workers(member, "4..5", "--careless")
    qmesh(member, "set", "--metrics", "10.77.0.2:9586")
    wait_until(lambda: "9586" in member.run(["nft", "list", "table", "inet", "qmesh"]).stdout, 30)

    done = qmesh(member, "uninstall")

    assert "worker ports 40003-40004 are OPEN" in done.stderr
    assert "tcp port 40003 at ::: python" in done.stderr
    assert "9586" not in done.stderr, "that was the agent's"
    worker = find_only(member, r"worker\.py")
    assert str(worker) in done.stderr
    workers.stop()
    assert "no program listens there now" in qmesh(member, "uninstall").stderr


def test_the_state_stays_unless_it_is_to_go_and_apply_takes_the_machine_up_again(lab):
    machine = make_control(lab)
    whole = what_is_there(machine)

    machine.run(["sh", "-c", "nft list ruleset >/etc/nftables.conf"])
    machine.write("/etc/sysctl.d/90-mine.conf", "# mine\nnet.ipv4.ip_local_reserved_ports = 40002\n")
    answer = facts(machine, "uninstall")
    assert STATE in answer["kept"]
    (saved,) = answer["saved_rules"]
    assert (saved["path"], saved["tables"]) == ("/etc/nftables.conf", ["qmesh", "qmesh-held"])
    assert answer["reserved"] == [{"ports": [40002], "by": "/etc/sysctl.d/90-mine.conf, line 2"}]
    machine.run(["sh", "-c", saved["cure"]])
    told = qmesh(machine, "uninstall").stderr
    assert "still contains a guard" not in told
    setting = "net.ipv4.ip_local_reserved_ports"
    assert f"ports 40002 stay in {setting}: /etc/sysctl.d/90-mine.conf, line 2" in told
    assert "inet qmesh" not in what_is_there(machine)["rules"]

    qmesh(machine, "apply")
    again = what_is_there(machine)
    assert (again["rules"], again["links"]) == (whole["rules"], whole["links"])


def test_units_that_were_edited_and_files_of_others_are_kept_and_named(lab):
    machine = make_control(lab)
    qmesh(machine, "units", "--write", UNITS, "--program", "/bin/true")
    edited = f"{UNITS}/qmesh-worker@.service"
    others = f"{UNITS}/nftables.service.d/mine.conf"
    alike = f"{UNITS}/qmesh-of-somebody.service"
    machine.run(["sh", "-c", f"echo Nice=5 >>{edited}; touch {others} {alike} {STATE}/notes"])
    machine.write(f"{STATE}/node/config.yml", "p2p:\n  peerPrivKey: 5ec4e7\n", 0o600)

    answer = facts(machine, "uninstall", "--delete-state")

    assert answer["kept"] == [edited, f"{STATE}/node", f"{STATE}/notes"]
    assert all(is_there(machine, path) for path in (edited, others, alike, f"{STATE}/node/config.yml"))
    assert machine.run(["ls", UNITS]).stdout.count("qmesh") == 2


def test_a_config_that_join_wrote_goes_with_the_state(lab):
    control = make_control(lab)
    member = lab.machine("machine-b", "192.168.0.201")
    member.write("/root/invitation", qmesh(control, "invite", "machine-b", "--workers", "1").stdout, 0o600)
    qmesh(member, "join", "invitation")
    assert is_there(member, f"{STATE}/node/config.yml")
    # Here it is a mount, which stays.
    assert facts(member, "uninstall", "--delete-state")["deleted"] == [STATE]
    assert member.run(["ls", "-A", STATE]).stdout == ""
    assert facts(member, "uninstall", "--delete-state")["deleted"] == []


@pytest.mark.parametrize(
    "after_s", [0.5, *(pytest.param(after, marks=pytest.mark.long) for after in (0.7, 0.9, 1.1))]
)
def test_one_that_was_killed_can_be_run_again(lab, after_s):
    machine = blank(lab)
    before = all_of_it(machine)
    found_mesh(machine)
    qmesh(machine, "units", "--write", UNITS, "--program", "/bin/true")
    machine.run(
        ["timeout", "--signal=KILL", str(after_s), "qmesh", "uninstall", "--delete-state"], check=False
    )
    qmesh(machine, "uninstall", "--delete-state")
    assert all_of_it(machine) == before


@pytest.mark.parametrize(
    "spoil",
    [
        f"rm {STATE}/mesh.db",
        f"nft flush ruleset; rm {STATE}/guard.nft",
        HOLDER_IS_KILLED,
        *(
            pytest.param(spoil, marks=pytest.mark.long)
            for spoil in (
                f"rm {STATE}/machine.json",
                f"echo x >{STATE}/machine.json",
                "ip link delete qmesh0",
            )
        ),
    ],
)
def test_a_machine_that_is_damaged_can_be_left_too(lab, spoil):
    machine = blank(lab)
    before = all_of_it(machine)
    found_mesh(machine)
    stop_agent(machine)
    if spoil == HOLDER_IS_KILLED:
        assert machine.kill(HOLDER)
    else:
        machine.run(["sh", "-c", spoil])
    qmesh(machine, "uninstall", "--delete-state")
    after = all_of_it(machine)
    if "flush" in spoil:
        before["rules"] = ""
    assert after == before


def test_a_guard_of_another_state_directory_is_left_alone(lab):
    machine = make_control(lab)
    before = all_of_it(machine)
    said = refusal(machine, "uninstall", "--delete-state", "--state", "/root/other", code=2)
    assert "was not loaded from /root/other" in said
    assert all_of_it(machine) == before


@pytest.mark.long  # in words: test_it_says_who_listens_where_it_is_open_now
def test_the_answer_in_json_names_who_listens(lab):
    machine = make_control(lab)
    qmesh(machine, "render-config", "--write")
    start_workers(machine, "1", "--careless")
    answer = json.loads(qmesh(machine, "uninstall", "--json").stdout)
    (listener,) = answer["listeners"]
    assert (listener["protocol"], listener["address"], listener["port"]) == ("tcp", "::", 40000)


def but_for_counters(machine: Machine) -> dict[str, str]:
    found = what_is_there(machine)
    return {**found, "rules": machine.run(["nft", "list", "tables"]).stdout}


def test_a_control_node_with_members_is_given_up_only_by_its_name(lab):
    control = make_control(lab)
    make_member(lab, control, 201, 2)
    before = but_for_counters(control)
    words = ("uninstall", "--delete-state")

    said = refusal(control, *words, code=2)
    assert "control is the control node: machine-b loses its mesh with it" in said
    assert "qmesh knows of no backup" in said
    assert "--yes control" in said
    assert but_for_counters(control) == before
    make_member(lab, control, 202, 1)
    qmesh(control, "backup", "/root/control.backup")
    qmesh(control, "set", "machine-c", "--workers", "2")
    before = but_for_counters(control)
    said = refusal(control, *words, code=2)
    assert "2 members lose their mesh with it: machine-b, machine-c" in said
    assert re.search(r"the last backup was made \d{4}-\d\d-\d\d .*, of revision 3, it is 4 now", said)
    assert "this machine is not" in refusal(control, *words, "--yes", "machine-b", code=2)
    at_terminal = ["script", "-qec", "qmesh uninstall --delete-state", "/dev/null"]
    for typed in ("\n", "y\n", "machine-b\n"):
        done = control.run(at_terminal, check=False, input=typed)
        assert done.returncode == 2
        assert "Type its name to delete it:" in done.stdout
    assert but_for_counters(control) == before

    done = control.run(at_terminal, check=False, input="control\n")
    assert done.returncode == 0, done.stdout
    assert "2 members lose their mesh with it" in done.stdout
    assert not is_there(control, f"{STATE}/mesh.db")


@pytest.mark.long  # typed at a terminal: above
def test_scripts_give_a_control_node_up_by_its_name_and_a_member_needs_none(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    assert "this machine is not" in refusal(member, "uninstall", "--delete-state", "--yes", "control", code=2)
    qmesh(member, "uninstall", "--delete-state")
    assert not is_there(member, f"{STATE}/membership.json")
    stop_agent(control)
    control.run(["sh", "-c", f"head -c 4096 /dev/zero >{STATE}/mesh.db"])
    assert "its registry cannot be read" in refusal(control, "uninstall", "--delete-state", code=2)
    qmesh(control, "uninstall", "--delete-state", "--yes", "control")
    assert not is_there(control, f"{STATE}/mesh.db")
