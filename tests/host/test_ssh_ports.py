"""Where SSH listens, and whose a port is: so that nothing that is written into a user's file closes it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from qmesh.host.linux import Linux
from qmesh.host.network.ports import list_ports_of_others
from qmesh.host.network.ssh_ports import find_ssh_ports
from qmesh.host.state.documents import NodePorts

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

OWNER, OTHER, SYSTEMS = 1000, 1001, 110
PROGRAM = """\
import socket, sys
name, kind, what, port = sys.argv[1:]
open("/proc/self/comm", "w").write(name)
if what == "listens":
    here = socket.create_server(("127.0.0.1", int(port)))
elif what == "binds":
    here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    here.bind(("0.0.0.0", int(port)))
elif what == "is called":
    with socket.create_server(("127.0.0.1", int(port))) as server:
        far = socket.create_connection(("127.0.0.1", int(port)))
        here, _ = server.accept()
print("there", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def program(name: str, what: str, port: int, *, user: int = 0) -> Iterator[None]:
    """A program of that name and user that has a socket at a port."""
    command = [sys.executable, "-c", PROGRAM, name, "-", what, str(port)]
    with subprocess.Popen(
        command, user=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "there\n"
        yield
        running.communicate("")


def test_g2_ports_at_which_ssh_is_served_are_found():
    assert find_ssh_ports({2222, 8337}) == frozenset()
    with (
        program("sshd", "listens", 2222),
        program("node", "listens", 8337),
        program("dropbear", "listens", 2223),
    ):
        assert find_ssh_ports({2222, 2223, 8337}) == {2222, 2223}
        assert find_ssh_ports({8337}, with_sessions={2222}) == {2222}
        assert find_ssh_ports({8337, 22}) == frozenset()
    assert find_ssh_ports({2222, 2223, 8337}) == frozenset()


def test_g2_a_login_counts_where_its_server_is_down():
    with program("sshd-session", "is called", 2222):
        assert find_ssh_ports({2222}) == frozenset()
        assert find_ssh_ports((), with_sessions={2222, 80}) == {2222}
    with program("psql", "is called", 5432):
        assert find_ssh_ports((), with_sessions={5432}) == frozenset()


def test_what_a_user_calls_ssh_is_none():
    """Else he could keep a port open that the guard should close."""
    with program("sshd", "listens", 8447, user=OWNER):
        assert find_ssh_ports({8447}, with_sessions={8447}) == frozenset()


@pytest.mark.parametrize(
    ("what", "user", "is_others"),
    [
        ("listens", OWNER, False),
        ("binds", OWNER, False),
        ("listens", OTHER, True),
        ("listens", SYSTEMS, True),
        ("listens", 0, True),
        ("binds", SYSTEMS, True),
        ("binds", 0, True),
        ("is called", 0, True),
        # Anyone could have one there, beside the one who listens.
        ("binds", OTHER, False),
        ("is called", OTHER, False),
    ],
)
def test_g2_a_users_file_closes_no_port_of_others(state, what, user, is_others):
    state.node_ports.write(NodePorts(owner=OWNER, ports=(443, 8447, 8448)))
    here = Linux(state, "qmesh0", [])
    assert here.list_node_ports() == {8447, 8448}
    with program("anything", what, 8447, user=user):
        assert list_ports_of_others({8447, 8448}, OWNER) == ({8447} if is_others else set())
        assert here.list_node_ports() == ({8448} if is_others else {8447, 8448})


def test_roots_own_file_closes_what_it_says(state):
    state.node_ports.write(NodePorts(owner=0, ports=(443, 8447)))
    with program("nginx", "listens", 443, user=0), program("other", "listens", 8447, user=OTHER):
        assert Linux(state, "qmesh0", []).list_node_ports() == {443, 8447}


def test_a_machine_whose_node_was_never_looked_at_closes_nothing_for_it(state):
    assert Linux(state, "qmesh0", []).list_node_ports() == frozenset()
