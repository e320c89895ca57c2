"""`check` finds what is wrong, names the cure, and the cure cures it; a sound machine has no finding."""

import dataclasses
import re

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    HOLDER,
    STATE,
    checked,
    make_control,
    make_member,
    qmesh,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import TOOLS, Lab, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

KEY = f"{STATE}/private.key"
OTHER_KEY = "c3RyYW5nZXIgc3RyYW5nZXIgc3RyYW5nZXIgc3RyYW4="


@dataclasses.dataclass(frozen=True)
class Case:
    """How a machine is spoilt, by a shell script, and what `check` says to it.

    mend: what the cure is for those that no command cures.
    """

    code: str
    spoil: str
    severity: str = "error"
    subject: str = "qmesh0"
    mend: str = ""


PEER = "$(wg show qmesh0 peers)"
CASES = [
    Case(
        "sysctl",
        "sysctl -qw net.ipv4.conf.eth0.route_localnet=1",
        "warning",
        "net.ipv4.conf.*.route_localnet",
    ),
    Case("key-missing", f"mv {KEY} /root/key", subject=KEY, mend=f"mv /root/key {KEY}"),
    Case("key-mode", f"chmod 640 {KEY}", subject=KEY),
    Case("key-mode", f"chmod 604 {STATE}/preshared.key", subject=f"{STATE}/preshared.key"),
    Case("key-mismatch", f"cp -p {KEY} /root/key; wg genkey >{KEY}", subject=KEY, mend=f"mv /root/key {KEY}"),
    Case("key-mismatch", f"cp -p {KEY} /root/key; echo no >{KEY}", subject=KEY, mend=f"mv /root/key {KEY}"),
    Case("key-mismatch", "wg genkey | wg set qmesh0 private-key /dev/stdin"),
    Case("tunnel-missing", "ip link delete qmesh0"),
    Case("tunnel-missing", "qmesh down", severity="warning"),
    Case("tunnel-down", "ip link set qmesh0 down"),
    Case("tunnel-address", "ip address add 10.77.0.99/20 dev qmesh0"),
    Case("tunnel-address", "ip address flush dev qmesh0"),
    Case("tunnel-port", "wg set qmesh0 listen-port 51999"),
    Case("tunnel-mtu", "ip link set qmesh0 mtu 1300"),
    Case("tunnel-route", "ip route delete 10.77.0.0/20 dev qmesh0"),
    Case(
        "route-collision",
        "ip route add 10.77.0.1 dev eth0 table 52; ip rule add lookup 52 priority 5270",
    ),
    Case("peer-missing", f"wg set qmesh0 peer {PEER} remove", subject="control"),
    Case("peer-unexpected", f"wg set qmesh0 peer {OTHER_KEY} allowed-ips 10.77.0.9/32", subject=OTHER_KEY),
    Case("peer-allowed-ips", f"wg set qmesh0 peer {PEER} allowed-ips 10.77.0.0/20", subject="control"),
    Case("peer-endpoint", f"wg set qmesh0 peer {PEER} endpoint 192.168.0.66:51820", subject="control"),
    Case("peer-psk", f"wg set qmesh0 peer {PEER} preshared-key /dev/null", subject="control"),
    Case("peer-psk", f"wg genpsk | wg set qmesh0 peer {PEER} preshared-key /dev/stdin", subject="control"),
    Case("peer-keepalive", f"wg set qmesh0 peer {PEER} persistent-keepalive 0", subject="control"),
    Case("guard-missing", "nft delete table inet qmesh", subject="table inet qmesh"),
    Case("guard-missing", "nft flush ruleset", subject="table inet qmesh"),
    Case("guard-drift", "nft insert rule inet qmesh asked_for accept", subject="table inet qmesh"),
    Case(
        "guard-drift",
        "nft delete element inet qmesh closed_ports '{ 40004 }'",
        subject="table inet qmesh",
    ),
    Case("guard-drift", "nft flush chain inet qmesh closed_port", subject="table inet qmesh"),
    Case("guard-boot", f"rm {STATE}/guard.nft", subject="guard.nft"),
    Case("guard-boot", f"echo >{STATE}/guard.nft", subject="guard.nft"),
    Case("foreign-saved", "nft list ruleset >/etc/nftables.conf", "warning", "/etc/nftables.conf"),
    Case(
        "foreign-saved",
        "mkdir -p /etc/nftables.d; nft list ruleset >/root/saved; ln -s /root/saved /etc/nftables.d",
        "warning",
        "/root/saved",
    ),
    Case("port-not-reserved", "sysctl -qw net.ipv4.ip_local_reserved_ports=", subject="40003-40006"),
    Case("config-missing", f"rm {CONFIG}/config.yml", subject=f"{CONFIG}/config.yml"),
    Case(
        "config-stale",
        f"sed -i s,10.77.0.2/tcp/40004,192.168.0.201/tcp/40004, {CONFIG}/config.yml",
        subject=f"{CONFIG}/config.yml",
    ),
    Case(
        "config-stale",
        f"sed -i s,10.77.0.1/tcp/40001,192.168.0.200/tcp/40001, {CONFIG}/config.yml",
        severity="warning",
        subject=f"{CONFIG}/config.yml",
    ),
    Case("config-mode", f"chmod 644 {CONFIG}/config.yml", subject=f"{CONFIG}/config.yml"),
    Case(
        "config-lint",
        f"cp -p {CONFIG}/config.yml /root/c; printf 'dataWorkersMultiaddrs: []\\n' >>{CONFIG}/config.yml",
        severity="warning",
        subject=f"{CONFIG}/config.yml:",
        mend=f"mv /root/c {CONFIG}/config.yml",
    ),
    Case(
        "config-lint",
        f"cp -p {CONFIG}/config.yml /root/c; printf '\\tengine: [' >>{CONFIG}/config.yml",
        subject=f"{CONFIG}/config.yml",
        mend=f"mv /root/c {CONFIG}/config.yml",
    ),
    Case(
        "config-lint",
        f"cp -p {CONFIG}/config.yml /root/c; printf '# \\377' >>{CONFIG}/config.yml",
        subject=f"{CONFIG}/config.yml",
        mend=f"mv /root/c {CONFIG}/config.yml",
    ),
]


@pytest.fixture(scope="module")
def member():
    """Machine B of a cluster without agents, so that nothing is mended behind the tests' back."""
    with Lab() as lab:
        control = make_control(lab)
        machine = make_member(lab, control, 201, 4)
        qmesh(control, "render-config", "--write")
        for each in (control, machine):
            assert checked(each)["findings"] == []
            stop_agent(each)
            assert [found["code"] for found in checked(each, code=1)["findings"]] == ["agent-missing"]
            be_the_agent(each)
            assert checked(each)["findings"] == []
        yield machine


def be_the_agent(machine: Machine) -> None:
    """Have one that mends nothing in the agent's place."""
    machine.start(["python", TOOLS / "idle_agent.py"]).wait_for("held")


def cure(member: Machine, finding: dict[str, str], mend: str) -> None:
    """Do as the finding says, or for those that only a person can cure, what that person would do."""
    member.run(["sh", "-c", mend or finding["cure"]])


def each_code_once() -> list[object]:
    """The cases; those of a code that came before take long together, and are marked so."""
    seen: set[str] = set()
    params: list[object] = []
    for case in CASES:
        marks = [pytest.mark.long] if case.code in seen else []
        params.append(pytest.param(case, marks=marks, id=f"{case.code} by {case.spoil[:40]}"))
        seen.add(case.code)
    return params


@pytest.mark.parametrize("case", each_code_once())
def test_finds_it_names_the_cure_and_the_cure_cures_it(member, case):
    member.freeze(HOLDER)  # who would put the guard back before anybody saw it
    member.run(["sh", "-c", case.spoil])
    report = checked(member, code=1 if case.severity == "error" else 0)
    member.thaw(HOLDER)
    found = [finding for finding in report["findings"] if finding["code"] == case.code]
    assert len(found) == 1, report
    (finding,) = found
    assert finding["severity"] == case.severity
    assert finding["subject"].startswith(case.subject)
    assert all(finding[field] for field in ("wanted", "seen", "cure"))
    for each in report["findings"]:
        cure(member, each, case.mend)
    assert checked(member)["findings"] == []


@pytest.mark.parametrize(
    ("obstacle", "place"),
    [
        ("mount --bind {0} {0}", f"{CONFIG}/config.yml"),
        ("mount --bind {0} {0}; mount -o remount,bind,ro {0}", CONFIG),
    ],
)
def test_the_cure_of_a_file_that_cannot_be_replaced_is_what_is_typed(member, obstacle, place):
    file = f"{CONFIG}/config.yml"
    member.run(["sed", "-i", "s,10.77.0.2/tcp/40004,192.168.0.201/tcp/40004,", file])
    member.run(["sh", "-ec", obstacle.format(place)])
    try:
        (finding,) = checked(member, code=1)["findings"]
        assert (finding["code"], finding["subject"]) == ("config-stale", file)
        assert "cannot be replaced" in qmesh(member, "render-config", "--write", code=3).stderr
        commands = re.findall("`([^`]+)`", finding["cure"])
        assert len(commands) == 2
        for command in commands:
            member.run(["sh", "-ec", command])
        assert checked(member)["findings"] == []
        assert not member.run(["ls", "/run"]).stdout.count("config.yml")
    finally:
        member.run(["umount", place])
    assert checked(member)["findings"] == []


def test_finds_workers_that_listen_on_every_address(member):
    workers = start_workers(member, "4..7", "--careless")
    report = checked(member)
    workers.stop()
    assert {finding["code"] for finding in report["findings"]} == {"worker-wide"}
    ports = {finding["subject"].rpartition(":")[2] for finding in report["findings"]}
    assert ports == {"40003", "40004", "40005", "40006"}


def test_finds_workers_that_no_guard_covers(member):
    workers = start_workers(member, "4..7")
    assert checked(member)["findings"] == []
    member.freeze(HOLDER)
    member.run(["nft", "delete", "table", "inet", "qmesh"])
    report = checked(member, code=1)
    # What the kernel is set to, which is told while there is no guard, depends on the tests before.
    found = [finding["code"] for finding in report["findings"] if finding["severity"] != "info"]
    assert found == ["guard-missing"]
    assert member.kill(HOLDER)
    wait_until(lambda: "qmesh" not in member.run(["nft", "list", "tables"]).stdout)
    report = checked(member, code=1)
    qmesh(member, "apply")
    assert checked(member)["findings"] == []
    workers.stop()
    exposed = [finding["subject"] for finding in report["findings"] if finding["code"] == "worker-exposed"]
    assert exposed == [f"10.77.0.2:{port}" for port in range(40003, 40007)]


def test_finds_a_worker_at_a_port_of_a_list_of_somebodys_own(member):
    member.run(["sed", "-i", "s,10.77.0.2/tcp/40004,10.77.0.2/tcp/40104,", f"{CONFIG}/config.yml"])
    workers = start_workers(member, "4..7")
    report = checked(member, code=1)
    workers.stop()
    qmesh(member, "render-config", "--write")
    exposed = [finding["subject"] for finding in report["findings"] if finding["code"] == "worker-exposed"]
    assert exposed == ["10.77.0.2:40104"]
    assert checked(member)["findings"] == []


def test_says_in_words_what_it_says_in_json(member):
    workers = start_workers(member, "4..7")
    member.run(["ip", "link", "set", "qmesh0", "down"])
    said = qmesh(member, "check", code=1).stdout
    qmesh(member, "apply")
    assert said.splitlines()[0] == "error: tunnel-down qmesh0"
    assert [line.split()[0] for line in said.splitlines()[1:4]] == ["wanted:", "seen:", "cure:"]
    assert said.splitlines()[-1] == "what these codes mean: docs/checks.md #tunnel-down"
    assert qmesh(member, "check").stdout.startswith("machine-b is as desired")
    workers.stop()
