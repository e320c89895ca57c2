"""What `status` and `check` take on the control node of many machines with many workers, all of which answer.

Each machine has a tunnel and each worker a connection to the control process, as those of node 2.1 do. All of
them share the processors of the one that is measured, so that to dial all workers takes longer than is asked.
"""

from __future__ import annotations

import base64
import json
import statistics
from typing import Final

import msgspec
from benchmarks.measuring import Figure
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.support.lab.cluster import AGENT, CONFIG, STATE, facts, make_control, qmesh
from tests.support.lab.machines import TOOLS, Lab, Machine
from tests.support.lab.programs.many_members import Crowd, Member
from tests.support.waiting import wait_until

MOST_S: Final = {"status": 0.3, "check": 0.5}
FIRST_PORT: Final = 51000
WORKERS: Final = "/root/workers.json"
ANNOUNCED: Final = "9.9.9.9"
NODE_CONFIG: Final = f"""\
p2p:
  peerPrivKey: {"ab" * 114}
key:
  keyManagerFile:
    encryptionKey: {"ab" * 32}
"""
ADD: Final = """
import json, sqlite3, sys
registry = sqlite3.connect(sys.argv[1])
with registry:
    registry.executemany(
        "INSERT INTO machines"
        " (name, public_key, address, place, workers, state, endpoints, preshared_key, options)"
        " VALUES (?, ?, ?, ?, ?, 'active', ?, ?, ?)",
        json.load(sys.stdin),
    )
"""
NODE: Final = """
import resource, selectors, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
hub = socket.create_server(("0.0.0.0", 8340), backlog=4096)
quic = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
quic.bind(("0.0.0.0", 8336))
workers = [socket.create_server((sys.argv[1], int(port))) for port in sys.argv[2:]]
selector, kept = selectors.DefaultSelector(), [quic]
for each in (hub, *workers):
    selector.register(each, selectors.EVENT_READ)
kept += [socket.create_connection(("127.0.0.1", 8340)) for _ in workers]
print("ready", flush=True)
while True:
    for key, _ in selector.select():
        called, _ = key.fileobj.accept()
        if key.fileobj is hub:
            kept.append(called)
        else:
            called.close()
"""
DIAL: Final = """
import json, select, socket, sys
whereto, under_way, ready = json.load(open(sys.argv[1])), {}, select.epoll()
while whereto or under_way:
    while whereto and len(under_way) < 100:
        each = socket.socket()
        each.setblocking(False)
        each.connect_ex(tuple(whereto.pop()))
        under_way[each.fileno()] = each
        ready.register(each, select.EPOLLOUT)
    for number, _ in ready.poll():
        under_way.pop(number).close()
"""
MEASURE: Final = """
import json, os, subprocess, sys, time
words = {
    "command": ["qmesh", sys.argv[2], "--json"],
    "typer": [sys.executable, "-c", "import typer"],
    "dial": [sys.executable, "-I", "-S", "-c", sys.argv[3], sys.argv[4]],
}
found, said = {name: [] for name in words}, {}
for _ in range(int(sys.argv[1])):
    for name in words:
        began = time.monotonic()
        with subprocess.Popen(words[name], stdout=subprocess.PIPE) as command:
            said[name] = command.stdout.read()
            _, status, used = os.wait4(command.pid, 0)
            command.returncode = os.waitstatus_to_exitcode(status)
        took = time.monotonic() - began
        found[name].append((took, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6))
print(json.dumps([found["command"], found["typer"], found["dial"], json.loads(said["command"])]))
"""


def figures(machines: int, each: int, runs: int) -> list[Figure]:
    """So many machines with so many workers each, the control node among them."""
    with Lab() as lab:
        control = make_control(lab, "--node", "2.1-rust", workers=each)
        there = lab.machine("members", "192.168.0.201")
        crowd = add_members(control, there, machines - 1, each)
        ports = facts(control, "status")["machines"][0]["ports"]
        node = control.start(["python", "-c", NODE, crowd.control, *map(str, ports)])
        node.wait_for("ready", timeout=30)
        text = msgspec.json.encode(crowd).decode()
        running = there.start(["python", TOOLS / "many_members.py"], input=text)
        running.wait_for("ready", timeout=300)
        wait_until(lambda: count_alive(control) == machines * each, 120)
        workers = [(member.address, port) for member in crowd.members for port in member.ports]
        control.write(WORKERS, json.dumps(workers))
        size = f"{machines} machines, {machines * each:,} workers"
        return [figure for name in MOST_S for figure in measure(control, name, runs, size)]


def add_members(control: Machine, there: Machine, count: int, each: int) -> Crowd:
    """Have the control node know them, as after as many joins; what they have to know."""
    qmesh(control, "set", "control", "--announce", ANNOUNCED)
    control.kill(AGENT)
    control.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    control.write(f"{CONFIG}/keys.yml", "mine: key\n", 0o600)
    members, rows = [], []
    known = facts(control, "status")["machines"][0]
    for number in range(1, count + 1):
        private, shared = X25519PrivateKey.generate(), X25519PrivateKey.generate().private_bytes_raw()
        address = f"10.77.{(number + 1) >> 8}.{(number + 1) & 255}"
        endpoints = json.dumps([{"host": there.ipv4, "port": FIRST_PORT + number}])
        options = json.dumps({"announce": f"9.9.{(number + 1) >> 8}.{(number + 1) & 255}"})
        preshared = base64.b64encode(shared).decode()
        public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
        rows.append((f"worker-{number}", public, address, number + 1, each, endpoints, preshared, options))
        own = base64.b64encode(private.private_bytes_raw()).decode()
        members.append(Member(address, own, preshared, FIRST_PORT + number, ()))
    control.run(["python", "-c", ADD, f"{STATE}/mesh.db"], input=json.dumps(rows))
    qmesh(control, "render-config", "--write", "--config", CONFIG)
    qmesh(control, "apply")
    listed = {found["address"]: found["ports"] for found in facts(control, "status")["machines"]}
    return Crowd(
        control=known["address"],
        control_key=known["public_key"],
        endpoint=control.ipv4,
        endpoint_port=51820,
        stream_port=8340,
        members=tuple(
            msgspec.structs.replace(member, ports=tuple(listed[member.address])) for member in members
        ),
    )


def count_alive(control: Machine) -> int:
    """The workers that `status` counts as alive."""
    return sum(found["workers"]["alive"] for found in facts(control, "status")["machines"])


def measure(control: Machine, name: str, runs: int, size: str) -> list[Figure]:
    """The command as somebody types it: by the clock, of processors, and its memory."""
    said = control.run(["python", "-c", MEASURE, str(runs), name, DIAL, WORKERS], timeout=300).stdout
    taken, of_typer, of_dialling, answer = json.loads(said)
    errors = [found for found in answer.get("findings", ()) if found["severity"] == "error"]
    errors = [found for found in errors if found["code"] != "service-silent"]  # no agent runs there
    assert not errors, errors[:3]
    wall, processor = (statistics.median(one[place] for one in taken) for place in (0, 1))
    floor, least = (statistics.median(one[place] for one in of_typer) for place in (0, 1))
    dialled = statistics.median(one[0] for one in of_dialling)
    most = MOST_S[name]
    work = f"`qmesh {name}`, beside `import typer`"
    return [
        Figure(work, size, wall, floor, "s", f"< {most} s", wall < most),
        Figure("the same, beside workers dialled and nothing else", size, wall, dialled, "s", "", None),
        Figure("the same, of processors", size, processor, least, "s", "", None),
        Figure("the same, memory", size, max(one[2] for one in taken), None, "MB", "", None),
    ]
