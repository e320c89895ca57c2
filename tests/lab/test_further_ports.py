"""Ports besides workers' that a machine's guard closes, from the command to a packet that does not arrive."""

from __future__ import annotations

import json

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    checked,
    facts,
    make_cluster,
    qmesh,
    reached,
    refusal,
)
from tests.support.lab.machines import Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

GRPC, REST, EXPORTER, DATABASE, WEB = 8337, 8448, 9100, 5432, 443
PORTS = [GRPC, REST, EXPORTER, DATABASE, WEB]
SERVE = """\
import selectors, socket, sys
open("/proc/self/comm", "w").write("other")
found = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    found.register(socket.create_server(("0.0.0.0", port)), selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in found.select():
        key.fileobj.accept()[0].send(b"x")
"""


def serve(machine: Machine, ports: list[int]) -> None:
    machine.start(["python", "-c", SERVE, *map(str, ports)]).wait_for("ready")


def open_ports(machine: Machine) -> dict[int, str]:
    """The ports that `check` names as open, with the severity."""
    found = json.loads(machine.run(["qmesh", "check", "--json"], check=False).stdout)["findings"]
    return {int(each["subject"]): each["severity"] for each in found if each["code"] == "port-wide"}


def test_g1_further_ports_are_closed_but_for_whom_they_were_left(lab):
    control, b = make_cluster(lab)
    attacker = lab.machine("attacker", "192.168.0.66", "fd00:1a::66")
    serve(b, PORTS)
    assert reached(attacker, b.ipv4, PORTS) == PORTS
    assert open_ports(b) == dict.fromkeys(PORTS, "warning")
    (finding,) = [each for each in checked(b)["findings"] if each["subject"] == f"{WEB}"]
    assert finding["seen"].startswith("other listens on every address")

    facts(control, "set", "machine-b", "--guard-port", f"{DATABASE}")
    facts(control, "set", "machine-b", "--guard-port", f"{EXPORTER}", "--from", "control")
    facts(control, "set", "machine-b", "--leave-open", f"{WEB}")
    wait_until(lambda: reached(attacker, b.ipv4, PORTS) == [GRPC, REST, WEB], seconds=20)
    assert reached(control, "10.77.0.2", PORTS) == [EXPORTER]
    assert reached(b, b.ipv4, PORTS) == reached(b, "10.77.0.2", PORTS) == PORTS
    assert open_ports(b) == {GRPC: "warning", REST: "warning", WEB: "info"}
    wait_until(lambda: f"{EXPORTER}" in b.read("/proc/sys/net/ipv4/ip_local_reserved_ports"), seconds=20)

    # The node of 2.1, and what its own file opens on a worker's machine too.
    config = b.read(f"{CONFIG}/config.yml")
    b.write(f"{CONFIG}/config.yml", f"{config}listenRESTMultiaddr: /ip4/0.0.0.0/tcp/{REST}\n", 0o600)
    facts(control, "set", "--node", "2.1")
    wait_until(lambda: reached(attacker, b.ipv4, PORTS) == [WEB], seconds=30)
    assert reached(control, "10.77.0.2", PORTS) == [EXPORTER]
    assert reached(b, b.ipv4, PORTS) == PORTS
    assert open_ports(b) == {WEB: "info"}

    # What a loaded guard lacks of it is drift, and exposed.
    boot = b.read("/var/lib/qmesh/guard.nft")
    assert all(f" {port}" in boot for port in (GRPC, REST, EXPORTER, DATABASE))
    said = qmesh(b, "down").stderr
    assert (
        f"worker ports 32503-32506 stay closed, and so do ports {DATABASE}, 6600, {GRPC}-8338, {REST}" in said
    )
    assert reached(attacker, b.ipv4, PORTS) == [WEB]
    qmesh(b, "apply")

    # The other way round, and back.
    facts(control, "set", "machine-b", "--leave-open", f"{EXPORTER},{GRPC}", "--guard-port", f"{WEB}")
    wait_until(lambda: reached(attacker, b.ipv4, PORTS) == [GRPC, EXPORTER], seconds=20)
    facts(control, "set", "machine-b", "--leave-open", "none", "--guard-port", "none")
    wait_until(lambda: reached(attacker, b.ipv4, PORTS) == [EXPORTER, DATABASE, WEB], seconds=20)


def test_g2_ports_that_others_need_are_not_closed(lab):
    control, b = make_cluster(lab)
    before = facts(control, "status")["revision"]
    sshd = "import socket; open('/proc/self/comm', 'w').write('sshd'); s = socket.create_server(('', 2222))"
    for machine in (control, b):
        machine.start(
            ["python", "-c", f"{sshd}\nprint('ready', flush=True)\nwhile True: s.accept()[0].send(b'x')"]
        ).wait_for("ready")
    for port, why in (
        (22, "SSH's"),
        (51820, "WireGuard's"),
        (325, "members reach qmesh"),
        (2222, "SSH listens"),
    ):
        said = refusal(control, "set", "control", "--guard-port", f"9100,{port}", code=2)
        assert f"port {port} of control cannot be closed" in said
        assert why in said
    assert "is a worker's" in refusal(control, "set", "machine-b", "--guard-port", "40003", code=2)
    assert "it is WireGuard's" in refusal(control, "set", "machine-b", "--guard-port", "51820", code=2)
    facts(control, "set", "--metrics", "10.77.0.1:9586")
    shared = ("set", "control", "--guard-port", "9586", "--from", "mesh")
    assert "members must not have them" in refusal(control, *shared, code=2)
    assert "no port is given" in refusal(control, "set", "machine-b", "--from", "mesh", code=2)
    assert "for one machine" in refusal(control, "set", "--leave-open", "80", code=2)
    assert "not a list of ports" in refusal(control, "set", "machine-b", "--guard-port", "ssh", code=2)
    assert facts(control, "status")["revision"] == before

    # Where SSH listens on another machine, only that one knows.
    facts(control, "set", "machine-b", "--guard-port", "2222,9100")
    wait_until(lambda: " 9100" in b.read("/var/lib/qmesh/guard.nft"), seconds=20)
    assert reached(control, b.ipv4, [2222]) == [2222]
    assert [each["code"] for each in checked(b)["findings"] if each["subject"] == "2222"] == [
        "port-not-guarded"
    ]
