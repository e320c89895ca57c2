"""`check --fix`, `check --all` and `check --plugin` on a cluster whose agents run."""

import json
from typing import Any

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    STATE,
    facts,
    make_cluster,
    qmesh,
    refusal,
    start_agent,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def cluster():
    with Lab() as lab:
        control, member = make_cluster(lab)
        workers = start_workers(control, "1..3"), start_workers(member, "4..7")
        wait_until(lambda: finds_nothing(control) and finds_nothing(member), 30)
        yield control, member
        for each in workers:
            each.stop()


def finds_nothing(machine: Machine) -> bool:
    return not json.loads(machine.run(["qmesh", "check", "--json"], check=False).stdout)["findings"]


def codes_of(report: Any) -> set[tuple[str, str]]:
    return {(each["code"], each["severity"]) for each in report["findings"]}


def members_of(report: Any) -> dict[str, set[tuple[str, str]]]:
    return {each["machine"]: codes_of(each) for each in report["members"]}


def test_all_tells_what_each_member_finds_or_that_it_says_nothing(cluster):
    control, member = cluster
    report = facts(control, "check", "--all")
    assert report["findings"] == []
    assert report["members"] == [{"machine": "machine-b", "revision": report["revision"], "findings": []}]

    member.run(["chmod", "640", f"{STATE}/preshared.key"])
    said = qmesh(control, "check", "--all", code=1).stdout
    assert "machine-b says:\n  error: key-mode" in said
    assert "    cure:   on machine-b: chmod 600" in said
    assert said.startswith("control is as desired")
    assert "qmesh check --all" in refusal(member, "check", "--all", code=2)

    stop_agent(member)
    report = facts(control, "check", "--all", code=1)
    start_agent(member)
    assert (report["findings"], members_of(report)) == ([], {"machine-b": {("check-failed", "error")}})
    assert report["members"][0]["revision"] is None
    member.run(["chmod", "600", f"{STATE}/preshared.key"])


def test_fix_does_what_is_qmeshs_own_and_says_what_and_leaves_the_rest(cluster):
    _, member = cluster
    stop_agent(member)
    spoil = (
        f"chmod 644 {STATE}/preshared.key {CONFIG}/config.yml; ip link set qmesh0 mtu 1300;"
        f" sed -i s,10.77.0.2/tcp/40004,192.168.0.201/tcp/40004, {CONFIG}/config.yml;"
        " nft add table ip strangers; nft add chain ip strangers in '{ type filter hook input priority 0; }';"
        " nft add rule ip strangers in udp dport 51820 drop"
    )
    member.run(["sh", "-c", spoil])
    before = member.processes("worker.py")
    rules = member.run(["nft", "list", "table", "ip", "strangers"]).stdout
    report = facts(member, "check", "--fix", code=1)
    assert [each["fix"] for each in report["fixes"]] == [
        f"chmod 600 {CONFIG}/config.yml",
        f"chmod 600 {STATE}/preshared.key",
        "qmesh apply",
        "qmesh render-config --write",
    ]
    assert all(each["did"] and not each["error"] for each in report["fixes"])
    assert ("foreign-drop", "error") in codes_of(report)
    assert not codes_of(report) & {
        *(("key-mode", "error"), ("config-mode", "error"), ("tunnel-mtu", "error")),
        *(("config-stale", "error"), ("agent-missing", "warning")),
    }
    assert member.run(["nft", "list", "table", "ip", "strangers"]).stdout == rules
    assert member.processes("worker.py") == before

    member.run(["nft", "delete", "table", "ip", "strangers"])
    wait_until(lambda: "foreign-drop" not in str(member.run(["qmesh", "check"], check=False).stdout), 30)
    said = qmesh(member, "check", "--fix", code=None).stdout
    assert said.startswith("there is nothing that qmesh fixes by itself\n")


def test_fix_leaves_a_tunnel_down_that_was_taken_down_and_a_users_command_alone(cluster):
    _, member = cluster
    qmesh(member, "down")
    report = facts(member, "check", "--fix", code=None)
    assert report["fixes"] == []
    assert ("tunnel-missing", "warning") in codes_of(report)
    qmesh(member, "apply")
    assert (
        "needs root"
        in member.run(["setpriv", "--reuid", "65534", "qmesh", "check", "--fix"], check=False).stderr
    )


def test_plugin_is_one_line_with_the_exit_code_of_what_is_worst(cluster):
    control, member = cluster
    done = qmesh(control, "check", "--plugin")
    assert done.stdout == "QMESH OK - control: as desired | errors=0;;0;0 warnings=0;0;;0\n"
    control.run(["sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1"])
    done = qmesh(control, "check", "--plugin", code=1)
    control.run(["sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=0"])
    assert done.stdout.startswith("QMESH WARNING - control: sysctl net.ipv4.conf")
    done = qmesh(member, "check", "--plugin", "--state", "/root/nowhere", code=3)
    assert done.stdout.startswith("QMESH UNKNOWN - ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
