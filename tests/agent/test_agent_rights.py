"""What the agent's unit leaves it is enough to see whose the node's sockets are, and to end what it asked.

The emulated machine tries the whole sandbox; here it is the capabilities, which the kernel asks for anywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmesh.agent.commands.check import check
from qmesh.host.state.directory import State
from qmesh.mesh.systemd.sandbox import render_agent_settings
from tests.support.checkout import CHECKOUT
from tests.support.control_node import make_control_node
from tests.support.node_identity import IDENTITY, KEY_STORE
from tests.support.processes import read_of_each
from tests.support.receivers import receiving
from tests.support.waiting import patience

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

OWNER = 1001
NOBODY = 65534
"""The group of a user that this machine has no line of."""
LISTEN = """
import os, socket, sys
os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
named = "import sys; open('/proc/self/comm', 'w').write(sys.argv[1]); print('ready', flush=True); "
words = [sys.executable, "-c", f"{named}sys.stdin.read()", sys.argv[3]]
with socket.create_server(("", int(sys.argv[2]))) as kept:
    os.set_inheritable(kept.fileno(), True)
    os.execv(words[0], words)
"""
LOOK = """
import json, sys, time
from pathlib import Path
from qmesh.host.network.sockets.node_sockets import SocketObserver, SocketPorts
from qmesh.host.network.ssh_ports import find_ssh_ports
from qmesh.host.system.processes import can_see_descriptors
from qmesh.host.node_program.program_file import open_program
from qmesh.host.node_program.version_query import ask_version
ports, programs = json.loads(sys.argv[1]), sys.argv[2:]
seen = SocketObserver().observe_sockets(SocketPorts(tcp=frozenset(ports)))
owners = {each.port: each.process and each.process.number for each in seen.listening}
answers = []
for path in programs:
    with open_program(Path(path)) as program:
        answers.append(ask_version(program, 1001))
found = {"owners": owners, "answers": answers, "ssh": sorted(find_ssh_ports(ports))}
print(json.dumps({**found, "sees": can_see_descriptors()}))
"""


FACTS = """
import json, sys
from pathlib import Path
from qmesh.host.machine_facts import hardware
from qmesh.host.machine_facts.core_speed import measure_core_speed
from qmesh.host.machine_facts.program_digest import ProgramDigest
digest = ProgramDigest()
digest.take_step(Path(sys.argv[1]), 1001)
memory, available = hardware.read_memory()
found = {"digest": digest.value, "worker": hardware.read_own_memory(int(sys.argv[2])), "memory": memory}
found |= {"available": available, "nft": hardware.read_nft_version(), "speed": measure_core_speed(0.01)}
print(json.dumps(found))
"""


CHECK = """
import json, sys
from pathlib import Path
from qmesh.agent.commands.check import check
from qmesh.host.state.directory import State
found = check(State(Path(sys.argv[1]))).findings
print(json.dumps([[each.code, each.subject, each.seen] for each in found]))
"""


def as_agent(*words: str, but: str = "") -> Any:
    """What a Python program says that has the agent's capabilities alone. but: for one of them."""
    settings = re.findall("^CapabilityBoundingSet=(.*)$", render_agent_settings(), re.MULTILINE)
    names = set(" ".join(settings).split()) - {but}
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in sorted(names))
    rights = ["setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{kept}"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [*rights, sys.executable, "-c", *words],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        timeout=patience(60),
    )
    return json.loads(done.stdout)


@contextlib.contextmanager
def listening(user: int, port: int, name: str) -> Iterator[int]:
    """A program of a user, with that name, that listens there; its process's number."""
    words = [sys.executable, "-c", LISTEN, str(user), str(port), name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.kill()


def test_g2_n2_the_agent_sees_whose_sockets_are_whoever_runs_the_program():
    # Root's has all capabilities, as where no unit of qmesh's starts it.
    programs = {40000: (OWNER, "node"), 40001: (0, "node"), 2222: (0, "sshd")}
    with contextlib.ExitStack() as stack:
        processes = {
            port: stack.enter_context(listening(user, port, name)) for port, (user, name) in programs.items()
        }
        found = as_agent(LOOK, json.dumps(list(programs)))
        older = as_agent(LOOK, json.dumps(list(programs)), but="CAP_SYS_PTRACE")
    assert found["owners"] == {str(port): number for port, number in processes.items()}
    assert found["ssh"] == [2222], "the guard closes no port that SSH is served at"
    assert found["sees"]
    # So it would be by the unit of an earlier version, which the agent's log says.
    assert (set(older["owners"].values()), older["ssh"], older["sees"]) == ({None}, [], False)


def test_n3_the_agent_sees_what_its_machine_has_and_runs_whoever_runs_it():
    Path("/run").chmod(0o755)
    program = Path("/run/node-2.1.0.25")
    program.write_bytes(b"program")
    os.chown(program, OWNER, OWNER)
    program.chmod(0o700)
    with listening(OWNER, 40000, "node") as number:
        found = as_agent(FACTS, str(program), str(number))
    assert found["digest"] == hashlib.sha3_256(b"program").hexdigest()
    assert found["worker"] > 1_000_000
    assert found["memory"] > found["available"] > 0
    assert found["nft"].count(".") == 2
    assert found["speed"] > 100


def test_the_agent_ends_a_program_that_it_asked_for_its_version():
    """It runs as another user, who is not to be left with it."""
    Path("/run").chmod(0o755)
    for name, line in (("node", "echo quil-node 2.1.0.25"), ("hangs", "echo; exec >&-; exec sleep 600")):
        program = Path("/run", name)
        program.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        program.chmod(0o755)
    found = as_agent(LOOK, "[]", "/run/node", "/run/hangs")
    assert found["answers"] == ["quil-node 2.1.0.25\n", "\n"]
    assert not any("sleep\x00600" in words for _, words in read_of_each("cmdline"))


def test_the_agent_finds_what_check_finds_that_root_types():
    """The control node has members' agents run it (`check --all`)."""
    Path("/run").chmod(0o755)
    config = Path("/run/alice/.config")
    config.mkdir(parents=True)
    (config / "config.yml").write_text(IDENTITY, encoding="utf-8")
    (config / "keys.yml").write_text(KEY_STORE, encoding="utf-8")
    for path in (config.parent, config, config / "config.yml", config / "keys.yml"):
        os.chown(path, OWNER, OWNER)
        path.chmod(0o700 if path.is_dir() else 0o600)
    state = State(Path("/run/state"))
    make_control_node(state, node="2.1-rust", config=config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(listening(0, 2222, "sshd"))
        stack.enter_context(listening(OWNER, 7000, "node"))
        found = as_agent(CHECK, str(state.directory))
        typed = [[each.code, each.subject, each.seen] for each in check(state).findings]
    assert found == typed
    assert not [each for each in found if each[0] == "check-failed"]
    # Whose a port is, the kernel shows to few.
    assert any(code == "port-wide" and "node" in seen for code, _, seen in found)


TELL = """
import http.client, json, os, stat, sys
from pathlib import Path
from qmesh.errors import QmeshError
from qmesh.host.metrics.http_server import MetricsServer
from qmesh.host.metrics.public_file import replace_public_file
from qmesh.mesh.values import Endpoint
directory, text = Path(sys.argv[1]), b"qmesh_x 1\\n"
found = {}
try:
    replace_public_file(directory, "qmesh.prom", text)
    status = (directory / "qmesh.prom").stat()
    found["file"] = [status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)]
except QmeshError as error:
    found["file"] = error.message
try:
    # A privileged port, on one interface alone.
    server = MetricsServer(Endpoint("127.0.0.1", 586), interface="lo", render=lambda: text, may_read=bool)
    server.start()
    asking = http.client.HTTPConnection("127.0.0.1", 586, timeout=30)
    asking.request("GET", "/metrics")
    found["served"] = asking.getresponse().read().decode()
    server.stop()
except QmeshError as error:
    found["served"] = error.message
print(json.dumps(found))
"""


def test_the_agent_hands_out_its_metrics_in_each_way_with_its_rights():
    """The directory is node_exporter's user's, and nobody else enters it."""
    directory = Path("/run/prometheus/node-exporter")
    directory.mkdir(parents=True)
    for path in (directory.parent, directory):
        os.chown(path, OWNER, OWNER)
        path.chmod(0o700)
    found = as_agent(TELL, str(directory))
    assert found == {"file": [OWNER, NOBODY, 0o644], "served": "qmesh_x 1\n"}
    # Each of these is needed.
    assert "cannot take the rights of user" in as_agent(TELL, str(directory), but="CAP_SETUID")["file"]
    assert "Permission denied" in as_agent(TELL, str(directory), but="CAP_NET_BIND_SERVICE")["served"]


READERS = """
import json, socket
from qmesh.host.readers.place import DIRECTORY, SOCKET, ReaderPlace
from qmesh.host.readers.server import read_caller
place = ReaderPlace(3001)
with socket.socket(socket.AF_UNIX) as calling:
    calling.connect(str(DIRECTORY / SOCKET))
    caller = read_caller(place.listening.accept()[0])
print(json.dumps([place.is_whole, caller.user, 0 in caller.groups]))
"""


def test_the_agent_may_give_a_directory_to_a_group_and_see_who_calls():
    assert as_agent(READERS) == [True, 0, True]


HEAR = """
import json, socket
from qmesh.host.wireguard.initiations import InitiationReceiver
from tests.support.waiting import comes_true
begins, heard = b"\\1" + bytes(147), []
with InitiationReceiver(51820) as hearing, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
    sending.sendto(begins, ("127.0.0.1", 51820))
    comes_true(lambda: heard.extend(hearing.receive_messages()) or heard, 5)
print(json.dumps(heard == [begins]))
"""


def test_the_agent_hears_what_begins_a_handshake():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    assert as_agent(HEAR)


NOTIFY = """
import json, sys
from qmesh.host.notifications.delivery import run_program, send_by_http
from qmesh.mesh.notifications.formats import Request
from qmesh.mesh.notifications.url import parse_web_url
url = parse_web_url(sys.argv[1])
request = Request(url.scheme, url.host, url.port, url.path, {}, "{}")
print(json.dumps([send_by_http(request, url).text, run_program(sys.argv[2], "{}").text]))
"""


def test_the_agent_tells_receivers_with_its_rights():
    """A program of root's that only root may read, and that is ended with what it has left behind."""
    hooks = Path("/run/hooks")
    hooks.mkdir(mode=0o700)
    program = hooks / "tell"
    program.write_text("#!/bin/sh\ncat >/run/told\nsleep 600 &\n", encoding="utf-8")
    program.chmod(0o700)
    with receiving() as receiver:
        found = as_agent(NOTIFY, f"http://127.0.0.1:{receiver.port}/x", str(program))
    assert found == ["delivered: 200 OK", "delivered: it ended with code 0"]
    assert Path("/run/told").read_text(encoding="utf-8") == "{}"
    assert not any("sleep\x00600" in words for _, words in read_of_each("cmdline"))
