"""What the agent's unit leaves it is enough to see whose the node's sockets are, and to end what it asked.

The emulated machine tries the whole sandbox; here it is the capabilities, which the kernel asks for anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmesh.mesh.systemd.sandbox import render_agent_settings
from tests.support.checkout import CHECKOUT
from tests.support.waiting import patience

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

OWNER = 1001
LISTEN = """
import os, socket, sys
os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
words = [sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
with socket.create_server(("127.0.0.1", int(sys.argv[2]))) as kept:
    os.set_inheritable(kept.fileno(), True)
    os.execv(words[0], words)
"""
LOOK = """
import json, sys, time
from pathlib import Path
from qmesh.host.network.node_sockets import SocketObserver, SocketPorts
from qmesh.host.node_program.program_file import open_program
from qmesh.host.node_program.version_query import ask_version
ports, programs = json.loads(sys.argv[1]), sys.argv[2:]
seen = SocketObserver().observe_sockets(SocketPorts(tcp=frozenset(ports)))
owners = {each.port: each.process and each.process.number for each in seen.listening}
answers = []
for path in programs:
    with open_program(Path(path)) as program:
        answers.append(ask_version(program, 1001))
print(json.dumps({"owners": owners, "answers": answers}))
"""


def as_agent(*words: str) -> Any:
    """What a Python program says that has the agent's capabilities alone."""
    settings = re.findall("^CapabilityBoundingSet=(.*)$", render_agent_settings(), re.MULTILINE)
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in " ".join(settings).split())
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
def listening(user: int, port: int) -> Iterator[int]:
    """A program of a user that listens there; its process's number."""
    words = [sys.executable, "-c", LISTEN, str(user), str(port)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.kill()


def test_n2_the_agent_sees_whose_sockets_are_whoever_runs_the_node():
    users = {40000: OWNER, 40001: 0}  # root's has all capabilities, as where no unit of qmesh's starts it
    with contextlib.ExitStack() as stack:
        processes = {port: stack.enter_context(listening(user, port)) for port, user in users.items()}
        found = as_agent(LOOK, json.dumps(list(users)))
        assert found["owners"] == {str(port): number for port, number in processes.items()}


def test_the_agent_ends_a_program_that_it_asked_for_its_version():
    """It runs as another user, who is not to be left with it."""
    Path("/run").chmod(0o755)
    for name, line in (("node", "echo quil-node 2.1.0.25"), ("hangs", "echo; exec >&-; exec sleep 600")):
        program = Path("/run", name)
        program.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        program.chmod(0o755)
    found = as_agent(LOOK, "[]", "/run/node", "/run/hangs")
    assert found["answers"] == ["quil-node 2.1.0.25\n", "\n"]
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not any(b"sleep\x00600" in each for each in commands)
