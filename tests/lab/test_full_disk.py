"""Somebody else filled the disk, with octets or files: what takes away works still, and so does the guard."""

from __future__ import annotations

import pytest

from qmesh.host.system import disk_reserve
from tests.support.lab.cluster import AGENT, HOLDER, STATE, facts, is_back, make_control, make_member, qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

SMALL = ["mount", "-t", "tmpfs", "-o", "size=40m,nr_inodes=200,mode=700", "small", STATE]
FILLED = {
    "octets": f"cat /dev/zero >{STATE}/theirs/file",
    "files": f"i=0; while touch {STATE}/theirs/$i; do i=$((i+1)); done",
}


def small_disk(lab: Lab) -> None:
    """Have every machine of this lab keep its state on a small disk of its own."""
    made = lab.machine

    def machine(*words: str) -> Machine:
        found = made(*words)
        found.run(["mkdir", "-p", STATE])
        found.run(SMALL)
        return found

    lab.machine = machine  # type: ignore[method-assign, assignment]


def fill(machine: Machine, how: str) -> None:
    """Leave no room on its disk."""
    wait_until(lambda: all(machine.path(f"{STATE}/{name}").exists() for name in disk_reserve.NAMES))
    machine.run(["sh", "-c", f"mkdir {STATE}/theirs; {FILLED[how]} 2>/dev/null"], check=False)
    # Again, where a file of the agent's was there meanwhile, and is gone.
    wait_until(lambda: machine.run(["sh", "-c", f"echo some >{STATE}/more"], check=False).returncode)


def of_disk(machine: Machine) -> list[dict[str, str]]:
    """What `check` says of the disk, among what it says of a config.yml that nobody wrote."""
    findings = facts(machine, "check", code=1)["findings"]
    return [each for each in findings if each["subject"] == "disk of the state directory"]


@pytest.mark.parametrize("how", [pytest.param("octets", marks=pytest.mark.long), "files"])
def test_on_a_full_disk_a_member_is_removed_and_the_guard_is_kept(lab, how):
    small_disk(lab)
    control = make_control(lab)
    make_member(lab, control, 201, 4)
    fill(control, how)

    assert is_back(control)
    qmesh(control, "remove", "machine-b")
    assert [each["name"] for each in facts(control, "status")["machines"]] == ["control"]
    assert is_back(control)
    wait_until(lambda: of_disk(control))
    (finding,) = of_disk(control)
    assert (finding["code"], finding["severity"]) == ("agent-failing", "error")
    assert finding["cure"].startswith("free 16 MiB there")

    control.run(["rm", "-r", f"{STATE}/theirs"])
    wait_until(lambda: all(control.path(f"{STATE}/{name}").exists() for name in disk_reserve.NAMES))
    wait_until(lambda: not of_disk(control))


@pytest.mark.parametrize("how", ["octets", pytest.param("files", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "words", [pytest.param(("down",), marks=pytest.mark.long), ("down", "--open")], ids=" ".join
)
def test_on_a_full_disk_the_tunnel_is_taken_down(lab, how, words):
    small_disk(lab)
    control = make_control(lab)
    fill(control, how)
    qmesh(control, *words)

    assert "qmesh0" not in control.run(["ip", "link"]).stdout
    tables = control.run(["nft", "list", "tables"]).stdout
    assert ("inet qmesh" in tables) is ("--open" not in words)


def test_on_a_full_disk_a_guard_that_nobody_kept_is_written_and_loaded(lab):
    small_disk(lab)
    control = make_control(lab)
    fill(control, "octets")
    assert control.kill(AGENT)
    assert control.kill(HOLDER)
    control.run(["sh", "-c", f"nft flush ruleset; rm {STATE}/guard.nft {STATE}/held.nft"])
    qmesh(control, "apply")

    assert is_back(control)
