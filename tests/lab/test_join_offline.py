"""Joining by files on machines with tunnel and guard: `join --offline`, `admit`, `join --answer`."""

import errno
import json
import signal

import pytest

from tests.support.lab.cluster import (
    SERVICE,
    STATE,
    checked,
    facts,
    invite,
    make_control,
    make_member,
    newcomer,
    qmesh,
    refusal,
    start_agent,
    stop_agent,
    what_is_there,
)
from tests.support.lab.machines import TOOLS, Machine, _ip
from tests.support.lab.mesh import ip, nft
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

PORTS = "40003-40006"


def carry(what: str, source: Machine, target: Machine) -> str:
    """Take a file of /root from one machine to another; its text."""
    text = source.read(f"/root/{what}")
    target.write(f"/root/{what}", text, 0o600)
    return text


def request(control: Machine, member: Machine, *options: str) -> str:
    """Invite a machine, and have it ask; its request lies in /root of both."""
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation", "--offline", "--out", "request", *options)
    return carry("request", member, control)


def answer(control: Machine, member: Machine) -> str:
    """Admit a machine's request; the answer lies in /root of both."""
    qmesh(control, "admit", "request", "--out", "answer")
    return carry("answer", control, member)


def members(control: Machine) -> list[tuple[str, str, str]]:
    return [(each["name"], each["address"], each["state"]) for each in facts(control, "status")["machines"]]


def joined(control: Machine) -> int:
    return [event["what"] for event in facts(control, "log")["events"]].count("joined")


def reaches(source: Machine, address: str, port: int) -> bool:
    """Whether packets pass: somebody accepts, or a machine says that nobody listens."""
    script = (
        "import socket, sys\n"
        "from tests.support.waiting import patience\n"
        "asking = socket.socket()\n"
        "asking.settimeout(patience(1))\n"
        "sys.exit(asking.connect_ex((sys.argv[1], int(sys.argv[2]))))\n"
    )
    done = source.run(["python", "-c", script, address, str(port)], check=False)
    return done.returncode in {0, errno.ECONNREFUSED}


def cut_offs(machine: Machine, *words: str) -> set[str]:
    """Run a command until it ends, killed before each write in turn; which ports were closed meanwhile."""
    done = machine.run(["python", TOOLS / "cut_off.py", *words], timeout=120)
    kills = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert len(kills) > 3
    return {kill["closed"] for kill in kills}


def test_e2_machines_without_a_network_become_a_cluster_once_there_is_one(lab):
    control = make_control(lab)
    member = newcomer(lab)
    ip(member, "link set eth0 down")
    before = what_is_there(member)
    asked = request(control, member)
    after = what_is_there(member)
    files = set(after.pop("state").split()) - set(before["state"].split())
    assert files == {"./private.key", "./request.json"}
    assert all(after[what] == before[what] for what in ("links", "rules", "reserved", "processes"))
    assert facts(member, "join", "invitation", "--offline")["request"] == asked.strip()

    control.write("/root/mine", "mine\n")
    assert "is not a qmesh answer" in refusal(control, "admit", "request", "--out", "mine", code=2)
    told = facts(control, "admit", "request", "--out", "answer")
    assert (told["file"], told["name"], told["cores"]) == ("answer", "machine-b", {"first": 4, "count": 4})
    text = carry("answer", control, member)
    again = qmesh(control, "admit", "-", input=asked).stdout
    assert again != text  # the same under another nonce
    modes = control.run(["stat", "-c%a", "answer"]).stdout
    modes += member.run(["stat", "-c%a", "request", f"{STATE}/request.json"]).stdout
    assert modes == "600\n600\n600\n"

    standing = facts(member, "join", "--answer", "answer")
    assert (standing["address"], standing["ports"]) == ("10.77.0.2", [40003, 40004, 40005, 40006])
    assert facts(member, "plan")["steps"] == []
    ip(member, "link set eth0 up")
    wait_until(lambda: reaches(member, "10.77.0.1", SERVICE), 40)
    assert reaches(control, "10.77.0.2", 40003)
    assert json.loads(qmesh(member, "join", "--answer", "-", "--json", input=again).stdout) == standing
    assert checked(member)["findings"] == []
    qmesh(control, "remove", "machine-b")
    assert "no longer a member" in refusal(control, "admit", "request", code=4)


@pytest.mark.long  # NAT: test_control_endpoint.py; who dials whom: tests/agent/test_join_offline.py
def test_a_control_node_behind_nat_dials_the_machine(lab):
    control = make_control(lab, "--endpoint", "10.9.0.2:51820")
    router = lab.machine("router", "192.168.0.9")
    ip(control, "link del eth0")
    inside = f"link add inside type veth peer name eth0 netns {control.pid}\nlink set inside up\n"
    _ip(router.pid, inside + "addr add 10.9.0.1/24 dev inside\n")
    ip(control, "link set eth0 up", "addr add 10.9.0.2/24 dev eth0", "route add default via 10.9.0.1")
    router.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    chain = "chain out { type nat hook postrouting priority srcnat; oifname eth0 masquerade; }"
    nft(router, f"table ip nat {{ {chain}; }}\n")
    member = newcomer(lab)
    request(control, member, "--endpoint", "192.168.0.201:51820")
    answer(control, member)
    qmesh(member, "join", "--answer", "answer")
    wait_until(lambda: reaches(control, "10.77.0.2", 40003))
    assert reaches(member, "10.77.0.1", SERVICE)
    assert facts(member, "status")["machines"][0]["endpoint"].startswith("192.168.0.9:")
    assert facts(member, "plan")["steps"] == []  # where it answers is where it is
    assert checked(member)["findings"] == []


def test_e4_on_a_machine_that_lost_its_membership_the_ports_stay_closed(lab):
    """Whatever is killed when: the guard that it had before closes them until the new one does."""
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    stop_agent(member)
    key = member.read(f"{STATE}/private.key")
    member.run(["sh", "-c", f"cd {STATE} && rm machine.json membership.json preshared.key"])
    closed = cut_offs(member, "join", "invitation", "--offline", "--out", "request")
    carry("request", member, control)
    cut_offs(control, "admit", "request", "--out", "answer")
    carry("answer", control, member)
    closed |= cut_offs(member, "join", "--answer", "answer")
    assert closed == {PORTS}
    assert member.read(f"{STATE}/private.key") == key
    assert checked(member)["findings"] == []
    assert (joined(control), facts(control, "status")["revision"]) == (1, 2)


@pytest.mark.long  # tests/agent/test_join_offline.py
def test_e4_both_ways_may_be_begun_and_either_ends_it(lab):
    control = make_control(lab)
    member = newcomer(lab)
    request(control, member)
    stop_agent(control)
    for number in (signal.SIGINT, signal.SIGKILL):
        joining = member.start(["qmesh", "join", "invitation"])
        wait_until(member.path(f"{STATE}/joining.json").exists)
        wait_until(lambda: "qmesh0" in member.run(["ls", "/sys/class/net"]).stdout)
        joining.send_signal(number)
        joining.wait(20)
        assert "request.json" in what_is_there(member)["state"]
    first = member.read("/root/request")
    qmesh(member, "join", "invitation", "--offline", "--out", "request")
    assert member.read("/root/request") == first
    there = what_is_there(member)
    assert "qmesh" not in there["links"] + there["rules"]
    assert set(there["state"].split()) == {"./private.key", "./request.json"}
    assert "waits for the answer" in refusal(member, "init", code=2)
    assert set(what_is_there(member)["state"].split()) == {"./private.key", "./request.json"}
    told = facts(control, "admit", "request")
    member.write("/root/answer", told["answer"])
    # At once, and not because an agent saw to it: none runs.
    assert control.run(["wg", "show", "qmesh0", "peers"]).stdout == told["public_key"] + "\n"
    start_agent(control)
    qmesh(member, "join", "invitation", timeout=60)  # the throwaway key is gone: by its own
    assert checked(member)["findings"] == []
    qmesh(member, "join", "--answer", "answer")
    assert (joined(control), facts(control, "status")["revision"]) == (1, 2)
    assert members(control)[1] == ("machine-b", "10.77.0.2", "active")
    assert "request.json" not in what_is_there(member)["state"]
