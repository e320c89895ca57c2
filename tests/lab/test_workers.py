"""Which workers answer: `status` and `check`, on the control node and on a worker machine."""

from __future__ import annotations

import json
import re
import signal

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    NODE_CONFIG,
    facts,
    make_cluster,
    qmesh,
    start_workers,
)
from tests.support.lab.machines import Machine
from tests.support.lab.services import start_services
from tests.support.waiting import wait_until, within

pytestmark = pytest.mark.lab


@pytest.fixture
def cluster(lab):
    return make_cluster(lab)


def silent(machine: Machine, name: str) -> list[int]:
    (found,) = [each for each in facts(machine, "status")["machines"] if each["name"] == name]
    return [each["core"] for each in found["workers"]["silent"]]


def test_a_worker_that_is_killed_is_named_with_machine_unit_and_command(cluster):
    control, member = cluster
    start_workers(control, "1..3")
    running = {core: start_workers(member, str(core)) for core in range(4, 8)}
    status = facts(control, "status")
    assert [each["workers"]["alive"] for each in status["machines"]] == [3, 4]
    assert all(0 < each["workers"]["latency"] < 1 for each in status["machines"])
    assert status["advice"] == []

    running[5].kill()
    wait_until(lambda: silent(control, "machine-b") == [5], seconds=5)
    (named,) = facts(control, "status")["machines"][1]["workers"]["silent"]
    assert named == {
        "core": 5,
        "address": "10.77.0.2",
        "port": 40004,
        "unit": "qmesh-worker@5.service",
        "restart": "on machine-b: restart the worker of core 5 (with systemd: qmesh-worker@5.service)",
        "why": "refused",
        "elsewhere": [],
    }
    shown = qmesh(control, "status").stdout
    assert "3 of 4" in shown
    assert (
        "silent: core 5 of machine-b (refused); on machine-b: restart the worker of core 5 (with systemd: "
        in shown
    )
    assert silent(member, "machine-b") == [5]
    assert facts(member, "status")["machines"][0]["workers"] is None
    for machine in (control, member):
        codes = [(each["code"], each["subject"]) for each in facts(machine, "check")["findings"]]
        assert codes == [("worker-silent", "machine-b core 5")]

    start_workers(member, "5")
    assert facts(control, "check")["findings"] == facts(member, "check")["findings"] == []


def told_by(machine: Machine, subject: str) -> str:
    """What `check` says of these workers; empty where they answer."""
    found = facts(machine, "check", code=None)["findings"]
    return "".join(
        each["seen"] for each in found if (each["code"], each["subject"]) == ("worker-silent", subject)
    )


@pytest.mark.long  # each word of it: tests/mesh/test_audit.py
def test_a_worker_at_another_address_than_its_own_is_named_with_that(cluster):
    control, member = cluster
    qmesh(control, "render-config", "--write")
    start_workers(control, "1..3")
    start_workers(member, "4..6", "--careless")  # on every address, which `worker-wide` is about
    loopback = "import socket; s = socket.create_server(('127.0.0.1', 40006)); print('up', flush=True);"
    member.start(["python", "-c", f"{loopback} s.accept()"]).wait_for("up")
    assert silent(control, "machine-b") == silent(member, "machine-b") == [7]
    told = {each["code"]: each for each in facts(member, "check")["findings"]}
    assert told.keys() == {"worker-wide", "worker-silent"}
    assert "it listens on 127.0.0.1" in told["worker-silent"]["seen"]
    qmesh(control, "set", "control", "--leave-open", "9999")  # each agent asks again, and notes what it sees
    wait_until(lambda: "it listens on 127.0.0.1" in told_by(control, "machine-b core 7"), 30)

    hook = "add chain inet mine c { type filter hook input priority 10; }"
    for words in ("add table inet mine", hook, "add rule inet mine c tcp dport 40005 drop"):
        member.run(["nft", words])
    assert "dropped by a firewall" in told_by(control, "machine-b core 6")
    assert "foreign-drop" in {each["code"] for each in facts(member, "check", code=1)["findings"]}
    (named,) = [
        each
        for each in facts(control, "check", "--all", code=1)["findings"]
        if each["subject"] == "machine-b core 6"
    ]
    assert "machine-b names" in named["seen"]
    assert named["cure"].startswith("on machine-b: nft ")

    qmesh(member, "down")
    assert "`qmesh down` was run there" in told_by(control, "machine-b core 4-7")
    assert "(`qmesh down` was run there); on machine-b: qmesh apply" in qmesh(control, "status").stdout
    qmesh(member, "apply")
    wait_until(lambda: told_by(control, "machine-b core 4-7") == "", 30)


def test_a_workers_unit_that_ends_again_and_again_says_with_what_and_its_last_words(lab):
    machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    start_services(machine)
    machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    machine.write("/root/node/program", "#!/bin/sh\nprintf 'no keys.yml \\033[2J\\n' >&2\nexit 7\n", 0o755)
    own = ("--node", "1.4", "--config", CONFIG, "--endpoint", "192.168.0.200")
    qmesh(machine, "init", "--workers", "1", *own)
    qmesh(machine, "render-config", "--write")
    qmesh(machine, "units", "--write", "/etc/systemd/system", "--program", "/root/node/program")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", "--no-block", "qmesh-worker@1.service"])

    def told() -> str:
        found: dict[str, str] = {each["code"]: each["seen"] for each in facts(machine, "check")["findings"]}
        return found.get("worker-silent", "")

    ended = (
        r"no answer: nothing listens at its port; core 1 ended with exit status 7, \d+ restarts?,"
        r" last line: no keys\.yml \\x1b\[2J"
    )
    wait_until(lambda: re.fullmatch(ended, told()), seconds=30)


def test_a_machine_that_is_down_is_not_waited_for_core_by_core(cluster):
    control, member = cluster
    member.run(["ip", "link", "set", "eth0", "down"])
    with within(8):
        assert silent(control, "machine-b") == [4, 5, 6, 7]
    # No packet comes back, so that nobody knows whether it is a worker or the machine: no restart is advised.
    shown = qmesh(control, "status").stdout
    assert "silent: cores 4-7 of machine-b" in shown
    assert "on machine-b: qmesh check" in shown


def test_watching_goes_on_until_ctrl_c(cluster):
    control, _ = cluster
    control.write("/root/seen", "")
    watching = control.start(["sh", "-c", "exec qmesh status --watch --json >>/root/seen"])
    wait_until(lambda: len(control.read("/root/seen").splitlines()) >= 2, seconds=30)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 130
    for line in control.read("/root/seen").splitlines():
        assert json.loads(line)["machines"][0]["name"] == "control"

    # At a terminal of 60 cells and 12 lines. Nothing runs here, so there is more to say than has room.
    watched = "stty cols 60 rows 12; TERM=xterm exec qmesh status --watch 1"
    watching = control.start(
        ["script", "--quiet", "--flush", "--return", "--command", watched, "/root/drawn"]
    )

    def frames() -> list[str]:
        drawn = control.read("/root/drawn") if control.path("/root/drawn").exists() else ""
        return [each.partition("\x1b[J")[0] for each in drawn.split("\x1b[H")[1:] if "\x1b[J" in each]

    wait_until(lambda: len(frames()) >= 3, seconds=30)
    (watcher,) = (process for process in control.processes(r"status --watch 1$"))
    control.run(["kill", "-INT", str(watcher)])
    assert watching.wait(10) == 130
    for frame in frames():
        lines = [re.sub(r"\x1b\[[0-9;]*[mK]", "", line) for line in re.split(r"[\r\n]+", frame)]
        assert len(lines) <= 12
        assert max(map(len, lines)) <= 60
        assert any(line.startswith("silent: ") for line in lines)
        assert any(re.match(r"! (?:control|machine-b) +active ", line) for line in lines)
    after = control.read("/root/drawn").rpartition("\x1b[?1049l")[2]
    assert "silent\x1b[0m: cores 4-7 of machine-b" in after
    assert "error: interrupted" in after
