"""Local users of a member and of the control machine: the service is none of their concern (G5)."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import pytest

from qmesh.mesh.guard.render import FORMAT
from tests.support.lab.cluster import (
    HOLDER,
    SERVICE,
    STATE,
    all_hold,
    facts,
    make_control,
    make_member,
    qmesh,
    start_agent,
    stop_agent,
)
from tests.support.lab.machines import TOOLS, Lab, Machine
from tests.support.lab.mesh import USER
from tests.support.lab.programs.user import WAYS
from tests.support.lab.systemd import control_group, start_systemd
from tests.support.older_guard import as_of_format_1
from tests.support.rulesets import LIST_RULESET
from tests.support.waiting import comes_true, wait_until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", params=["10.77.0.1", pytest.param("fd77::1", marks=pytest.mark.long)])
def cluster(request):
    with Lab() as lab:
        network = ("--network", "fd77::/64") if ":" in request.param else ()
        control = make_control(lab, *network)
        yield request.param, control, make_member(lab, control, 201, 4)


def answered(machine: Machine, user: int, address: str, times: int, *, port: int = SERVICE) -> dict[str, int]:
    """How often the membership service answers a user of a machine, by the way he asks."""
    words = ["python", f"{TOOLS / 'user.py'}", f"{user}", address, f"{port}", f"{times}"]
    found: dict[str, int] = json.loads(machine.run(words, timeout=60).stdout)
    assert tuple(found) == WAYS
    return found


def test_g5_users_are_answered_never_and_root_always(cluster):
    address, *machines = cluster
    for machine in machines:
        assert answered(machine, 0, address, 1) == dict.fromkeys(WAYS, 1)  # the positive control
        assert answered(machine, USER, address, 25) == dict.fromkeys(WAYS, 0)


def test_g5_a_members_agent_hears_of_changes_while_a_user_asks_without_end(cluster):
    address, control, member = cluster
    words = ["python", f"{TOOLS / 'user.py'}", f"{USER}", address, f"{SERVICE}", "200"]
    asking = [member.start(words), control.start(words)]
    for workers in ("5", "6"):
        change = facts(control, "set", "control", "--workers", workers)
        all_hold([member], change["revision"], within_s=6)
    assert all(running.returncode is None for running in asking)
    for running in asking:
        running.stop()


@pytest.mark.long  # older guards: test_guard.py, tests/agent/test_node_ports.py
def test_g5_the_agent_replaces_the_guard_of_an_older_qmesh_in_both_tables(cluster):
    address, control, member = cluster
    for machine in (member, control):
        stop_agent(machine)
        for name in ("guard.nft", "held.nft"):
            machine.write(f"{STATE}/{name}", as_of_format_1(machine.read(f"{STATE}/{name}")), 0o600)
        machine.run(["nft", "-f", f"{STATE}/guard.nft"])
        machine.kill(HOLDER)
        machine.start(["qmesh", "hold"])
        await_format("qmesh guard 1", machine, "qmesh-held")
        if machine is member:  # the positive control
            assert answered(member, USER, address, 1) == dict.fromkeys(WAYS, 1)
        start_agent(machine)
        for name in ("qmesh", "qmesh-held"):
            await_format(FORMAT, machine, name)
        assert comes_true(partial(has_nothing_to_do, machine), 20)
        assert answered(machine, USER, address, 5) == dict.fromkeys(WAYS, 0)
    assert comes_true(lambda: answered(member, 0, address, 1) == dict.fromkeys(WAYS, 1), 20)


def await_format(named: str, machine: Machine, table: str) -> None:
    """Wait until a table of the guard is of that format."""
    comment = f'{{[^{{]*comment "{named}:'
    wait_until(lambda: re.search(f"table inet {table} +{comment}", machine.run(LIST_RULESET).stdout), 20)


def has_nothing_to_do(machine: Machine) -> bool:
    return machine.run(["qmesh", "plan"], check=False).returncode == 0


def test_no_user_can_take_the_services_port_while_the_agent_restarts(cluster):
    address, control, _ = cluster
    stop_agent(control)
    bind = (
        "import os, socket, sys\n"
        "os.setuid(int(sys.argv[1]))\n"
        "socket.create_server((sys.argv[2], int(sys.argv[3])),"
        " family=socket.AF_INET6 if ':' in sys.argv[2] else socket.AF_INET)\n"
    )
    words = ["python", "-c", bind]
    refused = control.run([*words, f"{USER}", address, f"{SERVICE}"], check=False)
    assert "PermissionError" in refused.stderr
    for user, port in ((0, SERVICE), (USER, 51820)):  # the positive controls
        control.run([*words, f"{user}", address, f"{port}"])
    qmesh(control, "apply")
    assert comes_true(lambda: answered(control, 0, address, 1) == dict.fromkeys(WAYS, 1), 20)


def test_where_another_program_has_the_port_the_next_one_is_the_services(lab):
    machine = lab.machine("machine-a", "192.168.0.200")
    taken = "import socket; s = socket.create_server(('0.0.0.0', %d)); print('ready', flush=True); s.accept()"
    machine.start(["python", "-c", taken % SERVICE]).wait_for("ready")
    qmesh(machine, "init", "--workers", "3", "--node", "1.4")
    sockets = machine.run(["ss", "-Hltn"]).stdout.split()
    assert f"10.77.0.1%qmesh0:{SERVICE + 1}" in sockets


@pytest.mark.long  # the rule by itself: tests/mesh/test_guard.py
def test_g5_a_mesh_that_has_its_service_at_wireguards_number_keeps_it(lab):
    control = make_control(lab, "--no-apply")
    control.run(["python", "-c", OLDER])
    qmesh(control, "apply")
    member = make_member(lab, control, 201, 4)
    for machine in (control, member):
        assert answered(machine, 0, "10.77.0.1", 1, port=51820) == dict.fromkeys(WAYS, 1)
        assert answered(machine, USER, "10.77.0.1", 5, port=51820) == dict.fromkeys(WAYS, 0)


OLDER = """
import sqlite3
with sqlite3.connect("/var/lib/qmesh/mesh.db") as registry:
    registry.execute("UPDATE mesh SET service_port = 51820")
"""


@pytest.mark.long  # test_commands.py, and the state is root's alone: tests/host/test_state.py
def test_a_user_is_told_at_once_that_commands_are_roots(cluster):
    _, control, member = cluster
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    for machine in (control, member):
        assert machine.run(["stat", "-c%a", STATE]).stdout == "700\n"
        for command in ("status", "check", "log"):
            done = machine.run([*drop, "qmesh", command], check=False, timeout=10)
            assert done.returncode == 3, done.stderr
            assert "root" in done.stderr


READERS = 3001
"""A group of a machine's, and a user who is in it."""
CHANGES_BY_ITSELF = {"last_handshake", "rx_bytes", "tx_bytes", "latency", "facts", "facts_age"}


def as_user(*groups: int) -> list[str]:
    """What makes a command one of a user's who is in these groups besides."""
    others = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", others]


def without(value: Any, names: set[str]) -> Any:
    """A value of JSON without the fields of these names, wherever they are."""
    if isinstance(value, dict):
        return {name: without(each, names) for name, each in value.items() if name not in names}
    return [without(each, names) for each in value] if isinstance(value, list) else value


def test_members_of_a_group_see_what_root_sees_and_change_nothing(cluster):
    _, control, member = cluster
    reader, stranger = as_user(READERS), as_user(READERS + 1)
    for machine in (control, member):
        machine.write("/etc/group", f"{machine.read('/etc/group')}readers:x:{READERS}:\n")
        assert "usermod -aG readers USER" in qmesh(machine, "set", "--readers", "readers").stdout
        wait_until(lambda: machine.run([*reader, "qmesh", "status"], check=False).returncode == 0, 20)  # noqa: B023

    def read(machine: Machine, command: str) -> Any:
        done = machine.run([*reader, "qmesh", command, "--json"], check=False)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def sees_what_root_sees(machine: Machine) -> bool:
        seen = facts(machine, "status")
        shown = [{**each, "public_key": "", "endpoint": None} for each in seen["machines"]]
        wanted = without({**seen, "machines": shown}, CHANGES_BY_ITSELF)
        return bool(without(read(machine, "status"), CHANGES_BY_ITSELF) == wanted)

    for machine in (control, member):  # which keep an answer for all who ask, longer where it took long
        wait_until(partial(sees_what_root_sees, machine), 60)
    assert read(control, "check") == facts(control, "check", code=None)
    events, hidden = read(control, "log")["events"], {"endpoint", "public_key"}
    assert without(events, hidden) == without(facts(control, "log")["events"], hidden)
    assert {event[name] for event in events for name in hidden} == {None}
    text = control.run([*reader, "qmesh", "metrics"]).stdout
    for name in ("qmesh_guard_ok", "qmesh_worker_up", "wireguard_sent_bytes_total"):
        assert f"\n{name}" in text
    plugin = control.run([*reader, "qmesh", "check", "--plugin"], check=False)
    assert plugin.stdout.startswith("QMESH ")

    for words in (["set", "--readers", "none"], ["check", "--fix"]):
        refused = control.run([*reader, "qmesh", *words], check=False)
        assert (refused.returncode, refused.stdout, "needs root" in refused.stderr) == (3, "", True)
    assert "is not the control node" in member.run([*reader, "qmesh", "log"], check=False).stderr
    refused = member.run([*stranger, "qmesh", "status"], check=False)
    assert "`qmesh status` is for root and the members of group readers" in refused.stderr
    assert refused.returncode == 3
    stop_agent(member)
    assert "agent does not run" in member.run([*reader, "qmesh", "status"], check=False).stderr
    for machine in (control, member):
        qmesh(machine, "set", "--readers", "none")
    said = control.run([*reader, "qmesh", "status"], check=False)
    assert (said.returncode, "needs root" in said.stderr) == (3, True)
    qmesh(member, "apply")  # which starts its agent again


@pytest.mark.long  # with the agent's capabilities alone: tests/agent/test_agent_rights.py
def test_in_its_units_sandbox_the_agent_answers_readers_and_again_when_it_was_killed():
    place = "/run/qmesh-read/ask.sock"
    reader = as_user(READERS)
    with control_group() as group, Lab() as lab:
        machine = lab.machine("fra-1", "203.0.113.5")
        start_systemd(machine, group)
        mesh = ("--name", "fra-1", "--endpoint", "203.0.113.5", "--workers", "3", "--node", "1.4")
        assert "the agent runs as qmesh.service" in qmesh(machine, "init", *mesh).stderr
        machine.write("/etc/group", f"{machine.read('/etc/group')}readers:x:{READERS}:\n")
        qmesh(machine, "set", "--readers", "readers")

        def stat() -> str:
            return machine.run(["stat", "-c", "%a %g %F %i", place], check=False).stdout

        wait_until(lambda: stat().startswith(f"660 {READERS} socket"), 60)
        for ending in (["systemctl", "restart"], ["systemctl", "kill", "--signal=KILL"]):
            before = stat()
            machine.run([*ending, "qmesh.service"])
            wait_until(lambda: stat() not in {"", before}, 60)  # noqa: B023
            said = {
                "status": "fra-1",
                "log": "mesh-made",
                "metrics": "qmesh_guard_ok 1",
                "check": "config-missing",
            }
            for command, word in said.items():
                assert word in machine.run([*reader, "qmesh", command], timeout=60).stdout
        qmesh(machine, "uninstall", "--delete-state")
        assert machine.run(["ls", "-d", "/run/qmesh-read"], check=False).returncode == 2
