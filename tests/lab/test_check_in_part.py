"""`check` where it can't look everywhere: what it can't is a finding, and everything else is told as ever."""

from __future__ import annotations

import json

import pytest

from tests.support.lab.cluster import CONFIG, make_control, make_member
from tests.support.lab.machines import Machine

pytestmark = pytest.mark.lab

DIES = r"""table inet t { chain c { type filter hook input priority 0; iifname "a\xff" drop; }\n}\n"""
CASES = {
    "settings of the kernel": (
        "mount -t tmpfs none /proc/sys",
        {"sysctls", "config.yml", "guard", "tunnel", "node processes"},
    ),
    "a program that is not there, and is not needed": (
        "iptables-legacy -N x; mount --bind /dev/null $(readlink -f $(which iptables-legacy-save))",
        set(),
    ),
    "rules of which libnftables dies, which is not asked": (f"nft -f <(printf '{DIES}')", set()),
    "a tunnel of which WireGuard tells nothing": (
        "mount --bind /dev/null /run/wireguard/qmesh0.sock",
        {"tunnel"},
    ),
}


@pytest.mark.parametrize(
    ("script", "failed"),
    [
        pytest.param(*case, id=name, marks=pytest.mark.long if "not needed" in name else [])
        for name, case in CASES.items()
    ],
)
def test_a_part_that_fails_is_a_finding_and_the_others_are_told(lab, script: str, failed: set[str]):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    member.run(["bash", "-c", f"qmesh render-config --write; chmod 644 {CONFIG}/config.yml"])
    before = findings(member)
    assert "check-failed" not in [code for code, _ in before]
    member.run(["bash", "-c", script])
    after = findings(member)
    assert {subject for code, subject in after if code == "check-failed"} == failed
    assert failed == {"tunnel"} or member.run(["qmesh", "status"]).stdout
    assert ("config-mode", f"{CONFIG}/config.yml") in before
    lost = {"sysctl", "config-mode"} if "config.yml" in failed else {"sysctl"}
    left = [(code, subject) for code, subject in before if code not in lost]
    assert [each for each in after if each[0] != "check-failed" and each in left] == left


def findings(machine: Machine) -> list[tuple[str, str]]:
    done = machine.run(["qmesh", "check", "--json"], check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    return [(each["code"], each["subject"]) for each in json.loads(done.stdout)["findings"]]
