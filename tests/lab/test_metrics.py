"""Metrics of a cluster whose agents run: `qmesh metrics`, the file for node_exporter, and Prometheus."""

from __future__ import annotations

import json
import os
import re
import time
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest

from qmesh import __version__
from qmesh.mesh.guard.parse import parse_table
from qmesh.mesh.state import Guard
from tests.support.lab.cluster import (
    checked,
    facts,
    make_cluster,
    make_member,
    qmesh,
    refusal,
    start_agent,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.systemd import control_group, start_systemd
from tests.support.prometheus import (
    ALERTS,
    PAGES,
    UNPACKED,
    alert_expressions,
    dashboard_queries,
    metrics_of,
    needs_prometheus,
    run_promtool,
)
from tests.support.waiting import patience, wait_until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def cluster():
    """Workers run on the first two machines; on the third none does."""
    with Lab() as lab:
        control, member = make_cluster(lab)
        third = make_member(lab, control, 202, 1)
        workers = start_workers(control, "1..3"), start_workers(member, "4..7")
        yield control, member, third
        for each in workers:
            each.stop()


def read(text: str) -> dict[str, float]:
    """Each sample's value by its name and labels."""
    found = (line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#")
    return {name: float(value) for name, _, value in found}


def metrics(machine: Machine) -> dict[str, float]:
    return read(qmesh(machine, "metrics").stdout)


def of(found: dict[str, float], name: str, label: str = "") -> list[float]:
    return [value for key, value in found.items() if re.match(rf"{name}\b", key) and label in key]


def test_the_control_node_tells_of_all_machines_and_workers(cluster):
    control, member, _ = cluster
    found = metrics(control)
    assert found["qmesh_guard_ok"] == 1
    assert found['qmesh_machine_up{machine="machine-b"}'] == 1
    assert found['qmesh_member_agent_up{machine="machine-c"}'] == 1
    assert of(found, "qmesh_worker_up", 'machine="control"') == [1, 1, 1]
    assert of(found, "qmesh_worker_up", 'machine="machine-b"') == [1, 1, 1, 1]
    assert of(found, "qmesh_worker_up", 'machine="machine-c"') == [0]
    assert len(of(found, "qmesh_worker_answer_seconds")) == 7
    assert all(value > 0 for value in of(found, "wireguard_received_bytes_total"))
    assert sum(of(found, "qmesh_findings", "worker-silent")) == 1
    assert found["qmesh_revision"] == metrics(member)["qmesh_revision"]


def test_n3_what_members_tell_of_their_machines_is_known_to_the_control_node_alone(cluster):
    control, member, _ = cluster

    def known(machine: Machine) -> dict[str, Any]:
        found = json.loads(qmesh(machine, "status", "--json").stdout)
        return {each["name"]: each["facts"] for each in found["machines"] if each["facts"]}

    wait_until(lambda: known(control).keys() >= {"control", "machine-b", "machine-c"}, 60.0, every_s=1.0)
    stop_agent(member)  # the next one tells all of it, with the workers that run by now
    start_agent(member)
    wait_until(lambda: known(control)["machine-b"]["workers"][0]["memory_bytes"], 60.0, every_s=1.0)
    told = known(control)["machine-b"]
    here = {"qmesh": __version__, "kernel": os.uname().release, "cores": os.cpu_count()}
    assert {name: told[name] for name in here} == here
    assert [each["core"] for each in told["workers"]] == [4, 5, 6, 7]
    assert told["workers"][0]["memory_bytes"] > 1_000_000
    assert known(member).keys() == {"machine-b"}, "it hears nothing of others"
    found = metrics(control)
    assert found['qmesh_worker_memory_bytes{machine="machine-b",core="4"}'] > 1_000_000
    assert found['qmesh_worker_restarts_total{machine="machine-b",core="4"}'] == 0
    assert found['qmesh_machine_memory_bytes{machine="machine-c"}'] == told["memory_bytes"]
    assert len(of(found, "qmesh_machine_info", f'qmesh="{__version__}"')) == 3
    bench = json.loads(qmesh(member, "status", "--bench", "--json").stdout)
    shares = {each["machine"]: each["share"] for each in bench["machines"]}
    assert shares == {"control": None, "machine-b": 1.0, "machine-c": None}


def test_drops_of_the_guard_are_counted(cluster):
    _, member, third = cluster
    before = metrics(member)['qmesh_guard_dropped_packets_total{chain="closed_port"}']
    probe = (
        "import socket; s = socket.socket(); s.settimeout(0.3); print(s.connect_ex(('192.168.0.201', 40003)))"
    )
    assert third.run(["python", "-c", probe]).stdout.strip() != "0"
    assert metrics(member)['qmesh_guard_dropped_packets_total{chain="closed_port"}'] > before


def machine_answers(machine: Machine) -> bool:
    """Whether its agent, which may have just started, answers readers."""
    return machine.run(["qmesh", "metrics"], check=False).returncode == 0


def test_without_an_agent_the_command_looks_itself(cluster):
    _, member, _ = cluster
    stop_agent(member)
    found = metrics(member)
    start_agent(member)
    assert found["qmesh_guard_ok"] == 1
    assert sum(of(found, "qmesh_findings", 'code="agent-missing"')) == 1
    assert of(found, "qmesh_agent_last_look_timestamp_seconds") == []
    assert len(of(found, "qmesh_worker_up")) == 4
    assert len(of(found, "qmesh_machine_load", 'machine="machine-b"')) == 1
    wait_until(lambda: machine_answers(member))
    assert of(metrics(member), "qmesh_agent_last_look_timestamp_seconds")[0] > 1_600_000_000


TUNNEL_PLACE = "10.77.0.2:9586"


def fetch(machine: Machine, place: str, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    """Status and body of an answer; 0 where none comes within a second."""
    words = [f"--header={name}: {value}" for name, value in headers.items()]
    program = (
        "import sys, http.client as h\n"
        "place, path, patience, *headers = sys.argv[1:]\n"
        "c = h.HTTPConnection(place, timeout=float(patience))\n"
        "c.putrequest('GET', path, skip_host=any(x.startswith('--header=Host') for x in headers))\n"
        "[c.putheader(*x.removeprefix('--header=').split(': ')) for x in headers]\n"
        "try:\n  c.endheaders(); a = c.getresponse(); print(a.status, a.read().decode(), sep='\\n')\n"
        "except OSError: print(0)\n"
    )
    asked = ["python", "-c", program, place, path, str(patience(1)), *words]
    status, _, body = machine.run(asked).stdout.partition("\n")
    return int(status), body


def test_g1_metrics_in_the_tunnel_are_for_the_control_node_alone(cluster):
    control, member, third = cluster
    for place in ("0.0.0.0:9586", "192.168.0.201:9586", "10.77.0.1:9586", "127.0.0.1:40003", "127.0.0.1:22"):
        assert "hint: " in refusal(member, "set", "--metrics", place, code=2)
    taken = member.start(["python", "-m", "http.server", "--bind", "127.0.0.1", "9586"])
    wait_until(lambda: fetch(member, "127.0.0.1:9586")[0], 20)
    assert "ss -ltnp" in refusal(member, "set", "--metrics", "127.0.0.1:9586", code=3)
    taken.stop()

    said = facts(member, "set", "--metrics", TUNNEL_PLACE)
    assert (said["is_another"], said["metrics"]) == (True, TUNNEL_PLACE)
    wait_until(lambda: fetch(control, TUNNEL_PLACE)[0] == 200, 30)
    found = read(fetch(control, TUNNEL_PLACE)[1])
    assert found["qmesh_guard_ok"] == 1
    assert 'qmesh_machine_up{machine="control"}' in found
    # Positive controls are above: another member, and a user of the machine itself, reach nothing there.
    assert fetch(third, TUNNEL_PLACE)[0] == 0
    assert fetch(member, TUNNEL_PLACE)[0] == 403
    assert fetch(member, "192.168.0.201:9586")[0] == 0
    assert [fetch(control, TUNNEL_PLACE, path)[0] for path in ("/", "/metrics/x")] == [404, 404]
    assert fetch(control, TUNNEL_PLACE, Host="evil.example")[0] == 421
    assert checked(member)["findings"] == []
    guard = parse_table(member.run(["nft", "-s", "list", "table", "inet", "qmesh"]).stdout)
    assert isinstance(guard, Guard)
    assert guard.control_ports == (9586,)

    qmesh(member, "set", "--metrics", "none")
    wait_until(lambda: fetch(control, TUNNEL_PLACE)[0] == 0, 30)
    assert checked(member)["findings"] == []


@pytest.mark.long  # a member's port is tried above; what the rules are made of is the same
def test_g1_metrics_at_the_control_nodes_tunnel_address_are_for_itself(cluster):
    control, member, third = cluster
    place = "10.77.0.1:9586"
    qmesh(control, "set", "--metrics", place)
    wait_until(lambda: fetch(control, place)[0] == 200, 30)
    for each in (member, third):
        assert fetch(each, place)[0] == 0
        as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "python", "-c"]
        asking = (
            "import socket; s = socket.socket(); s.settimeout(1); print(s.connect_ex(('10.77.0.1', 9586)))"
        )
        assert each.run([*as_user, asking]).stdout != "0\n"
    qmesh(control, "set", "--metrics", "none")
    wait_until(lambda: fetch(control, place)[0] == 0, 30)


@pytest.mark.long  # whom it answers: tests/mesh/test_metrics.py
def test_a_neighbour_reads_nothing_at_loopback_where_the_kernel_lets_his_packets_there(cluster):
    """As container software sets it (route_localnet). He sends packets to 127.0.0.1 over the LAN."""
    _, member, third = cluster
    place, other = "127.0.0.1:9586", "127.0.0.1:9587"
    qmesh(member, "set", "--metrics", place)
    serving = member.start(["python", "-m", "http.server", "--bind", "127.0.0.1", "9587"])
    for each in (member, third):
        each.run(["sh", "-ec", "for f in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 >$f; done"])
    lan = json.loads(third.run(["ip", "-j", "route", "get", "192.168.0.201"]).stdout)[0]
    leave = f"ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via 192.168.0.201 dev {lan['dev']}"
    third.run(["sh", "-ec", leave])
    try:
        wait_until(lambda: fetch(member, place)[0] == 200, 30)
        wait_until(lambda: fetch(third, other, "/")[0] == 200, 20)  # his packets do arrive
        assert fetch(third, place)[0] == 403
    finally:
        serving.stop()
        third.run(["sh", "-ec", "ip route del 127.0.0.1; ip addr add 127.0.0.1/8 dev lo"])
        for each in (member, third):
            each.run(["sh", "-ec", "for f in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 0 >$f; done"])
        qmesh(member, "set", "--metrics", "none")


DIRECTORY = "/var/lib/prometheus/node-exporter"


def make_directory(machine: Machine) -> None:
    """As if a user of the machine owned it, who is not root."""
    machine.run(["sh", "-ec", f"mkdir -p {DIRECTORY}; chown 65534:65534 {DIRECTORY}; chmod 700 {DIRECTORY}"])


def test_node_exporter_finds_a_file_that_its_user_can_read(cluster):
    _, member, _ = cluster
    make_directory(member)
    stat = ["stat", "-c", "%a %u", f"{DIRECTORY}/qmesh.prom"]
    wait_until(lambda: member.run(stat, check=False).stdout == "644 65534\n", 60)
    assert read(member.run(["cat", f"{DIRECTORY}/qmesh.prom"]).stdout)["qmesh_guard_ok"] == 1
    assert member.run(["ls", "-A", DIRECTORY]).stdout.split() == ["qmesh.prom"]
    assert "hint: " in refusal(member, "set", "--metrics-directory", "relative", code=2)
    qmesh(member, "set", "--metrics-directory", "none")
    wait_until(lambda: not member.run(["ls", "-A", DIRECTORY]).stdout, 60)
    member.run(["rm", "-r", DIRECTORY])
    qmesh(member, "set", "--metrics-directory", "default")


@pytest.mark.long  # with the agent's capabilities alone: tests/agent/test_agent_rights.py
def test_in_its_units_sandbox_the_agent_hands_out_its_metrics_in_each_way():
    place = "127.0.0.1:586"
    with control_group() as group, Lab() as lab:
        machine = lab.machine("fra-1", "203.0.113.5")
        start_systemd(machine, group)
        mesh = ("--name", "fra-1", "--endpoint", "203.0.113.5", "--workers", "3", "--node", "1.4")
        assert "the agent runs as qmesh.service" in qmesh(machine, "init", *mesh).stderr
        make_directory(machine)
        qmesh(machine, "set", "--metrics", place)
        wait_until(lambda: fetch(machine, place)[0] == 200, 60)
        stat = ["stat", "-c", "%a %u", f"{DIRECTORY}/qmesh.prom"]
        wait_until(lambda: machine.run(stat, check=False).stdout == "644 65534\n", 60)
        assert metrics(machine)["qmesh_guard_ok"] == 1

        agent = machine.run(["systemctl", "show", "--value", "-p", "MainPID", "qmesh.service"]).stdout.strip()
        status = machine.run(["cat", f"/proc/{agent}/status"]).stdout
        assert "NoNewPrivs:\t1\n" in status
        assert "Seccomp:\t2\n" in status
        # Where `set` refuses a directory, the unit does.
        for path in ("/etc/node_exporter", "/usr/share/node_exporter", "/var/tmp/node_exporter"):
            machine.run(["mkdir", "-p", path])
            assert "its unit shuts it out" in refusal(machine, "set", "--metrics-directory", path, code=2)
            inside = ["nsenter", f"--target={agent}", "--mount", "touch", f"{path}/qmesh.prom"]
            assert machine.run(inside, check=False).returncode != 0

        qmesh(machine, "uninstall", "--delete-state")
        assert machine.run(["ls", "-A", DIRECTORY]).stdout == ""
        assert fetch(machine, place)[0] == 0


PROMETHEUS = "127.0.0.1:9090"


def ask(control: Machine, query: str) -> list[dict[str, Any]]:
    """What Prometheus answers to a query at this moment."""
    status, body = fetch(control, PROMETHEUS, f"/api/v1/query?{urlencode({'query': query})}")
    assert status == 200, f"{query}: {body}"
    return list(json.loads(body)["data"]["result"])


@needs_prometheus
@pytest.mark.long  # the light ones are in tests/test_monitoring.py
def test_a_real_prometheus_answers_every_query_of_dashboard_and_alerts(cluster, capsys):
    """It runs on the control node, and reaches the members through the tunnel, as the page says.

    It prints how long it takes from the end of a worker to the alert.
    """
    control, member, third = cluster
    places = [(control, "127.0.0.1:9586"), (member, "10.77.0.2:9586"), (third, "10.77.0.3:9586")]
    text = (PAGES / "prometheus.yml").read_text(encoding="utf-8")
    for machine, place in places:
        assert f'"{place}"' in text
        qmesh(machine, "set", "--metrics", place)
    control.write("/root/prometheus/prometheus.yml", text.replace("interval: 15s", "interval: 1s"))
    control.write("/root/prometheus/alerts.yml", ALERTS.read_text(encoding="utf-8"))
    running = control.start(
        [
            UNPACKED / "prometheus",
            "--config.file=/root/prometheus/prometheus.yml",
            "--storage.tsdb.path=/root/prometheus/data",
            f"--web.listen-address={PROMETHEUS}",
            "--log.level=error",
        ]
    )
    wait_until(lambda: fetch(control, PROMETHEUS, "/-/ready")[0] == 200, 30)
    wait_until(lambda: [each["value"][1] for each in ask(control, "up")] == ["1", "1", "1"], 60)
    wait_until(lambda: len(ask(control, "qmesh_findings_timestamp_seconds")) == 3, 90)
    wait_until(lambda: ask(control, 'qmesh_worker_up{machine="machine-c"} == 0'), 60)
    wait_until(lambda: ask(control, "count_over_time(wireguard_sent_bytes_total[1m]) > 2"), 30)
    assert [title for title, query in dashboard_queries().items() if not ask(control, query)] == []
    for expression in alert_expressions().values():
        ask(control, expression)
        assert [name for name in metrics_of(expression) if not ask(control, name)] == []
    waiting = 'ALERTS{alertname="QmeshWorkerSilent", machine="machine-c"}'
    wait_until(lambda: ask(control, waiting), 30)
    assert [
        each["metric"]["alertname"] for each in ask(control, 'ALERTS{alertname!="QmeshWorkerSilent"}')
    ] == []

    workers = start_workers(third, "8")
    wait_until(lambda: ask(control, 'qmesh_worker_up{machine="machine-c"} == 1'), 60)
    wait_until(lambda: not ask(control, waiting), 30)
    workers.kill_session()
    began = time.monotonic()
    taken = []
    firing = waiting.replace("}", ', alertstate="firing"}')
    for sought in ('qmesh_worker_up{machine="machine-c"} == 0', waiting, firing):
        wait_until(partial(ask, control, sought), 200)
        taken.append(f"{time.monotonic() - began:.0f}")
    with capsys.disabled():
        seconds = "{} s to the metric, {} s to the pending alert, {} s to the alert".format(*taken)
        print(f"\nfrom SIGKILL of a worker: {seconds}")  # noqa: T201 - figures that are asked for

    done = run_promtool("check", "metrics", text=qmesh(control, "metrics").stdout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    running.stop()
    for machine, _ in places:
        qmesh(machine, "set", "--metrics", "none")
