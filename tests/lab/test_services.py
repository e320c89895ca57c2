"""The lab's service manager does with units what systemd does, where tests of the product lean on that."""

from __future__ import annotations

import pytest

from tests.support.lab.machines import Lab, Machine
from tests.support.lab.services import start_services
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

DIRECTORY = "/etc/systemd/system"
SLEEP = "Type=exec\nExecStart=/bin/sleep 1000"


@pytest.fixture(scope="module")
def machine():
    with Lab() as lab:
        machine = lab.machine("machine-a", "192.168.0.200")
        start_services(machine)
        yield machine


@pytest.fixture(autouse=True)
def stopped(machine: Machine):
    yield
    machine.run(
        ["sh", "-c", f"systemctl stop qmesh-a qmesh-b qmesh-w@1 qmesh-w@2; rm -r {DIRECTORY}/qmesh-*"]
    )


def write(machine: Machine, name: str, service: str, unit: str = "", install: str = "") -> None:
    text = f"[Unit]\n{unit}\n[Service]\n{service}\n[Install]\n{install}\n"
    machine.write(f"{DIRECTORY}/{name}", text)


def systemctl(machine: Machine, *words: str, code: int = 0) -> str:
    done = machine.run(["systemctl", *words], check=False)
    assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def shown(machine: Machine, unit: str, *names: str) -> list[str]:
    return systemctl(machine, "show", f"--property={','.join(names)}", "--value", unit).split()


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_start_is_over_when_what_comes_before_and_after_the_process_is_and_in_that_order(machine):
    say = "/bin/sh -c 'echo"
    write(machine, "qmesh-a.service", f"{SLEEP}\nExecStartPre={say} one'\nExecStartPost={say} $$MAINPID'")
    systemctl(machine, "start", "qmesh-a")
    (process,) = shown(machine, "qmesh-a", "MainPID")
    assert machine.run(["journalctl", "-u", "qmesh-a"]).stdout.split() == ["one", process]
    assert machine.processes("sleep 1000").keys() == {int(process)}
    systemctl(machine, "stop", "qmesh-a")
    assert machine.processes("sleep 1000") == {}


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_start_that_fails_is_said_and_tried_again(machine):
    test = "/usr/bin/test -e /root/may"
    write(machine, "qmesh-a.service", f"{SLEEP}\nExecStartPre={test}\nRestart=always\nRestartSec=100ms")
    assert "Job for qmesh-a.service failed" in systemctl(machine, "start", "qmesh-a", code=1)
    assert machine.processes("sleep 1000") == {}
    machine.write("/root/may", "")
    wait_until(lambda: shown(machine, "qmesh-a", "ActiveState") == ["active"])
    assert "not found" in systemctl(machine, "start", "qmesh-none", code=1)


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_what_ends_is_started_again_and_counted(machine):
    write(machine, "qmesh-a.service", f"{SLEEP}\nRestart=always\nRestartSec=10ms")
    systemctl(machine, "start", "qmesh-a")
    assert machine.kill("sleep 1000")
    wait_until(lambda: machine.processes("sleep 1000"))
    wait_until(lambda: shown(machine, "qmesh-a", "NRestarts", "ActiveState") == ["1", "active"])
    systemctl(machine, "stop", "qmesh-a")
    assert shown(machine, "qmesh-a", "ActiveState", "MainPID") == ["inactive", "0"]


@pytest.mark.long  # the stand-in by itself: for who changes it
@pytest.mark.parametrize(("more", "state"), [("", "failed"), ("SuccessExitStatus=130 143", "inactive")])
def test_an_exit_status_that_is_none_of_success_is_a_failure(machine, more, state):
    script = 'trap "exit 130" INT; while :; do sleep 0.01; done'
    write(
        machine, "qmesh-a.service", f"Type=exec\nExecStart=/bin/sh -c '{script}'\nKillSignal=SIGINT\n{more}"
    )
    systemctl(machine, "start", "qmesh-a")
    machine.run(["sleep", "0.1"])
    systemctl(machine, "stop", "qmesh-a")
    assert shown(machine, "qmesh-a", "ActiveState", "ExecMainStatus") == [state, "130"]


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_target_starts_its_workers_stops_them_and_comes_before_what_is_after_it(machine):
    write(machine, "qmesh-w@.service", "Type=exec\nExecStart=/bin/sleep 10%i", "PartOf=qmesh-w.target")
    write(machine, "qmesh-w.target", "", "Wants=qmesh-w@1.service\nWants=qmesh-w@2.service")
    write(machine, "qmesh-b.service", SLEEP, "After=qmesh-w@1.service", "WantedBy=multi-user.target")
    systemctl(machine, "enable", "--now", "qmesh-b.service", "qmesh-w.target")
    units = ("qmesh-w@1", "qmesh-w@2", "qmesh-b")
    begun = [int(shown(machine, unit, "ExecMainStartTimestampMonotonic")[0]) for unit in units]
    assert begun[2] == max(begun)
    assert shown(machine, "qmesh-b", "UnitFileState") == ["enabled"]
    assert shown(machine, "qmesh-w.target", "UnitFileState") == ["disabled"]
    assert len(systemctl(machine, "list-units", "--state=active", "qmesh-w@*").splitlines()) == 2
    before = machine.processes("sleep 10[12]")
    systemctl(machine, "restart", "qmesh-w.target")
    after = machine.processes("sleep 10[12]")
    assert len(after) == 2
    assert not before.keys() & after.keys()
    systemctl(machine, "stop", "qmesh-w.target")
    assert machine.processes("sleep 10[12]") == {}
    systemctl(machine, "try-restart", "qmesh-w@1")
    assert machine.processes("sleep 10[12]") == {}


@pytest.mark.long  # the stand-in by itself: for who changes it
def test_a_service_that_tells_is_waited_for_and_its_children_may_live_on(machine):
    tell = (
        'import os, socket, subprocess, time; subprocess.Popen(["sleep", "2000"]);'
        ' socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"]);'
        " time.sleep(1000)"
    )
    words = f"/usr/bin/env python3 -ISc '{tell}'"
    write(machine, "qmesh-a.service", f"Type=notify\nExecStart={words}\nKillMode=process")
    systemctl(machine, "start", "qmesh-a")
    assert shown(machine, "qmesh-a", "SubState") == ["running"]
    systemctl(machine, "stop", "qmesh-a")
    assert len(machine.processes("sleep 2000")) == 1
    write(machine, "qmesh-b.service", "Type=notify\nExecStart=/bin/true")
    systemctl(machine, "start", "qmesh-b", code=1)


def test_a_unit_of_qmeshs_own_that_no_boot_starts_is_seen(machine):
    program = "from qmesh.host.system.systemd import list_unstarted_units; print(*list_unstarted_units())"
    units = ("qmesh-guard.service", "qmesh-hold.service")
    for name in units:
        write(machine, name, SLEEP, install="WantedBy=multi-user.target")
    systemctl(machine, "enable", *units)
    assert machine.run(["python", "-c", program]).stdout == "\n"
    systemctl(machine, "disable", "qmesh-hold.service")
    seen = machine.run(["python", "-c", program]).stdout
    assert seen == "UnstartedUnit(name='qmesh-hold.service', state='disabled')\n"
    systemctl(machine, "disable", *units)
