"""The life of a cluster: machines come, grow, rest and go; who is renumbered, and what stays closed."""

from __future__ import annotations

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    SERVICE,
    dial,
    facts,
    make_control,
    make_member,
    peers_of,
    qmesh,
    reached,
    refusal,
    start_workers,
)
from tests.support.lab.machines import Machine
from tests.support.waiting import patience, wait_until

pytestmark = pytest.mark.lab


@pytest.fixture
def tutorial(lab):
    """Machines A with 3 workers, B with 4 and C with 10."""
    control = make_control(lab)
    b, c = (make_member(lab, control, number, workers) for number, workers in ((201, 4), (202, 10)))
    for machine in (control, b, c):
        qmesh(machine, "render-config", "--write", "--config", CONFIG)
    return control, b, c


def knows(machine: Machine, revision: int) -> None:
    """Wait until a machine has that revision of the membership, and its agent has made it so."""
    wait_until(lambda: facts(machine, "status")["revision"] == revision, seconds=30)
    wait_until(lambda: machine.run(["qmesh", "plan"], check=False).returncode == 0, seconds=30)


def has_the_control_node(machine: Machine) -> bool:
    """Whether the membership service answers a machine through its tunnel."""
    connect = (
        "import socket, sys; socket.create_connection(('10.77.0.1', int(sys.argv[1])), float(sys.argv[2]))"
    )
    words = ["python", "-c", connect, f"{SERVICE}", f"{patience(2)}"]
    return machine.run(words, check=False).returncode == 0


def cores(control: Machine) -> dict[str, tuple[int, int]]:
    machines = facts(control, "status")["machines"]
    return {each["name"]: (each["cores"]["first"], each["cores"]["count"]) for each in machines}


def test_the_tutorials_cluster_lives(tutorial):
    control, b, c = tutorial
    for machine, numbers in ((control, "1..3"), (b, "4..7"), (c, "8..17")):
        start_workers(machine, numbers)
    assert [by is not None for by in dial(control)] == [True] * 17

    done = facts(control, "pause", "machine-b")
    assert done["renumbered"] == [
        {"machine": "machine-c", "from": {"first": 8, "count": 10}, "to": {"first": 4, "count": 10}},
        {"machine": "machine-b", "from": {"first": 4, "count": 4}, "to": None},
    ]
    assert done["restart"] == ["machine-c", "control"]
    assert [each["do"].partition(", then ")[0] for each in done["steps"]] == [
        "stop the workers of cores 4-7",
        "stop the workers of cores 8-17",
        "run `qmesh render-config --write`",
    ]
    knows(c, done["revision"])
    knows(b, done["revision"])
    for machine in (control, b, c):
        qmesh(machine, "render-config", "--write", "--config", CONFIG)
        assert machine.read(f"{CONFIG}/config.yml").count("- /ip4/") == 13
    assert cores(control)["machine-c"] == (4, 10)

    done = facts(control, "resume", "machine-b")
    assert [each["machine"] for each in done["renumbered"]] == ["machine-b"]
    assert done["restart"] == ["machine-b", "control"]
    assert cores(control)["machine-b"] == (14, 4)

    assert "cannot be removed" in refusal(control, "remove", "control", code=2)
    shrunk = qmesh(control, "set", "machine-c", "--workers", "3").stdout
    assert "machine-b: cores 14-17 -> cores 7-10" in shrunk
    assert [each["what"] for each in facts(control, "log")["events"]][-3:] == [
        "paused",
        "resumed",
        "machine-changed",
    ]


def test_g3_a_worker_that_was_renumbered_stays_closed_at_its_old_port(lab, tutorial):
    control, _b, c = tutorial
    attacker = lab.machine("attacker", "192.168.0.66", "fd00:1a::66")
    running = start_workers(c, "8..17", "--careless")
    old = list(range(40007, 40017))
    assert reached(attacker, "192.168.0.202", old) == []
    done = facts(control, "remove", "machine-b")
    knows(c, done["revision"])
    # Its ports are 40003 to 40012 now; whoever still listens at the four behind is closed as before.
    assert reached(attacker, "192.168.0.202", old) == []
    running.stop()
    wait_until(lambda: " 40016" not in c.run(["nft", "list", "table", "inet", "qmesh"]).stdout, seconds=15)


def test_g4_a_port_that_somebody_put_into_the_guard_is_opened_again_though_sshd_listens_there(tutorial):
    _, b, _ = tutorial
    ssh = b.start(["python", "-c", "import socket, time; socket.create_server(('', 22)); time.sleep(99)"])
    b.run(["nft", "add", "element", "inet", "qmesh", "closed_ports", "{ 22 }"])
    closed = ["nft", "list", "table", "inet", "qmesh"]
    wait_until(lambda: " 22 " not in b.run(closed).stdout, seconds=20)
    assert "dport 40003-40006 " in b.run(closed).stdout
    ssh.stop()


def test_who_is_removed_is_no_peer_and_the_rest_goes_on(tutorial):
    control, b, c = tutorial
    start_workers(c, "8..17")
    assert has_the_control_node(b)
    done = facts(control, "remove", "machine-b")
    assert done["restart"] == ["machine-c", "control"]
    assert len(peers_of(control)) == 1
    assert not has_the_control_node(b)
    assert has_the_control_node(c)


@pytest.mark.long  # tests/agent/test_preconditions.py
def test_changes_are_for_the_control_node_and_want_something_to_do(tutorial):
    control, b, _ = tutorial
    assert "not the control node" in refusal(b, "pause", "machine-c", code=2)
    assert "nothing to change" in refusal(control, "set", code=2)
    assert "without the name: `qmesh set" in refusal(control, "set", "machine-b", "--node", "2.1", code=2)
    assert "name it: `qmesh set NAME" in refusal(control, "set", "--workers", "3", code=2)
    assert "no machine is named" in refusal(control, "remove", "nobody", code=2)
    before = facts(control, "status")["revision"]
    assert facts(control, "set", "machine-b", "--workers", "4")["restart"] == []
    assert facts(control, "status")["revision"] == before


def test_another_version_of_the_node_opens_its_streams_to_members_only(lab, tutorial):
    control, b, _ = tutorial
    attacker = lab.machine("attacker", "192.168.0.66", "fd00:1a::66")
    done = facts(control, "set", "--node", "2.1")
    assert done["restart"] == ["control", "machine-b", "machine-c"]
    knows(b, done["revision"])
    listen = "import socket; s = socket.create_server(('10.77.0.1', 8340)); print('ready', flush=True);"
    control.start(["python", "-c", f"{listen}\nwhile True: s.accept()[0].send(b'x')"]).wait_for("ready")
    assert reached(b, "10.77.0.1", [8340]) == [8340]
    assert reached(attacker, "10.77.0.1", [8340]) == []
    assert "2.0" not in qmesh(control, "plan").stdout
    qmesh(control, "render-config", "--write", "--config", CONFIG)
    config = control.read(f"{CONFIG}/config.yml")
    assert "  dataWorkerStreamMultiaddrs:\n    - /ip4/10.77.0.1/tcp/32500\n" in config
    assert "  streamListenMultiaddr: /ip4/0.0.0.0/tcp/8340\n" in config
    announced_by_set(control, b)
    facts(control, "set", "--node", "1.4")
    message = refusal(control, "render-config", "--config", CONFIG, code=2)
    assert "qmesh set --node 2.1" in message


def announced_by_set(control: Machine, b: Machine) -> None:
    """What the network is told of the machines, from nothing known to all, and what cannot be told."""
    missing = [
        each for each in facts(control, "check", code=1)["findings"] if each["code"] == "announce-missing"
    ]
    assert [(each["severity"], each["subject"]) for each in missing] == [
        ("error", "control"),
        ("error", "machine-b"),
        ("error", "machine-c"),
    ]
    assert missing[1]["cure"] == "qmesh set machine-b --announce ADDRESS"
    revision = facts(control, "status")["revision"]
    for address in ("", "10.77.0.3"):
        refusal(control, "set", "machine-b", "--announce", address, code=2)
    for words in (("--stream", "public"), ("--master-proxy",)):
        message = refusal(control, "set", "--node", "2.1-rust", *words, code=2)
        assert f"node 2.1-rust does not support {words[0]}" in message
    assert facts(control, "status")["revision"] == revision
    hosts = {"control": "203.0.113.5", "machine-c": "c.example.org", "machine-b": "203.0.113.7"}
    *_, done = [facts(control, "set", name, "--announce", host) for name, host in hosts.items()]
    (opened,) = done["open_ports"]
    assert (opened["machine"], opened["host"]) == ("machine-b", "203.0.113.7")
    assert opened["open"] == [
        {"protocol": "tcp", "ports": [25003, 25004, 25005, 25006], "purpose": "workers"}
    ]
    # The control process alone reads what is announced.
    assert done["restart"] == ["control"]
    knows(b, done["revision"])
    for machine in (control, b):
        qmesh(machine, "render-config", "--write", "--config", CONFIG)
        config = machine.read(f"{CONFIG}/config.yml")
        assert config.count("    - /ip4/203.0.113.5/tcp/8340\n") == 17
        assert "    - /ip4/203.0.113.7/tcp/25003\n" in config
        assert "    - /dns4/c.example.org/tcp/25016\n" in config
        assert "unknown.invalid" not in config
    codes = {each["code"] for each in facts(control, "check", code=1)["findings"]}
    assert not codes & {"announce-missing", "config-stale"}
    shown = qmesh(b, "status", "--ports").stdout.splitlines()
    assert shown[1:] == [
        "machine-b at 203.0.113.7: TCP 25003-25006 (workers)",
        "machine-c at c.example.org: TCP 25007-25016 (workers)",
    ]
    assert shown[0].startswith(
        "control at 203.0.113.5: UDP 51820 (WireGuard), UDP 8336 (node), TCP 8340 (node),"
    )
    taken_back = facts(control, "set", "machine-b", "--announce", "none")
    assert taken_back["open_ports"][0]["host"] is None
