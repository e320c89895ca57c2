"""A cluster whose control node tells a webhook what has changed."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from qmesh.agent.daemon.supervisor import DELIVERY
from tests.support.lab.cluster import (
    STATE,
    files_with,
    is_back,
    make_cluster,
    make_member,
    qmesh,
    refusal,
    start_agent,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import TOOLS, Lab, Machine, Running
from tests.support.lab.systemd import control_group, start_systemd
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

SECRET = "s3cr3t-T0ken"
URL = f"http://127.0.0.1:8123/{SECRET}"


class Cluster(NamedTuple):
    """receiver: of what the control node tells. On control node and member all workers run."""

    lab: Lab
    control: Machine
    member: Machine
    receiver: Running


def start_receiver(machine: Machine, port: int = 8123, *options: str) -> Running:
    receiver = machine.start(["python", TOOLS / "receiver.py", str(port), *options])
    receiver.wait_for("ready")
    return receiver


def tell(machine: Machine, *urls: str, after_s: int = 10) -> None:
    """Have it tell these, and wait until it counts what happens from now on."""
    qmesh(machine, "set", "--notify", "-", "--notify-after", str(after_s), input="\n".join(urls))

    def is_ready() -> bool:
        text = machine.run(["cat", f"{STATE}/notifications.json"], check=False).stdout
        record = json.loads(text or "{}")
        return (
            bool(record)
            and len(record["outbox"]["deliveries"]) == len(urls)
            and {keeper for keeper, *_ in record["guard"]["counted"]} == {"holder", "agent"}
        )

    wait_until(is_ready, 30)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        control, member = make_cluster(lab)
        receiver = start_receiver(control)
        start_workers(control, "1..3")
        start_workers(member, "4..7")
        tell(control, URL)
        yield Cluster(lab, control, member, receiver)


def told(receiver: Running) -> list[dict[str, Any]]:
    """All changes that a receiver was told, in order."""
    lines = receiver.output().splitlines()[1:]
    return [change for line in lines for change in json.loads(line)["changes"]]


def read_outbox(machine: Machine) -> Any:
    """What the agent keeps of what is still to be delivered."""
    return json.loads(machine.run(["cat", f"{STATE}/notifications.json"]).stdout)["outbox"]


def read_told(machine: Machine) -> set[str]:
    """The kinds of what the agent keeps as told."""
    record = json.loads(machine.run(["cat", f"{STATE}/notifications.json"]).stdout)
    return {kind for kind, *_ in record["told"]}


def kinds(receiver: Running, *wanted: str) -> list[tuple[str, str, str]]:
    """Those of some kinds: kind, phase, machine."""
    return [
        (each["kind"], each["phase"], each["machine"]) for each in told(receiver) if each["kind"] in wanted
    ]


def test_a_test_says_what_came_back_and_shows_no_secret(cluster):
    done = qmesh(cluster.control, "set", "--notify-test")
    assert done.stdout == "http://127.0.0.1:8123: delivered: 200 OK\n"
    assert ("test", "happened", "control") in kinds(cluster.receiver, "test")


def test_g3_a_guard_that_another_program_altered_is_told_with_its_name(cluster):
    """At once the first time; where a test before this one did so too, with how often it was."""
    assert is_back(cluster.control)
    wait_until(lambda: kinds(cluster.receiver, "guard-changed"), 30)
    change = next(each for each in told(cluster.receiver) if each["kind"] == "guard-changed")
    assert change["detail"].startswith("nft (process ")


def test_workers_that_do_not_answer_are_told_once_and_that_they_answer_again(cluster):
    """Also over a restart of the agent, which neither repeats it nor takes them for alive."""
    control, member, receiver = cluster.control, cluster.member, cluster.receiver

    def list_new() -> list[dict[str, Any]]:
        return [each for each in told(receiver)[before:] if each["kind"] == "worker-silent"]

    before = len(told(receiver))
    member.kill("worker.py")
    wait_until(list_new, 90)
    assert list_new()[0]["cores"] == [[4, 7]]
    # One that is killed before it has noted what it has told, or that it was taken, tells it again.
    wait_until(lambda: "worker-silent" in read_told(control) and read_outbox(control)["changes"] == [], 30)
    stop_agent(control, signal.SIGKILL)
    start_agent(control)
    start_workers(member, "4..7")
    wait_until(lambda: len(list_new()) == 2, 90)
    assert [(each["phase"], each["machine"]) for each in list_new()] == [
        (phase, member.name) for phase in ("begun", "ended")
    ]


def test_e1_the_secret_of_a_url_is_in_one_file_and_in_nothing_that_is_shown(cluster):
    control = cluster.control
    assert files_with(control, SECRET) == {f"{STATE}/notify.json"}
    shown = [
        qmesh(control, *words, code=None)
        for words in (
            ("set", "--notify-after", "11", "--json"),
            ("set", "--notify-test", "--json"),
            ("status", "--json"),
            ("check", "--json"),
            ("log", "--json"),
            ("metrics",),
            ("export", "ansible"),
        )
    ]
    shown.append(control.run(["sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '"]))
    assert not any(SECRET in each.stdout + each.stderr for each in shown)
    assert "http://127.0.0.1:8123" in shown[0].stdout


def test_g3_a_guard_is_back_and_others_are_told_who_joins_while_a_receiver_hangs(cluster):
    """The agent's looks go on, and `check` finds nothing of it."""
    control = cluster.control
    hanging = start_receiver(control, 8124, "--hang")
    tell(control, URL, URL.replace("8123", "8124"))
    third = make_member(cluster.lab, control, 203, 1)
    joined, removed = ((kind, "happened", third.name) for kind in ("joined", "removed"))
    wait_until(lambda: hanging.output().count("joined"), 60)
    assert is_back(control)
    qmesh(control, "remove", third.name)
    wait_until(lambda: removed in kinds(cluster.receiver, "removed"), 60)
    assert kinds(cluster.receiver, "joined", "peer-silent").count(joined) == 1
    findings = json.loads(qmesh(control, "check", "--json", code=None).stdout)["findings"]
    about_agent = [each for each in findings if each["code"].startswith("agent-")]
    # On a slow machine the receiver has been tried for the third time by now, which is told.
    assert [each for each in about_agent if each["subject"] != DELIVERY] == []
    tell(control, URL)
    hanging.stop()


def test_what_is_no_receiver_is_refused_and_none_ends_it(cluster):
    control = cluster.control
    for words, match in (
        (("--notify", "http://example.org/x"), "to every network"),
        (("--notify", "example.org"), "not a URL"),
        (("--notify", "none", "--notify", "https://example.org/"), "leave one of the two out"),
        (("--notify-command", "/no/such"), "is not there"),
        (("--notify-after", "5"), "from 10 to 86400"),
        (("--notify-test", "--metrics", "none"), "passed alone"),
        (("machine-b", "--notify-test"), "passed alone"),
    ):
        done = qmesh(control, "set", *words, code=2)
        assert done.stdout == ""
        assert match in " ".join(done.stderr.split())
    done = qmesh(control, "set", "--notify", "none")
    assert done.stdout == "notifications of this machine: none\n"
    assert files_with(control, SECRET) == set()
    assert "nothing to test" in refusal(control, "set", "--notify-test", code=2)
    tell(control, URL)


@pytest.mark.long  # the light one is above: test_workers_that_do_not_answer...
def test_from_the_end_of_a_worker_to_the_webhook(lab, capsys):
    """It prints how long that takes with the default of `--notify-after`."""
    control, member = make_cluster(lab)
    receiver = start_receiver(control)
    start_workers(control, "1..3")
    workers = start_workers(member, "4..7")
    tell(control, URL, after_s=60)
    workers.kill_session()
    began = time.monotonic()
    wait_until(lambda: kinds(receiver, "worker-silent"), 200)
    taken = time.monotonic() - began
    with capsys.disabled():
        print(f"\nfrom SIGKILL of workers to the webhook: {taken:.0f} s")  # noqa: T201 - figures that are asked for


@pytest.mark.long  # with the agent's capabilities alone: tests/agent/test_agent_rights.py
def test_in_its_units_sandbox_the_agent_tells_receivers():
    """A URL and a program, which may write to /var/lib and not to /etc."""
    with control_group() as group, Lab() as lab:
        machine = lab.machine("fra-1", "203.0.113.5")
        start_systemd(machine, group)
        mesh = ("--name", "fra-1", "--endpoint", "203.0.113.5", "--workers", "3", "--node", "1.4")
        assert "the agent runs as qmesh.service" in qmesh(machine, "init", *mesh).stderr
        receiver = start_receiver(machine)
        program = "#!/bin/sh\ncat >/var/lib/told; touch /etc/told || echo refused\n"
        machine.write("/root/hooks/tell", program, 0o700)
        words = ("--notify", "-", "--notify-command", "/root/hooks/tell", "--notify-test")
        done = qmesh(machine, "set", *words, input=URL)
        assert done.stdout.splitlines() == [
            "http://127.0.0.1:8123: delivered: 200 OK",
            "/root/hooks/tell: delivered: it ended with code 0",
            "  it said: refused",
        ]
        assert kinds(receiver, "test") == [("test", "happened", "fra-1")]
        assert json.loads(machine.run(["cat", "/var/lib/told"]).stdout)["machine"] == "fra-1"
        assert SECRET not in machine.run(["journalctl", "--no-pager"]).stdout
